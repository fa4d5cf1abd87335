//! The way of a connection: PROXY header, admission, TLS, connect, relay, account.

pub mod account;
mod connect;
mod relay;
mod sides;
pub mod turns;

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
    account::{Account, Ledger, Session, canonical},
    connect::{Encryption, Introduction, Reached, TlsBackend},
    relay::{Deadlines, Side},
    sides::TlsClient,
    turns::Turns,
};
use super::{
    accounting::CloseReason,
    admission::{ConnectionPermit, Refusal},
    listener::{
        Serving, Way,
        routes::{Route, Routes},
    },
    postgres::{self, CancelRequest, Opening, OpeningError, Requester},
    proxy_protocol::{self, SignatureGuard},
    stream::{
        Stream,
        handshake_memory::{HANDSHAKE_MEMORY, MemoryFull},
        prefixed::Prefixed,
    },
    tls::{self, HandshakeFault, HelloError, Identity, LastFlight, ServerTls, read_client_hello_with},
};
use crate::{
    capacity::Permit,
    model::{Listener, ProxyMode, StartTls, TlsMode},
    tcp::TcpSocket,
    upstream::{Endpoint, Subset},
};

/// What is known of a connection that has been counted and not been read from.
#[derive(Debug)]
pub struct Accepted {
    pub peer: SocketAddr,
    pub serving: Arc<Serving>,
    pub at: Instant,
    pub permits: Permits,
}

/// What all connections of a worker share.
#[derive(Clone, Debug)]
pub struct Surroundings {
    pub ledger: Rc<Ledger>,
    /// The turns of TLS handshakes.
    pub handshakes: Rc<Turns>,
}

/// The places of an open connection: that of its load balancer in the process, and one in its listener.
pub type Permits = (Permit, ConnectionPermit);

/// Serves a client to the end and accounts for it, however it ends: also when the task is never run.
pub fn serve(
    tcp: TcpSocket,
    accepted: Accepted,
    surroundings: Surroundings,
    session: Rc<Session>,
) -> impl Future<Output = ()> {
    let Accepted { peer, serving, permits, .. } = accepted;
    let Surroundings { ledger, handshakes } = surroundings;
    let mut account = Account::open(ledger, serving, session, peer);
    let client = Stream::new(tcp);
    async move {
        account.reason = Some(admit(client, &handshakes, &mut account).await.unwrap_or_else(|reason| reason));
        drop((account, permits));
    }
}

/// Learns who the client is and whether it may connect. Nothing is dialled or decrypted for one that may not.
async fn admit(mut client: Stream, handshakes: &Turns, account: &mut Account) -> Result<CloseReason, CloseReason> {
    let serving = account.serving.clone();
    let listener = &*serving.listener;
    let announced = read_proxy_header(&mut client, listener, account).await?;
    let admission = &serving.live.admission;
    let _permit = admission
        .admit_source(listener, account.client.ip(), announced.source, Instant::now().into_std())
        .map_err(CloseReason::from)?;
    account.log_start();
    let client = Prefixed::new(announced.rest, client);
    match &serving.way {
        // Boxed like that of a TLS connection, which otherwise would have room for both.
        Way::Plain(subset) => Box::pin(forward(client, announced.guard, subset, Encryption::OfBackend, account)).await,
        Way::Terminate { tls, subset } => {
            let deadline = Instant::now() + listener.timeouts.handshake;
            Box::pin(terminate(client, announced.guard, tls, subset, deadline, handshakes, account)).await
        }
        Way::Routed { tls, routes } => Box::pin(route(client, announced.guard, tls, routes, handshakes, account)).await,
    }
}

/// What a PROXY header, or its absence, says of the client.
struct Announced {
    /// Whose limits it counts against; `None`: nobody's (a health check of the load balancer in front).
    source: Option<IpAddr>,
    /// Bytes that came with the header.
    rest: Vec<u8>,
    guard: Option<Box<SignatureGuard>>,
}

