//! A connection from its acceptance to its record: PROXY header, admission, TLS or route, backend, relay.

mod cancel;
mod connect;
pub mod handshake_limiter;
pub mod record;
mod relay;
mod sides;
mod tls;

use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

use futures::{FutureExt, future::LocalBoxFuture};
use tokio::time::{Instant, timeout};

use self::{
    connect::{ClientInfo, Encryption},
    handshake_limiter::HandshakeLimiter,
    record::{ConnectionRecord, ConnectionRecorder, Session},
    relay::{Deadlines, both_ways},
    sides::{BackendConnection, ClientConnection},
    tls::{Destination, Termination},
};
use super::{
    accounting::CloseReason,
    admission::{ConnectionPermit, Refusal},
    listener::{ListenerConfig, TlsHandling},
    proxy_protocol::{self, SignatureGuard},
    stream::{Stream, prefixed_io::PrefixedIo},
};
use crate::{
    capacity::Permit,
    model::{Listener, ProxyMode},
    tcp::TcpSocket,
    upstream::{ActiveConnection, Subset},
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
        record.reason = Some(run(client, &handshakes, &mut record).await.unwrap_or_else(|reason| reason));
        drop((record, permits));
    }
}

/// Takes a connection through its steps. Nothing is dialled or decrypted for a client that is refused.
///
/// The futures of larger steps are boxed: an open connection keeps no space for steps that are done or that it does
/// not have.
async fn run(
    mut client: Stream,
    handshakes: &HandshakeLimiter,
    record: &mut ConnectionRecord,
) -> Result<CloseReason, CloseReason> {
    let config = record.config.clone();
    let listener = &*config.listener;

    let ClientIdentity { source, rest, guard } = read_proxy_header(&mut client, listener, record).await?;

    let admission = &config.state.admission;
    let _permit = admission.admit_source(listener, record.client().ip(), source, Instant::now().into_std())?;
    record.log_start();

    let mut client = PrefixedIo::new(rest, client);
    let destination = match &config.tls_handling {
        TlsHandling::Plaintext(subset) => Destination { subset, termination: None, encryption: Encryption::OfBackend },
        TlsHandling::Terminate { tls, subset } => {
            let termination = Some(Termination { tls, deadline: Instant::now() + listener.timeouts.handshake });
            Destination { subset, termination, encryption: Encryption::OfBackend }
        }
        TlsHandling::SniRouting { tls, routes } => Box::pin(tls::find_route(&mut client, tls, routes, record)).await?,
    };
    let Destination { subset, termination, encryption } = destination;

    let mut client = match termination {
        None => ClientConnection::Plain(client),
        // Refused before any work on TLS.
        Some(_) if !subset.may_serve() => return Err(CloseReason::NoEndpoint),
        Some(termination) => Box::pin(tls::terminate(client, termination, handshakes, record)).await?,
    };

    // Dropped in reverse order: the endpoint counts the connection until it is closed.
    let (_active, mut backend) = Box::pin(connect(&mut client, subset, encryption, record)).await?;

    let deadlines = deadlines(listener, record.accepted_at());
    Ok(relay(&mut client, &mut backend, deadlines, guard, record).await)
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
        record.set_client(addresses.source);
        record.destination = Some(addresses.destination);
    }
    Ok(ClientIdentity { source: header.addresses.map(|_| record.client().ip()), rest: header.rest, guard })
}

/// Connects an admitted client to an endpoint.
async fn connect(
    client: &mut ClientConnection,
    subset: &Subset,
    encryption: Encryption,
    record: &mut ConnectionRecord,
) -> Result<(ActiveConnection, BackendConnection), CloseReason> {
    let begun = Instant::now();
    let client_info = ClientInfo::new(client.stream(), encryption, record);
    let (backend, active) = connect::first_reachable(subset, &client_info, &mut record.attempts).await?;
    record.connected(active.endpoint(), begun.elapsed());
    if let BackendConnection::Tls(backend) = &backend {
        record.backend_handshake_done(backend.state());
    }
    Ok((active, backend))
}

/// Relays between a client and a backend until the connection ends. Each combination has a future of its own, in a box
/// of its size.
fn relay<'a>(
    client: &'a mut ClientConnection,
    backend: &'a mut BackendConnection,
    deadlines: Deadlines,
    guard: Option<Box<SignatureGuard>>,
    record: &'a ConnectionRecord,
) -> LocalBoxFuture<'a, CloseReason> {
    use {BackendConnection as Backend, ClientConnection as Client};
    match (client, backend) {
        (Client::Plain(client), Backend::Plain(backend)) => {
            both_ways(client, backend, deadlines, guard, record).boxed_local()
        }
        (Client::Plain(client), Backend::Tls(backend)) => {
            both_ways(client, &mut **backend, deadlines, guard, record).boxed_local()
        }
        (Client::Tls(client), Backend::Plain(backend)) => {
            both_ways(&mut **client, backend, deadlines, guard, record).boxed_local()
        }
        (Client::Tls(client), Backend::Tls(backend)) => {
            both_ways(&mut **client, &mut **backend, deadlines, guard, record).boxed_local()
        }
    }
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
