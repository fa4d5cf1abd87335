//! Checks of a scripted server, for `fuzz/`.

use std::{
    io,
    num::NonZeroU16,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::*;
use crate::model::{
    Exchange, GrpcHealth, Hidden, HttpRequest, MySqlSession, Password, PostgresSession, RedisSession, Role,
};

/// The password of checks. It must not be in any message.
pub const PASSWORD: &str = "sesame";

/// True if the check sends the password to the server.
pub fn sends_password(which: u8) -> bool {
    match which & 7 {
        0..=3 => false,
        4 | 5 => true,
        _ => which & 0x40 != 0,
    }
}

/// Runs one check of a server that sends `answer` in pieces of `size` bytes, whatever it receives, and then ends the
/// connection. `which` selects the check (bits 0 to 2), the role (bits 4 and 5) and a password for Redis (bit 6).
///
/// # Errors
/// The message that would be shown for the endpoint.
pub async fn probe(which: u8, size: usize, answer: &[u8]) -> ProbeResult {
    let password = || -> Option<Password> { Some(Hidden::new(PASSWORD.into())) };
    let user = || "user".into();
    let role = [Role::Any, Role::Primary, Role::Replica, Role::Replica][usize::from(which >> 4 & 3)];
    let probe = match which & 7 {
        0 => Probe::Exchange(Exchange { send: Hidden::new(b"PING\r\n"[..].into()), expect: b"PONG"[..].into() }),
        1 => Probe::Http(HttpRequest {
            path: "/health".parse().expect("a path"),
            headers: Vec::new(),
            statuses: vec![200..=299],
        }),
        2 => Probe::Grpc(GrpcHealth { service: "db".into() }),
        3 => Probe::Postgres(None),
        4 => Probe::Postgres(Some(PostgresSession { user: user(), password: password(), database: "db".into(), role })),
        5 => Probe::MySql(MySqlSession { user: user(), password: password(), role }),
        _ => Probe::Redis(RedisSession { user: None, password: password().filter(|_| sends_password(which)), role }),
    };
    let timeout = Duration::from_secs(20);
    let check = ActiveCheck {
        probe,
        port: None,
        transport: Transport::AsConnections,
        interval: timeout,
        unhealthy_interval: timeout,
        jitter_percent: 0,
        timeout,
        healthy_after: NonZeroU16::MIN,
        unhealthy_after: NonZeroU16::MIN,
    };
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let target = ProbeTarget { address, check: Arc::new(check), proxy_protocol: None, tls: None };
    let server = FuzzServer { unread: answer.to_vec(), sent: 0, size };
    let asked = target.ask_over(server, Instant::now() + timeout).await;
    asked.map(drop).map_err(|failure| failure.to_string())
}

/// A server that accepts all input.
struct FuzzServer {
    unread: Vec<u8>,
    sent: usize,
    size: usize,
}

impl AsyncRead for FuzzServer {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let rest = &self.unread[self.sent..];
        let count = rest.len().min(self.size).min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        self.sent += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FuzzServer {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
