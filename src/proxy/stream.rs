pub mod handshake_memory;
pub mod pipe;
pub mod prefixed_io;
pub mod relay_memory;
pub mod undelivered;
pub mod with_preamble;

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::undelivered::undelivered;
use crate::tcp::TcpSocket;

/// A TCP connection that is reset on drop, unless it ended cleanly before.
///
/// After any failure (a refusal, a timeout, a cancelled or panicking task), an interrupted transfer never looks
/// complete to the peer.
#[derive(Debug)]
pub struct Stream {
    tcp: TcpSocket,
    clean: bool,
}

impl Stream {
    pub fn new(tcp: TcpSocket) -> Self {
        Self { tcp, clean: false }
    }

    pub fn tcp(&self) -> &TcpSocket {
        &self.tcp
    }

    /// Marks the connection as complete: closing it is a clean end.
    pub fn ended_cleanly(&mut self) {
        self.clean = true;
    }

    /// True if the peer has reset the connection or died, even if no read or write has failed yet.
    pub fn has_failed(&self) -> bool {
        // POLLERR alone: POLLHUP is also set when both sides have ended cleanly.
        self.has(PollFlags::ERR)
    }

    /// True if the peer has ended its direction or the connection.
    pub fn peer_has_ended(&self) -> bool {
        self.has(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
    }

    /// True if any of these flags is set now.
    fn has(&self, any: PollFlags) -> bool {
        let mut asked = [PollFd::new(&self.tcp, any)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut asked, Some(&now)).is_ok() && asked[0].revents().intersects(any)
    }

    /// Bytes that were written and have not arrived.
    pub fn undelivered(&self) -> usize {
        undelivered(&self.tcp)
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.clean {
            // Fails only for a socket that is already closed.
            let _ = self.tcp.set_zero_linger();
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
