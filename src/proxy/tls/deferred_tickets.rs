use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxy::stream::{
    handshake_memory::{Charge, HANDSHAKE_MEMORY},
    with_preamble::WithPreamble,
};

/// The content type of encrypted records (RFC 8446, section 5.2).
const APPLICATION_DATA: u8 = 23;

/// The stream below a TLS server. The session tickets at the end of a TLS 1.3 handshake are deferred and sent with the
/// first data: a separate packet costs about as much as a message, and no client waits for tickets. BoringSSL does the
/// same.
///
/// Tickets are recognised by their position: everything else that a server sends in a handshake begins with a record
/// that is not encrypted.
#[derive(Debug)]
pub struct DeferredTickets<S> {
    handshake: Option<Handshake>,
    stream: WithPreamble<S>,
}

#[derive(Debug)]
struct Handshake {
    /// True if the next bytes to be written begin a record.
    between_records: bool,
    /// The number of received bytes, which the TLS library may hold until the handshake is done.
    read: usize,
    charge: Option<Charge>,
}

impl<S> DeferredTickets<S> {
    pub fn new(stream: S) -> Self {
        Self {
            handshake: Some(Handshake { between_records: true, read: 0, charge: None }),
            stream: WithPreamble::new(None, stream),
        }
    }

    /// Marks the handshake as done: the next writes are data.
    pub fn handshake_done(&mut self) {
        self.handshake = None;
    }

    pub fn get_mut(&mut self) -> &mut S {
        self.stream.get_mut()
    }
}

impl<S: AsyncWrite + Unpin> DeferredTickets<S> {
    /// Writes the deferred bytes.
    pub fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_send(cx, &[]).map_ok(drop)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for DeferredTickets<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if let Some(handshake) = &mut self.handshake {
            handshake.read += buffer.filled().len() - before;
            HANDSHAKE_MEMORY.cover(&mut handshake.charge, handshake.read)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for DeferredTickets<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let Some(handshake) = &mut this.handshake else {
            return Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        };
        let mut bytes = slices.iter().flat_map(|slice| slice.iter()).copied().peekable();
        if handshake.between_records && bytes.peek() == Some(&APPLICATION_DATA) {
            let tickets: Box<[u8]> = bytes.collect();
            let length = tickets.len();
            ready!(this.poll_send(cx))?;
            this.stream.set_preamble(tickets);
            return Poll::Ready(Ok(length));
        }
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, slices))?;
        handshake.between_records = written == length;
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Keeps the deferred bytes.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream.get_mut()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::proxy::stream::with_preamble::tests::PartialWriter;

    const HELLO: &str = "\x16hello\x17encrypted";
    const TICKETS: &str = "\x17tickets";

    fn written(stream: &DeferredTickets<PartialWriter>) -> &[String] {
        &stream.stream.sent().unwrap().written
    }

    async fn after_handshake(size: usize) -> DeferredTickets<PartialWriter> {
        let mut stream = DeferredTickets::new(PartialWriter { size, written: Vec::new() });
        stream.write_all(HELLO.as_bytes()).await.unwrap();
        stream.write_all(TICKETS.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        stream.handshake_done();
        assert_eq!(stream.get_mut().written.concat(), HELLO, "{size} at once");
        stream
    }

    #[tokio::test]
    async fn tickets_go_with_the_first_data_with_writes_of_any_size() {
        for size in 1..40 {
            let mut stream = after_handshake(size).await;
            stream.write_all(b"\x17data").await.unwrap();
            stream.write_all(b"\x17more").await.unwrap();
            assert_eq!(written(&stream).concat(), [HELLO, TICKETS, "\x17data\x17more"].concat(), "{size} at once");
        }
        let mut stream = after_handshake(1000).await;
        stream.write_all(b"\x17data").await.unwrap();
        assert_eq!(written(&stream)[1], [TICKETS, "\x17data"].concat(), "in one packet");
    }

    #[tokio::test]
    async fn without_data_they_go_before_the_end() {
        let mut stream = after_handshake(1000).await;
        stream.shutdown().await.unwrap();
        assert_eq!(written(&stream)[1..], [TICKETS, "the end"]);
    }

    #[tokio::test]
    async fn data_is_never_held_up() {
        // A handshake of TLS 1.2 ends with a record that is not encrypted.
        let mut stream = DeferredTickets::new(PartialWriter { size: 1000, written: Vec::new() });
        stream.write_all(b"\x16hello").await.unwrap();
        stream.write_all(b"\x16finished").await.unwrap();
        stream.handshake_done();
        stream.write_all(b"\x17data").await.unwrap();
        assert_eq!(written(&stream).concat(), "\x16hello\x16finished\x17data");
    }
}
