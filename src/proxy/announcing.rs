use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::proxy_protocol::EncodedHeader;

/// A stream that a PROXY header goes ahead on: together with the first bytes that are written, for a packet of its own
/// costs about as much as a message, or alone when it is flushed or ended before there are any.
///
/// Reads are the stream's own. Once the header is sent nothing is held for it.
#[derive(Debug)]
pub struct Announcing<S> {
    /// Boxed, so that a connection without a header has no room for one.
    unsent: Option<Box<Unsent>>,
    stream: S,
}

#[derive(Debug)]
struct Unsent {
    header: EncodedHeader,
    written: usize,
}

impl<S> Announcing<S> {
    pub fn new(header: Option<EncodedHeader>, stream: S) -> Self {
        Self { unsent: header.map(|header| Box::new(Unsent { header, written: 0 })), stream }
    }

    /// The stream, once the header is sent.
    pub fn announced(&self) -> Option<&S> {
        self.unsent.is_none().then_some(&self.stream)
    }

    pub fn get_mut(&mut self) -> &mut S {
        &mut self.stream
    }
}

impl<S: AsyncWrite + Unpin> Announcing<S> {
    /// Writes what is left of the header, and says how many of the `bytes` behind it went with it.
    fn poll_announce(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        while let Some(unsent) = &mut self.unsent {
            let left = &unsent.header.as_bytes()[unsent.written..];
            let slices = [IoSlice::new(left), IoSlice::new(bytes)];
            let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &slices))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            match written.checked_sub(left.len()) {
                None => unsent.written += written,
                Some(of_bytes) => {
                    self.unsent = None;
                    return Poll::Ready(Ok(of_bytes));
                }
            }
        }
        Poll::Ready(Ok(0))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Announcing<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Announcing<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match ready!(self.poll_announce(cx, bytes))? {
            0 => Pin::new(&mut self.stream).poll_write(cx, bytes),
            of_bytes => Poll::Ready(Ok(of_bytes)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_announce(cx, &[]))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_announce(cx, &[]))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::{super::proxy_protocol::encode, *};
    use crate::model::ProxyVersion;

    const HEADER: &str = "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n";

    /// Takes so much at once, and remembers each write.
    struct Packets {
        size: usize,
        written: Vec<String>,
    }

    impl AsyncWrite for Packets {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let count = bytes.len().min(self.size);
            self.written.push(String::from_utf8(bytes[..count].to_vec()).unwrap());
            Poll::Ready(Ok(count))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.poll_write(cx, &slices.iter().flat_map(|slice| slice.to_vec()).collect::<Vec<_>>())
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.written.push("the end".into());
            Poll::Ready(Ok(()))
        }
    }

    fn announcing(size: usize) -> Announcing<Packets> {
        let header = encode(ProxyVersion::V1, "192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap());
        Announcing::new(Some(header), Packets { size, written: Vec::new() })
    }

    #[tokio::test]
    async fn the_header_goes_with_the_first_bytes() {
        let mut stream = announcing(1000);
        assert!(stream.announced().is_none());
        stream.write_all(b"hello").await.unwrap();
        assert!(stream.announced().is_some());
        stream.write_all(b"world").await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(stream.stream.written, [format!("{HEADER}hello"), "world".into()]);
    }

    #[tokio::test]
    async fn without_bytes_the_header_goes_alone_and_before_the_end() {
        let mut silent = announcing(1000);
        silent.flush().await.unwrap();
        silent.write_all(b"hello").await.unwrap();
        assert_eq!(silent.stream.written, [HEADER, "hello"]);

        let mut ended = announcing(1000);
        ended.shutdown().await.unwrap();
        assert_eq!(ended.stream.written, [HEADER, "the end"]);
    }

    #[tokio::test]
    async fn header_and_bytes_arrive_in_order_whatever_is_taken_at_once() {
        for size in 1..HEADER.len() + 10 {
            let mut stream = announcing(size);
            stream.write_all(b"hello").await.unwrap();
            assert_eq!(stream.stream.written.concat(), format!("{HEADER}hello"), "{size} at once");
        }
    }
}
