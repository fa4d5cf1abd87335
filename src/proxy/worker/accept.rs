use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use rustix::{io::Errno, net::SocketFlags};
use tracing::{info, warn};

/// Accepts a waiting connection, independent of the event loop's readiness.
pub fn accept(socket: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (tcp, peer) = rustix::net::acceptfrom_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok()).ok_or(io::ErrorKind::ConnectionAborted)?;
    Ok((tcp.into(), peer))
}

/// True if this host has no descriptor or memory left: the connection still waits.
pub fn is_exhausted(error: &io::Error) -> bool {
    const EXHAUSTED: [Errno; 4] = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
    error.raw_os_error().is_some_and(|code| EXHAUSTED.iter().any(|errno| errno.raw_os_error() == code))
}

/// Increasing pauses while this host has no descriptor or memory for a new connection.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    pub fn failed(&mut self, error: &io::Error) -> Duration {
        if self.failures == 0 {
            warn!(%error, "cannot accept connections for now");
        }
        self.failures += 1;
        Duration::from_millis(10 << self.failures.min(7))
    }

    pub fn succeeded(&mut self) {
        if std::mem::take(&mut self.failures) > 0 {
            info!("accepting connections again");
        }
    }
}
