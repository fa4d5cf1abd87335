use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A peer that sends its bytes in pieces of the given sizes (cyclic, each at least 1), then ends or stays silent.
pub struct Script<'a> {
    pub unread: &'a [u8],
    sizes: Vec<usize>,
    reads: usize,
    pub written: Vec<u8>,
    is_silent: bool,
}

impl<'a> Script<'a> {
    pub fn new(bytes: &'a [u8], sizes: &[usize]) -> Self {
        let sizes = sizes.iter().map(|size| (*size).max(1)).collect();
        Self { unread: bytes, sizes, reads: 0, written: Vec::new(), is_silent: false }
    }

    /// Makes the peer neither send more nor end after its bytes.
    pub fn then_silent(mut self) -> Self {
        self.is_silent = true;
        self
    }
}

impl AsyncRead for Script<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unread.is_empty() && self.is_silent {
            return Poll::Pending;
        }
        let size = self.sizes[self.reads % self.sizes.len()];
        self.reads += 1;
        let (now, later) = self.unread.split_at(size.min(buffer.remaining()).min(self.unread.len()));
        buffer.put_slice(now);
        self.unread = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script<'_> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
