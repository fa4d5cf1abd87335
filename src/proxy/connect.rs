//! Reaching an endpoint for an admitted client.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tracing::warn;

use super::{accounting::CloseReason, stream::Stream};
use crate::upstream::{ActiveConnection, Subset, Tried, dial, is_local};

/// A connection to an endpoint: a preconnected one, or one that is dialled now. Other endpoints are tried until one
/// answers, or attempts or time run out. `attempts` counts the endpoints tried.
pub async fn first_reachable(
    subset: &Subset,
    client: IpAddr,
    attempts: &mut u16,
) -> Result<(Stream, ActiveConnection), CloseReason> {
    let settings = subset.upstream().connect();
    let mut tried = Tried::default();
    let mut failure = CloseReason::NoEndpoint;
    let mut deadline = None;
    while *attempts < settings.attempts.get() {
        let Some(active) = subset.pick(client, &tried) else { return Err(failure) };
        *attempts += 1;
        let endpoint = active.endpoint();
        if let Some(ready) = endpoint.take_preconnected().and_then(|socket| TcpStream::from_std(socket).ok()) {
            return Ok((Stream::new(ready), active));
        }
        let now = Instant::now();
        let deadline = *deadline.get_or_insert(now + settings.deadline);
        let attempt_ends = deadline.min(now + settings.timeout);
        let dialled = timeout_at(attempt_ends, dial(endpoint.address())).await;
        let error = match dialled {
            Ok(Ok(tcp)) => {
                endpoint.connected();
                return Ok((Stream::new(tcp), active));
            }
            Ok(Err(error)) => error,
            // Too little time was left for it: that says nothing about this endpoint.
            Err(_) if attempt_ends < now + settings.timeout => return Err(CloseReason::ConnectTimeout),
            Err(_) => io::Error::new(io::ErrorKind::TimedOut, "no answer within connect.timeout"),
        };
        endpoint.connect_failed(&error);
        failure = reason_for(&error, endpoint.address());
        if Instant::now() >= deadline {
            return Err(CloseReason::ConnectTimeout);
        }
        tried.insert(endpoint);
    }
    Err(failure)
}

/// What is wanting here is told to whoever runs this host, at a bounded rate.
fn reason_for(error: &io::Error, endpoint: SocketAddr) -> CloseReason {
    if !is_local(error) {
        return CloseReason::ConnectFailed;
    }
    let no_port = error.kind() == io::ErrorKind::AddrNotAvailable;
    if TELLS.may_tell() {
        let what_to_do = if no_port {
            "no local port is left for this endpoint: widen net.ipv4.ip_local_port_range, or add endpoints"
        } else {
            "this host lacks descriptors, memory or permission"
        };
        warn!(%endpoint, %error, "cannot connect: {what_to_do}");
    }
    if no_port { CloseReason::NoLocalPort } else { CloseReason::LocalFailure }
}

static TELLS: Tells = Tells { next: AtomicU64::new(0) };

/// Lets something be told every ten seconds.
struct Tells {
    /// Seconds since 1970 from which on the next may be told.
    next: AtomicU64,
}

impl Tells {
    fn may_tell(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let next = self.next.load(Relaxed);
        now >= next && self.next.compare_exchange(next, now + 10, Relaxed, Relaxed).is_ok()
    }
}
