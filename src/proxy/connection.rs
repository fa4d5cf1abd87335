//! The steps of a connection: PROXY header, admission, TLS, connect, relay, record.

mod connect;
pub mod handshake_limiter;
pub mod record;
mod relay;
mod sides;

use std::{
    collections::BTreeMap,
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::Poll,
};

use futures::{FutureExt, future::LocalBoxFuture};
use tokio::{
    io::AsyncWrite,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::either::Either;

use self::{
    connect::{BackendConnection, ClientInfo, Encryption, TlsBackend},
    handshake_limiter::HandshakeLimiter,
    record::{ConnectionRecord, ConnectionRecorder, Session, canonical},
    relay::{Deadlines, Side},
    sides::TlsClient,
};
use super::{
    accounting::CloseReason,
    admission::{ConnectionPermit, Refusal},
    listener::{
        ListenerConfig, TlsHandling,
        routes::{RouteTarget, Routes},
    },
    postgres::{self, CancelRequest, PostgresStartup, Requester, StartupError},
    proxy_protocol::{self, SignatureGuard},
    stream::{
        Stream,
        handshake_memory::{HANDSHAKE_MEMORY, MemoryFull},
        prefixed_io::PrefixedIo,
    },
    tls::{self, DeferredTickets, HandshakeFault, HelloError, Identity, ServerTls, read_client_hello_with},
};
use crate::{
    capacity::Permit,
    model::{Listener, ProxyMode, StartTls, TlsMode},
    tcp::TcpSocket,
    upstream::{Endpoint, Subset},
};

/// A connection that was accepted and counted, and not yet read from.
#[derive(Debug)]
pub struct AcceptedConnection {
    pub peer: SocketAddr,
    pub config: Arc<ListenerConfig>,
    pub at: Instant,
    pub permits: Permits,
}

/// The state that all connections of a worker share.
#[derive(Clone, Debug)]
pub struct WorkerContext {
    pub recorder: Rc<ConnectionRecorder>,
    /// Limits TLS handshakes.
    pub handshakes: Rc<HandshakeLimiter>,
}

/// The permits of an open connection: one of its load balancer in the process, one of its listener.
pub type Permits = (Permit, ConnectionPermit);

/// Serves a client until the connection ends, and records its end in every case, even if the task never runs.
pub fn serve(
    tcp: TcpSocket,
    accepted: AcceptedConnection,
    context: WorkerContext,
    session: Rc<Session>,
) -> impl Future<Output = ()> {
    let AcceptedConnection { peer, config, permits, .. } = accepted;
    let WorkerContext { recorder, handshakes } = context;
    let mut record = ConnectionRecord::open(recorder, config, session, peer);
    let client = Stream::new(tcp);
    async move {
        record.reason = Some(admit(client, &handshakes, &mut record).await.unwrap_or_else(|reason| reason));
        drop((record, permits));
    }
}

/// Identifies and admits the client. Nothing is dialled or decrypted for a client that is refused.
async fn admit(
    mut client: Stream,
    handshakes: &HandshakeLimiter,
    record: &mut ConnectionRecord,
) -> Result<CloseReason, CloseReason> {
    let config = record.config.clone();
    let listener = &*config.listener;
    let identity = read_proxy_header(&mut client, listener, record).await?;
    let admission = &config.state.admission;
    let _permit = admission
        .admit_source(listener, record.client.ip(), identity.source, Instant::now().into_std())
        .map_err(CloseReason::from)?;
    record.log_start();
    let client = PrefixedIo::new(identity.rest, client);
    match &config.tls_handling {
        // Boxed like the future of a TLS connection: otherwise this future would contain space for both.
        TlsHandling::Plaintext(subset) => {
            Box::pin(forward(client, identity.guard, subset, Encryption::OfBackend, record)).await
        }
        TlsHandling::Terminate { tls, subset } => {
            let deadline = Instant::now() + listener.timeouts.handshake;
            Box::pin(terminate(client, identity.guard, tls, subset, deadline, handshakes, record)).await
        }
        TlsHandling::SniRouting { tls, routes } => {
            Box::pin(route(client, identity.guard, tls, routes, handshakes, record)).await
        }
    }
}

/// The identity of the client, from a PROXY header or from its address.
struct ClientIdentity {
    /// The address that per-source limits count; `None`: no limit applies (a health check of the load balancer in
    /// front).
    source: Option<IpAddr>,
    /// Bytes that came with the header.
    rest: Vec<u8>,
    guard: Option<Box<SignatureGuard>>,
}

async fn read_proxy_header(
    client: &mut Stream,
    listener: &Listener,
    record: &mut ConnectionRecord,
) -> Result<ClientIdentity, CloseReason> {
    let peer = record.peer.ip();
    let Some(expected) = &listener.proxy_protocol else {
        return Ok(ClientIdentity { source: Some(peer), rest: Vec::new(), guard: None });
    };
    let guard = Some(Box::new(SignatureGuard::new()));
    if !expected.trusted.contains(peer) {
        return match expected.mode {
            ProxyMode::Required => Err(CloseReason::ProxyUntrusted),
            ProxyMode::Optional => Ok(ClientIdentity { source: Some(peer), rest: Vec::new(), guard }),
        };
    }
    // Boxed, so that a connection without a header needs no space for one.
    let header = Box::pin(timeout(listener.timeouts.handshake, proxy_protocol::read_header(client)))
        .await
        .map_err(|_| CloseReason::ProxyInvalid)?
        .map_err(|_| CloseReason::ProxyInvalid)?;
    if let Some(addresses) = header.addresses {
        record.client = canonical(addresses.source);
        record.destination = Some(addresses.destination);
    }
    Ok(ClientIdentity { source: header.addresses.map(|_| record.client.ip()), rest: header.rest, guard })
}

/// Reads the server name that the client requests, and serves the connection according to its route.
async fn route(
    mut client: PrefixedIo<Stream>,
    guard: Option<Box<SignatureGuard>>,
    tls: &ServerTls,
    routes: &Routes,
    limiter: &HandshakeLimiter,
    record: &mut ConnectionRecord,
) -> Result<CloseReason, CloseReason> {
    let listener = record.config.listener.clone();
    let deadline = Instant::now() + listener.timeouts.handshake;
    let mut start_tls = None;
    if listener.tls.as_ref().is_some_and(|tls| tls.start_tls == Some(StartTls::Postgres)) {
        match timeout_at(deadline, postgres::open(&mut client)).await.map_err(|_| CloseReason::TlsTimeout)? {
            Ok(PostgresStartup::AskedForTls) => start_tls = Some(StartTls::Postgres),
            Ok(PostgresStartup::DirectTls) => {}
            Ok(PostgresStartup::Cancel(request)) => return cancel(client, request, routes, record).await,
            Err(error) => {
                if matches!(error, StartupError::Unencrypted) {
                    client.get_mut().ended_cleanly();
                }
                return Err(record.handshake_failed(error.into()));
            }
        }
    }
    let server_name = timeout_at(deadline, server_name(&mut client, record)).await;
    let server_name = server_name.map_err(|_| CloseReason::TlsTimeout)??;
    record.asked_for(server_name.as_deref());
    let Some(RouteTarget { mode, subset }) = routes.find(server_name.as_deref()) else {
        // One attempt: does not wait for a socket that cannot take seven bytes now.
        let _ = poll_fn(|cx| Poll::Ready(Pin::new(&mut client).poll_write(cx, &tls::UNRECOGNIZED_NAME))).await;
        client.get_mut().ended_cleanly();
        return Err(CloseReason::NoRoute);
    };
    match mode {
        TlsMode::Terminate => terminate(client, guard, tls, subset, deadline, limiter, record).await,
        TlsMode::Passthrough => {
            let encryption = Encryption::PassedThrough(start_tls);
            Box::pin(forward(client, guard, subset, encryption, record)).await
        }
    }
}

/// The server name in the ClientHello. The bytes are put back in front of the stream.
async fn server_name(
    client: &mut PrefixedIo<Stream>,
    record: &mut ConnectionRecord,
) -> Result<Option<Box<str>>, CloseReason> {
    let (mut read, mut charge) = (Vec::new(), None);
    let grow = |room| HANDSHAKE_MEMORY.cover(&mut charge, room);
    let hello = match read_client_hello_with(client, &mut read, grow).await {
        Ok(hello) => hello,
        Err(HelloError::MemoryFull(_)) => return Err(CloseReason::HandshakeMemory),
        Err(error) => return Err(record.handshake_failed(HandshakeFault::of_hello(&error, &read))),
    };
    client.unread(read);
    client.charge(charge);
    Ok(hello.server_name)
}

/// Sends a request to cancel a query to every server that may have its session.
async fn cancel(
    mut client: PrefixedIo<Stream>,
    request: CancelRequest,
    routes: &Routes,
    record: &ConnectionRecord,
) -> Result<CloseReason, CloseReason> {
    let endpoints = routes.all().iter().flat_map(|route| route.subset.endpoints());
    let usable = endpoints.filter(|endpoint| endpoint.usable());
    let servers: BTreeMap<_, _> = usable.map(|endpoint| (endpoint.address(), endpoint)).collect();
    let client_info = client_info_of(client.get_mut(), Encryption::OfBackend, record);
    let open = async |endpoint: Arc<Endpoint>| {
        // A reset could overtake the request.
        Ok(match connect::open(&endpoint, &client_info).await? {
            BackendConnection::Plain(mut server) => {
                server.get_mut().ended_cleanly();
                Either::Left(server)
            }
            BackendConnection::Tls(mut server) => {
                server.stream().ended_cleanly();
                Either::Right(server)
            }
        })
    };
    let state = &record.config.state;
    let from = Requester::new(state.id, record.client.ip());
    if !request.hand_over(&state.cancels, from, servers.into_values().map(open)).await {
        return Err(CloseReason::CancelSuperseded);
    }
    client.get_mut().ended_cleanly();
    Ok(CloseReason::Complete)
}

async fn terminate(
    client: PrefixedIo<Stream>,
    guard: Option<Box<SignatureGuard>>,
    tls: &ServerTls,
    subset: &Subset,
    deadline: Instant,
    limiter: &HandshakeLimiter,
    record: &mut ConnectionRecord,
) -> Result<CloseReason, CloseReason> {
    // Refuse before any work on TLS if no endpoint is usable.
    if !subset.may_serve() {
        return Err(CloseReason::NoEndpoint);
    }
    // Boxed: the state of a handshake is large, and the connection does not need its space afterwards.
    let client = Box::pin(handshake(client, tls, deadline, limiter, record)).await?;
    Box::pin(forward(client, guard, subset, Encryption::OfBackend, record)).await
}

async fn handshake(
    client: PrefixedIo<Stream>,
    tls: &ServerTls,
    deadline: Instant,
    limiter: &HandshakeLimiter,
    record: &mut ConnectionRecord,
) -> Result<TlsClient, CloseReason> {
    let accepting = TlsAcceptor::from(tls.config()).accept(DeferredTickets::new(client)).into_fallible();
    match timeout_at(deadline, limiter.run(accepting)).await {
        Ok(Ok(mut client)) => {
            client.get_mut().0.handshake_done();
            record.handshake_done(client.get_ref().1);
            let identity = record.tls.as_ref().and_then(|tls| tls.agreed.as_ref()?.identity.as_ref());
            if identity.is_some_and(Identity::has_expired) {
                return Err(record.handshake_failed(HandshakeFault::Expired));
            }
            Ok(client)
        }
        Ok(Err((error, mut client))) => {
            // Send the alert, if the handshake produced one.
            let _ = poll_fn(|cx| Poll::Ready(client.poll_send(cx))).await;
            if error.get_ref().is_some_and(|error| error.is::<MemoryFull>()) {
                return Err(CloseReason::HandshakeMemory);
            }
            Err(record.handshake_failed(HandshakeFault::of(&error)))
        }
        Err(_) => Err(CloseReason::TlsTimeout),
    }
}

/// Connects an admitted client to a backend and relays.
fn forward<'a, C: Side + 'a>(
    mut client: C,
    guard: Option<Box<SignatureGuard>>,
    subset: &'a Subset,
    encryption: Encryption,
    record: &'a mut ConnectionRecord,
) -> impl Future<Output = Result<CloseReason, CloseReason>> + 'a {
    let config = record.config.clone();
    // Not an `async fn`, which would store the client twice.
    async move {
        // Boxed, so that an open connection keeps no space for the state of connecting.
        let begun = Instant::now();
        let client_info = client_info_of(client.stream(), encryption, record);
        let reached = connect::first_reachable(subset, &client_info, &mut record.attempts);
        let (backend, active) = Box::pin(reached).await?;
        record.connected(active.endpoint(), begun.elapsed());
        let deadlines = deadlines(&config.listener, record.accepted_at());
        Ok(match backend {
            BackendConnection::Plain(mut backend) => {
                relay::both_ways(&mut client, &mut backend, deadlines, guard, &*record).await
            }
            BackendConnection::Tls(backend) => {
                record.backend_handshake_done(backend.get_ref().1);
                relay_encrypted(&mut client, backend, deadlines, guard, record).await
            }
        })
    }
}