async fn read_proxy_header(
    client: &mut Stream,
    listener: &Listener,
    account: &mut Account,
) -> Result<Announced, CloseReason> {
    let peer = account.peer.ip();
    let Some(expected) = &listener.proxy_protocol else {
        return Ok(Announced { source: Some(peer), rest: Vec::new(), guard: None });
    };
    let guard = Some(Box::new(SignatureGuard::new()));
    if !expected.trusted.contains(peer) {
        return match expected.mode {
            ProxyMode::Required => Err(CloseReason::ProxyUntrusted),
            ProxyMode::Optional => Ok(Announced { source: Some(peer), rest: Vec::new(), guard }),
        };
    }
    // Boxed, so that a connection without a header has no room for one.
    let header = Box::pin(timeout(listener.timeouts.handshake, proxy_protocol::read_header(client)))
        .await
        .map_err(|_| CloseReason::ProxyInvalid)?
        .map_err(|_| CloseReason::ProxyInvalid)?;
    if let Some(announced) = header.announced {
        account.client = canonical(announced.source);
        account.destination = Some(announced.destination);
    }
    Ok(Announced { source: header.announced.map(|_| account.client.ip()), rest: header.rest, guard })
}

/// Looks at what a client asks for, and does what its route says.
async fn route(
    mut client: Prefixed<Stream>,
    guard: Option<Box<SignatureGuard>>,
    tls: &ServerTls,
    routes: &Routes,
    turns: &Turns,
    account: &mut Account,
) -> Result<CloseReason, CloseReason> {
    let listener = account.serving.listener.clone();
    let deadline = Instant::now() + listener.timeouts.handshake;
    let mut start_tls = None;
    if listener.tls.as_ref().is_some_and(|tls| tls.start_tls == Some(StartTls::Postgres)) {
        match timeout_at(deadline, postgres::open(&mut client)).await.map_err(|_| CloseReason::TlsTimeout)? {
            Ok(Opening::AskedForTls) => start_tls = Some(StartTls::Postgres),
            Ok(Opening::DirectTls) => {}
            Ok(Opening::Cancel(request)) => return cancel(client, request, routes, account).await,
            Err(error) => {
                if matches!(error, OpeningError::Unencrypted) {
                    client.get_mut().ended_cleanly();
                }
                return Err(account.handshake_failed(error.into()));
            }
        }
    }
    let server_name = timeout_at(deadline, server_name(&mut client, account)).await;
    let server_name = server_name.map_err(|_| CloseReason::TlsTimeout)??;
    account.asked_for(server_name.as_deref());
    let Some(Route { mode, subset }) = routes.find(server_name.as_deref()) else {
        // One attempt: a socket that takes no seven bytes now is not waited for.
        let _ = poll_fn(|cx| Poll::Ready(Pin::new(&mut client).poll_write(cx, &tls::UNRECOGNIZED_NAME))).await;
        client.get_mut().ended_cleanly();
        return Err(CloseReason::NoRoute);
    };
    match mode {
        TlsMode::Terminate => terminate(client, guard, tls, subset, deadline, turns, account).await,
        TlsMode::Passthrough => {
            let encryption = Encryption::PassedThrough(start_tls);
            Box::pin(forward(client, guard, subset, encryption, account)).await
        }
    }
}

/// The server name in a client's first bytes, which are left for whoever reads next.
async fn server_name(client: &mut Prefixed<Stream>, account: &mut Account) -> Result<Option<Box<str>>, CloseReason> {
    let (mut read, mut charge) = (Vec::new(), None);
    let grow = |room| HANDSHAKE_MEMORY.cover(&mut charge, room);
    let hello = match read_client_hello_with(client, &mut read, grow).await {
        Ok(hello) => hello,
        Err(HelloError::MemoryFull(_)) => return Err(CloseReason::HandshakeMemory),
        Err(error) => return Err(account.handshake_failed(HandshakeFault::of_hello(&error, &read))),
    };
    client.unread(read);
    client.charge(charge);
    Ok(hello.server_name)
}

/// Hands a request to cancel a query to every server that may have its session.
async fn cancel(
    mut client: Prefixed<Stream>,
    request: CancelRequest,
    routes: &Routes,
    account: &Account,
) -> Result<CloseReason, CloseReason> {
    let endpoints = routes.all().iter().flat_map(|route| route.subset.endpoints());
    let usable = endpoints.filter(|endpoint| endpoint.usable());
    let servers: BTreeMap<_, _> = usable.map(|endpoint| (endpoint.address(), endpoint)).collect();
    let introduction = introduce(client.get_mut(), Encryption::OfBackend, account);
    let open = async |endpoint: Arc<Endpoint>| {
        // A reset could overtake the request.
        Ok(match connect::open(&endpoint, &introduction).await? {
            Reached::Plain(mut server) => {
                server.get_mut().ended_cleanly();
                Either::Left(server)
            }
            Reached::Tls(mut server) => {
                server.stream().ended_cleanly();
                Either::Right(server)
            }
        })
    };
    let live = &account.serving.live;
    let from = Requester::new(live.id, account.client.ip());
    if !request.hand_over(&live.cancels, from, servers.into_values().map(open)).await {
        return Err(CloseReason::CancelSuperseded);
    }
    client.get_mut().ended_cleanly();
    Ok(CloseReason::Complete)
}

