//! TLS with clients: the route by server name, and termination.

use std::{future::poll_fn, pin::Pin, task::Poll};

use tokio::{
    io::AsyncWrite,
    time::{Instant, timeout_at},
};

use super::{
    cancel::cancel, connect::Encryption, handshake_limiter::HandshakeLimiter, record::ConnectionRecord,
    sides::ClientConnection,
};
use crate::{
    model::{StartTls, TlsMode},
    proxy::{
        accounting::CloseReason,
        listener::routes::{RouteTarget, Routes},
        postgres::{self, PostgresStartup, StartupError},
        stream::{Stream, handshake_memory::MemoryFull, prefixed_io::PrefixedIo},
        tls::{HandshakeFault, HelloError, ServerTls, UNRECOGNIZED_NAME, read_client_hello_with},
    },
    upstream::Subset,
};

/// The endpoints that a connection goes to, and its treatment of TLS.
pub struct Destination<'a> {
    pub subset: &'a Subset,
    /// Present if TLS is terminated here.
    pub termination: Option<Termination<'a>>,
    pub encryption: Encryption,
}

/// TLS to terminate, and the time at which the handshake must be done.
pub struct Termination<'a> {
    pub tls: &'a ServerTls,
    pub deadline: Instant,
}

/// Finds the destination by the server name that the client requests. The bytes read are put back in front of the
/// stream.
///
/// # Errors
/// If the connection ends here: the client fails, no route matches, or it was a request to cancel a query.
pub async fn find_route<'a>(
    client: &mut PrefixedIo<Stream>,
    tls: &'a ServerTls,
    routes: &'a Routes,
    record: &mut ConnectionRecord,
) -> Result<Destination<'a>, CloseReason> {
    let listener = record.config.listener.clone();
    let deadline = Instant::now() + listener.timeouts.handshake;
    let mut start_tls = None;
    if listener.tls.as_ref().is_some_and(|tls| tls.start_tls == Some(StartTls::Postgres)) {
        match timeout_at(deadline, postgres::open(client)).await.map_err(|_| CloseReason::TlsTimeout)? {
            Ok(PostgresStartup::AskedForTls) => start_tls = Some(StartTls::Postgres),
            Ok(PostgresStartup::DirectTls) => {}
            Ok(PostgresStartup::Cancel(request)) => return Err(cancel(client, request, routes, record).await),
            Err(error) => {
                if matches!(error, StartupError::Unencrypted) {
                    client.get_mut().ended_cleanly();
                }
                return Err(record.handshake_failed(error.into()));
            }
        }
    }
    let server_name = timeout_at(deadline, server_name(client, record)).await;
    let server_name = server_name.map_err(|_| CloseReason::TlsTimeout)??;
    record.asked_for(server_name.as_deref());
    let Some(RouteTarget { name, mode, subset }) = routes.find(server_name.as_deref()) else {
        // One attempt: does not wait for a socket that cannot take seven bytes now.
        let _ = poll_fn(|cx| Poll::Ready(Pin::new(&mut *client).poll_write(cx, &UNRECOGNIZED_NAME))).await;
        client.get_mut().ended_cleanly();
        return Err(CloseReason::NoRoute);
    };
    record.route.clone_from(name);
    let (termination, encryption) = match mode {
        TlsMode::Terminate => (Some(Termination { tls, deadline }), Encryption::OfBackend),
        TlsMode::Passthrough => (None, Encryption::PassedThrough(start_tls)),
    };
    Ok(Destination { subset, termination, encryption })
}

/// The server name in the ClientHello. The bytes are put back in front of the stream.
async fn server_name(
    client: &mut PrefixedIo<Stream>,
    record: &mut ConnectionRecord,
) -> Result<Option<Box<str>>, CloseReason> {
    let (mut read, mut charge) = (Vec::new(), None);
    let handshakes = &record.config.state.handshakes;
    let grow = |room| handshakes.cover(&mut charge, room);
    let hello = match read_client_hello_with(client, &mut read, grow).await {
        Ok(hello) => hello,
        Err(HelloError::MemoryFull(_)) => return Err(CloseReason::HandshakeMemory),
        Err(error) => return Err(record.handshake_failed(HandshakeFault::of_hello(&error, &read))),
    };
    client.unread(read);
    client.charge(charge);
    Ok(hello.server_name)
}

/// Terminates TLS.
pub async fn terminate(
    client: PrefixedIo<Stream>,
    termination: Termination<'_>,
    limiter: &HandshakeLimiter,
    record: &mut ConnectionRecord,
) -> Result<ClientConnection, CloseReason> {
    let Termination { tls, deadline } = termination;
    let mut charge = None;
    let handshakes = &record.config.state.handshakes;
    let accepting = tls.accept(client, |received| Ok(handshakes.cover(&mut charge, received)?));
    match timeout_at(deadline, limiter.run(accepting)).await {
        Ok(Ok((client, server_name))) => {
            record.handshake_done(client.state(), server_name);
            if record.has_expired_identity() {
                return Err(record.handshake_failed(HandshakeFault::Expired));
            }
            Ok(ClientConnection::Tls(Box::new(client)))
        }
        Ok(Err(error)) if error.get_ref().is_some_and(|error| error.is::<MemoryFull>()) => {
            Err(CloseReason::HandshakeMemory)
        }
        Ok(Err(error)) => Err(record.handshake_failed(HandshakeFault::of(&error))),
        Err(_) => Err(CloseReason::TlsTimeout),
    }
}