/// Separate from the relay over TCP: compiled together, the TCP relay would be slower.
#[inline(never)]
fn relay_encrypted<'a>(
    client: &'a mut impl Side,
    mut backend: Box<TlsBackend>,
    deadlines: Deadlines,
    guard: Option<Box<SignatureGuard>>,
    record: &'a ConnectionRecord,
) -> LocalBoxFuture<'a, CloseReason> {
    async move { relay::both_ways(client, &mut *backend, deadlines, guard, record).await }.boxed_local()
}

/// The client information for endpoints.
fn client_info_of<'a>(stream: &'a Stream, encryption: Encryption, record: &ConnectionRecord) -> ClientInfo<'a> {
    let (client, destination, client_tls) = (record.client, record.destination, record.tls.clone());
    ClientInfo { stream, client, destination, client_tls, encryption }
}

fn deadlines(listener: &Listener, accepted_at: Instant) -> Deadlines {
    let timeouts = listener.timeouts;
    Deadlines {
        idle: timeouts.idle,
        half_closed: timeouts.half_closed,
        end: timeouts.max_duration.and_then(|longest| {
            let shortened = longest.mul_f64(1.0 - fastrand::f64() * f64::from(timeouts.jitter_percent) / 100.0);
            accepted_at.checked_add(shortened)
        }),
    }
}

impl From<Refusal> for CloseReason {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::ListenerFull => Self::ListenerFull,
            Refusal::ListenerRate => Self::ListenerRate,
            Refusal::Denied => Self::AccessDenied,
            Refusal::SourceFull => Self::SourceFull,
            Refusal::SourceRate => Self::SourceRate,
        }
    }
}
