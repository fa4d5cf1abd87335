pub mod handshake_memory;
pub mod pipe;
pub mod prefixed_io;
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

/// A TCP connection that is reset when it is dropped, unless it was ended cleanly before.
///
/// So whatever goes wrong (a refusal, a timeout, a cancelled or panicking task), a transfer that was cut never looks
/// complete to the other side.
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

    /// Everything that was to be said has been: closing is an ordinary end.
    pub fn ended_cleanly(&mut self) {
        self.clean = true;
    }

    /// Whether the peer has reset the connection, or died, and no read or write has met that yet.
    pub fn has_failed(&self) -> bool {
        // POLLERR alone: POLLHUP comes for a connection that both sides have ended cleanly, too.
        self.has(PollFlags::ERR)
    }

    /// Whether the peer has ended its direction, or all.
    pub fn peer_has_ended(&self) -> bool {
        self.has(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
    }

    /// Whether any of these is so now.
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
            // Fails only for a socket that is gone already.
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
