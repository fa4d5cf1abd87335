//! Reaching an endpoint for an admitted client.

use std::{io, net::IpAddr};

use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{accounting::CloseReason, stream::Stream};
use crate::upstream::{ActiveConnection, Tried, Upstream, dial, is_local};

/// A connection to an endpoint: a preconnected one, or one that is dialled now. Other endpoints are tried until one
/// answers, or attempts or time run out. `attempts` counts the endpoints tried.
pub async fn first_reachable(
    upstream: &Upstream,
    client: IpAddr,
    attempts: &mut u16,
) -> Result<(Stream, ActiveConnection), CloseReason> {
    let settings = upstream.connect();
    let mut tried = Tried::default();
    let mut failure = CloseReason::NoEndpoint;
    let mut deadline = None;
    while *attempts < settings.attempts.get() {
        let Some(active) = upstream.pick(client, &tried) else { return Err(failure) };
        *attempts += 1;
        let endpoint = active.endpoint();
        if let Some(ready) = endpoint.take_preconnected().and_then(|socket| TcpStream::from_std(socket).ok()) {
            return Ok((Stream::new(ready), active));
        }
        let now = Instant::now();
        let deadline = *deadline.get_or_insert(now + settings.deadline);
        let attempt_ends = deadline.min(now + settings.timeout);
        let dialled = timeout_at(attempt_ends, dial(endpoint.address(), upstream.keepalive())).await;
        let error = match dialled {
            Ok(Ok(tcp)) => {
                endpoint.connected();
                return Ok((Stream::new(tcp), active));
            }
            Ok(Err(error)) => error,
            Err(_) => io::Error::new(io::ErrorKind::TimedOut, "no answer within connect.timeout"),
        };
        endpoint.connect_failed(&error);
        if Instant::now() >= deadline {
            return Err(CloseReason::ConnectTimeout);
        }
        failure = if is_local(&error) { CloseReason::LocalFailure } else { CloseReason::ConnectFailed };
        tried.insert(endpoint);
    }
    Err(failure)
}
