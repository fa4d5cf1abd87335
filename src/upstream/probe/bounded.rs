use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::shortage::ShortageRecord;

/// The maximum size of an answer; valid answers are smaller.
const MOST: usize = 64 << 10;

/// A stream that fails once the peer has sent too much, which bounds the memory and time of an answer. It records
/// shortages of this host.
pub(super) struct Bounded<S> {
    stream: S,
    left: usize,
    shortage: ShortageRecord,
}

impl<S> Bounded<S> {
    pub fn new(stream: S, shortage: ShortageRecord) -> Self {
        Self { stream, left: MOST, shortage }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::Error::other(format!("the answer has more than {} KiB", MOST >> 10))));
        }
        let most = buffer.remaining().min(self.left);
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part));
        read.map_err(|error| self.shortage.recorded(error))?;
        let count = part.filled().len();
        buffer.advance(count);
        self.left -= count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        written.map_err(|error| self.shortage.recorded(error))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        flushed.map_err(|error| self.shortage.recorded(error))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = Pin::new(&mut self.stream).poll_shutdown(cx);
        ended.map_err(|error| self.shortage.recorded(error))
    }
}
