use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::handshake_memory::Charge;

/// A stream with a prefix of bytes that were read too early: reads return the prefix first.
///
/// Writes go directly to the stream. Once the prefix is replayed, its memory is freed.
#[derive(Debug)]
pub struct PrefixedIo<S> {
    prefix: Vec<u8>,
    replayed: usize,
    /// The charge for the memory of the prefix.
    charge: Option<Charge>,
    stream: S,
}

impl<S> PrefixedIo<S> {
    pub fn new(prefix: Vec<u8>, stream: S) -> Self {
        Self { prefix, replayed: 0, charge: None, stream }
    }

    /// The bytes that are still to be replayed.
    fn prefix(&self) -> &[u8] {
        &self.prefix[self.replayed..]
    }

    /// The stream, once the prefix is replayed.
    pub fn replayed_all(&self) -> Option<&S> {
        self.prefix.is_empty().then_some(&self.stream)
    }

    /// Puts the last bytes that were read back in front of the stream.
    pub fn unread(&mut self, mut bytes: Vec<u8>) {
        bytes.extend_from_slice(self.prefix());
        (self.prefix, self.replayed) = (bytes, 0);
    }

    /// Keeps the charge until everything is replayed.
    pub fn charge(&mut self, charge: Option<Charge>) {
        self.charge = charge;
    }

    pub fn get_mut(&mut self) -> &mut S {
        &mut self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PrefixedIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let length = self.prefix().len().min(buffer.remaining());
        buffer.put_slice(&self.prefix()[..length]);
        self.replayed += length;
        if self.replayed == self.prefix.len() {
            (self.prefix, self.charge) = (Vec::new(), None);
            self.replayed = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PrefixedIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn bytes_read_too_early_come_before_those_of_the_stream() {
        let (near, mut far) = duplex(64);
        far.write_all(b" world").await.unwrap();
        let mut stream = PrefixedIo::new(b"hello".to_vec(), near);

        let mut first = [0; 2];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!((&first, stream.prefix()), (b"he", &b"llo"[..]));

        drop(far);
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "llo world");
        assert_eq!(stream.prefix.capacity(), 0);
    }

    #[tokio::test]
    async fn unread_bytes_stay_to_be_replayed() {
        let mut stream = PrefixedIo::new(b"hello".to_vec(), tokio::io::empty());
        stream.read_exact(&mut [0; 2]).await.unwrap();
        assert_eq!(stream.prefix(), b"llo");
    }

    #[tokio::test]
    async fn bytes_can_be_put_back_at_any_time() {
        let mut stream = PrefixedIo::new(b"hello".to_vec(), &b" world"[..]);
        let mut first = [0; 2];
        stream.read_exact(&mut first).await.unwrap();
        stream.unread(first.to_vec());
        stream.unread(b"oh, ".to_vec());
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "oh, hello world");
        stream.unread(Vec::new());
        assert!(stream.replayed_all().is_some());
    }

    #[tokio::test]
    async fn writes_go_to_the_stream() {
        let (near, mut far) = duplex(64);
        let mut stream = PrefixedIo::new(b"unread".to_vec(), near);
        stream.write_all(b"greeting").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut received = String::new();
        far.read_to_string(&mut received).await.unwrap();
        assert_eq!(received, "greeting");
    }
}