async fn terminate(
    client: Prefixed<Stream>,
    guard: Option<Box<SignatureGuard>>,
    tls: &ServerTls,
    subset: &Subset,
    deadline: Instant,
    turns: &Turns,
    account: &mut Account,
) -> Result<CloseReason, CloseReason> {
    // Nothing usable is known before any work on TLS.
    if !subset.may_serve() {
        return Err(CloseReason::NoEndpoint);
    }
    // A handshake's state is large: a connection has no room for it later.
    let client = Box::pin(handshake(client, tls, deadline, turns, account)).await?;
    Box::pin(forward(client, guard, subset, Encryption::OfBackend, account)).await
}

async fn handshake(
    client: Prefixed<Stream>,
    tls: &ServerTls,
    deadline: Instant,
    turns: &Turns,
    account: &mut Account,
) -> Result<TlsClient, CloseReason> {
    let accepting = TlsAcceptor::from(tls.config()).accept(LastFlight::new(client)).into_fallible();
    match timeout_at(deadline, turns.run(accepting)).await {
        Ok(Ok(mut client)) => {
            client.get_mut().0.handshake_done();
            account.handshake_done(client.get_ref().1);
            let identity = account.tls.as_ref().and_then(|tls| tls.agreed.as_ref()?.identity.as_ref());
            if identity.is_some_and(Identity::has_expired) {
                return Err(account.handshake_failed(HandshakeFault::Expired));
            }
            Ok(client)
        }
        Ok(Err((error, mut client))) => {
            // The alert that says why, if the handshake had come that far.
            let _ = poll_fn(|cx| Poll::Ready(client.poll_send(cx))).await;
            if error.get_ref().is_some_and(|error| error.is::<MemoryFull>()) {
                return Err(CloseReason::HandshakeMemory);
            }
            Err(account.handshake_failed(HandshakeFault::of(&error)))
        }
        Err(_) => Err(CloseReason::TlsTimeout),
    }
}

/// Connects an admitted client with a backend and relays.
fn forward<'a, C: Side + 'a>(
    mut client: C,
    guard: Option<Box<SignatureGuard>>,
    subset: &'a Subset,
    encryption: Encryption,
    account: &'a mut Account,
) -> impl Future<Output = Result<CloseReason, CloseReason>> + 'a {
    let serving = account.serving.clone();
    // Not an `async fn`, which would have room for the client twice.
    async move {
        // Boxed, so that an open connection has no room for what was to do before.
        let begun = Instant::now();
        let introduction = introduce(client.stream(), encryption, account);
        let reached = connect::first_reachable(subset, &introduction, &mut account.attempts);
        let (backend, active) = Box::pin(reached).await?;
        account.connected(active.endpoint(), begun.elapsed());
        let deadlines = deadlines(&serving.listener, account.accepted_at());
        Ok(match backend {
            Reached::Plain(mut backend) => {
                relay::both_ways(&mut client, &mut backend, deadlines, guard, &*account).await
            }
            Reached::Tls(backend) => {
                account.backend_handshake_done(backend.get_ref().1);
                relay_encrypted(&mut client, backend, deadlines, guard, account).await
            }
        })
    }
}

/// Apart from the relay over TCP, which the compiler would make slower if it made one piece of both.
#[inline(never)]
fn relay_encrypted<'a>(
    client: &'a mut impl Side,
    mut backend: Box<TlsBackend>,
    deadlines: Deadlines,
    guard: Option<Box<SignatureGuard>>,
    account: &'a Account,
) -> LocalBoxFuture<'a, CloseReason> {
    async move { relay::both_ways(client, &mut *backend, deadlines, guard, account).await }.boxed_local()
}

/// What endpoints are told of a client.
fn introduce<'a>(stream: &'a Stream, encryption: Encryption, account: &Account) -> Introduction<'a> {
    let (client, destination, client_tls) = (account.client, account.destination, account.tls.clone());
    Introduction { stream, client, destination, client_tls, encryption }
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
