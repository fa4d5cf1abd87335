//! Accepting connections.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use rustix::{
    io::{Errno, FdFlags, fcntl_setfd},
    net::{SocketFlags, acceptfrom, acceptfrom_with},
};
use tracing::{info, warn};

use crate::log_limit::LogLimiter;

/// The number of failed accepts that are retried at once. A connection that failed while it waited leaves the queue, so
/// others may wait behind it. An accept that always fails would use a whole CPU.
const RETRIES: u32 = 1024;

/// Accepts a waiting connection, independent of the event loop's readiness. The connection does not block.
pub fn accept(socket: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (tcp, peer) = match acceptfrom_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
        // A sandbox may know only accept(2). After EPERM of a firewall, this accepts the next connection.
        Err(Errno::NOSYS | Errno::PERM | Errno::ACCESS) => {
            let (tcp, peer) = acceptfrom(socket)?;
            fcntl_setfd(&tcp, FdFlags::CLOEXEC)?;
            let tcp = TcpStream::from(tcp);
            tcp.set_nonblocking(true)?;
            (tcp, peer)
        }
        accepted => accepted.map(|(tcp, peer)| (TcpStream::from(tcp), peer))?,
    };
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok()).ok_or(io::ErrorKind::ConnectionAborted)?;
    Ok((tcp, peer))
}

/// True if this host has no descriptor or memory left: the connection still waits.
pub fn is_exhausted(error: &io::Error) -> bool {
    const EXHAUSTED: [Errno; 4] = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
    error.raw_os_error().is_some_and(|code| EXHAUSTED.iter().any(|errno| errno.raw_os_error() == code))
}

/// Increasing pauses while a socket accepts no connections.
#[derive(Debug)]
pub struct Backoff {
    listener: String,
    /// Failures since the last pause or accepted connection, except those for lack of descriptors or memory.
    failures: u32,
    /// Pauses since the last accepted connection.
    pauses: u32,
    is_reported: bool,
    log: LogLimiter,
}

impl Backoff {
    /// For a socket of the listener with this name.
    pub fn new(listener: String) -> Self {
        Self { listener, failures: 0, pauses: 0, is_reported: false, log: LogLimiter::new() }
    }

    /// The pause after a failed accept. `None`: the next accept may succeed at once.
    pub fn failed(&mut self, error: &io::Error) -> Option<Duration> {
        if !is_exhausted(error) {
            self.failures += 1;
            if self.failures < RETRIES {
                return None;
            }
            self.failures = 0;
        }
        self.pauses += 1;
        self.report(error);
        Some(Duration::from_millis(10 << self.pauses.min(7)))
    }

    pub fn succeeded(&mut self) {
        (self.failures, self.pauses) = (0, 0);
        if std::mem::take(&mut self.is_reported) {
            info!(listener = self.listener, "accepting connections again");
        }
    }

    #[cold]
    fn report(&mut self, error: &io::Error) {
        if self.is_reported || !self.log.allow() {
            return;
        }
        self.is_reported = true;
        let remedy = if is_exhausted(error) {
            "raise the limit of open files, or the memory limit"
        } else {
            "allow the system calls accept4 and accept (seccomp, security policy)"
        };
        warn!(listener = self.listener, %error, "cannot accept connections for now: {remedy}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_connections_are_retried_at_once_and_lasting_errors_after_pauses() {
        let (aborted, refused) = (Errno::CONNABORTED.into(), Errno::PERM.into());
        let mut backoff = Backoff::new("shop/db/main".into());
        for _ in 1..RETRIES {
            assert_eq!(backoff.failed(&aborted), None);
        }
        backoff.succeeded();
        let pauses: Vec<_> = (0..9 * RETRIES).filter_map(|_| backoff.failed(&refused)).collect();
        assert_eq!(pauses, [20, 40, 80, 160, 320, 640, 1280, 1280, 1280].map(Duration::from_millis));
        backoff.succeeded();
        assert_eq!(backoff.failed(&refused), None);
    }

    #[test]
    fn a_lack_of_descriptors_pauses_at_once() {
        let mut backoff = Backoff::new("shop/db/main".into());
        for expected in [20, 40] {
            assert_eq!(backoff.failed(&Errno::MFILE.into()), Some(Duration::from_millis(expected)));
        }
    }

    #[test]
    fn a_failure_is_reported_and_a_repeated_one_within_the_log_limit_is_not() {
        let mut backoff = Backoff::new("shop/db/main".into());
        let mut reports_failure = || {
            backoff.succeeded();
            backoff.failed(&Errno::MFILE.into());
            backoff.is_reported
        };
        assert_eq!([reports_failure(), reports_failure()], [true, false]);
    }
}
