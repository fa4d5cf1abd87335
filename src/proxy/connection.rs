//! The way of a connection: PROXY header, admission, TLS, connect, relay, account.

use std::{
    cell::Cell,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    access_log::{Event, Kind, TlsEvent},
    accounting::{CloseReason, Shard},
    admission::{ConnectionPermit, Permit, Refusal},
    connect,
    listener::Serving,
    prefixed::Prefixed,
    proxy_protocol::{self, SignatureGuard},
    relay::{self, Deadlines, Meter, Side},
    stream::Stream,
    tls::ServerTls,
    worker::Worker,
};
use crate::model::{Listener, ProxyMode, ShutdownDrain};

/// What is known of a connection that has been counted and not been read from.
#[derive(Debug)]
pub struct Accepted {
    pub peer: SocketAddr,
    pub serving: Arc<Serving>,
    pub at: Instant,
    pub permits: Permits,
}

/// What an open connection holds: a place in its load balancer's share of the process, in the process, and in its
/// listener.
pub type Permits = (Permit, Permit, ConnectionPermit);

/// What a worker knows of one of its open connections.
#[derive(Debug)]
pub struct Session {
    pub drain: ShutdownDrain,
    last_activity: Cell<Instant>,
    bytes_to_backend: Cell<u64>,
    bytes_to_client: Cell<u64>,
    /// Why its task is being cancelled.
    cancelled: Cell<Option<CloseReason>>,
}

impl Session {
    pub fn new(accepted: &Accepted) -> Self {
        Self {
            drain: accepted.serving.listener.drain,
            last_activity: Cell::new(accepted.at),
            bytes_to_backend: Cell::new(0),
            bytes_to_client: Cell::new(0),
            cancelled: Cell::new(None),
        }
    }

    pub fn last_activity(&self) -> Instant {
        self.last_activity.get()
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.get().is_some()
    }

    /// States the reason for which the connection's task is about to be aborted.
    pub fn cancel(&self, reason: CloseReason) {
        self.cancelled.set(Some(reason));
    }
}

/// Serves a client to the end and accounts for it, however it ends: also when the task is never run.
pub fn serve(tcp: TcpStream, accepted: Accepted, worker: Rc<Worker>, session: Rc<Session>) -> impl Future<Output = ()> {
    let Accepted { peer, serving, at, permits } = accepted;
    let mut account = Account::open(serving, worker, session, peer, at);
    let client = Stream::new(tcp);
    async move {
        account.reason = Some(admit(client, &mut account).await.unwrap_or_else(|reason| reason));
        drop((account, permits));
    }
}

/// Learns who the client is and whether it may connect. Nothing is dialled or decrypted for one that may not.
async fn admit(mut client: Stream, account: &mut Account) -> Result<CloseReason, CloseReason> {
    let serving = account.serving.clone();
    let listener = &*serving.listener;
    let announced = read_proxy_header(&mut client, listener, account).await?;
    let admission = &serving.live.admission;
    let _permit = admission
        .admit_source(listener, account.client.ip(), announced.source, Instant::now().into_std())
        .map_err(CloseReason::from)?;
    account.log_start();
    let client = Prefixed::new(announced.rest, client);
    match &serving.tls {
        None => forward(client, announced.guard, account).await,
        // A handshake's state is large: it is not to be part of every plain connection.
        Some(tls) => {
            let client = Box::pin(handshake(client, tls, listener.timeouts.handshake, account)).await?;
            Box::pin(forward(client, announced.guard, account)).await
        }
    }
}

/// What a PROXY header, or its absence, says of the client.
struct Announced {
    /// Whose limits it counts against; `None`: nobody's (a health check of the load balancer in front).
    source: Option<IpAddr>,
    /// Bytes that came with the header.
    rest: Vec<u8>,
    guard: Option<SignatureGuard>,
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
    let guard = Some(SignatureGuard::new());
    if !expected.trusted.contains(peer) {
        return match expected.mode {
            ProxyMode::Required => Err(CloseReason::ProxyUntrusted),
            ProxyMode::Optional => Ok(Announced { source: Some(peer), rest: Vec::new(), guard }),
        };
    }
    let header = timeout(listener.timeouts.handshake, proxy_protocol::read_header(client))
        .await
        .map_err(|_| CloseReason::ProxyInvalid)?
        .map_err(|_| CloseReason::ProxyInvalid)?;
    if let Some(announced) = header.announced {
        account.client = canonical(announced.source);
        account.destination = Some(announced.destination);
    }
    Ok(Announced { source: header.announced.map(|_| account.client.ip()), rest: header.rest, guard })
}

async fn handshake(
    client: Prefixed<Stream>,
    tls: &ServerTls,
    deadline: Duration,
    account: &mut Account,
) -> Result<TlsStream<Prefixed<Stream>>, CloseReason> {
    let client = timeout(deadline, TlsAcceptor::from(tls.config()).accept(client))
        .await
        .map_err(|_| CloseReason::TlsTimeout)?
        .map_err(|_| CloseReason::TlsFailed)?;
    account.handshake_done(client.get_ref().1);
    Ok(client)
}

/// Connects an admitted client with a backend and relays.
async fn forward<C: Side>(
    mut client: C,
    guard: Option<SignatureGuard>,
    account: &mut Account,
) -> Result<CloseReason, CloseReason> {
    let serving = account.serving.clone();
    let (mut backend, active) =
        connect::first_reachable(&serving.upstream, account.client.ip(), &mut account.attempts).await?;
    account.connected(active.endpoint().address());
    if let Some(version) = active.endpoint().proxy_protocol() {
        // Without an announced one: where the client connected to. A socket without an address is gone already.
        let own = || client.stream().local_addr().map_err(|_| CloseReason::ClientReset);
        let destination = account.destination.map_or_else(own, Ok)?;
        let header = proxy_protocol::encode(version, account.client, destination);
        backend.write_all(header.as_bytes()).await.map_err(|_| CloseReason::BackendReset)?;
    }
    let timeouts = serving.listener.timeouts;
    let deadlines = Deadlines {
        idle: timeouts.idle,
        half_closed: timeouts.half_closed,
        end: timeouts.max_duration.and_then(|longest| {
            let shortened = longest.mul_f64(1.0 - fastrand::f64() * f64::from(timeouts.jitter_percent) / 100.0);
            account.accepted_at.checked_add(shortened)
        }),
    };
    Ok(relay::both_ways(&mut client, &mut backend, deadlines, guard, &*account).await)
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

impl Side for Stream {
    fn stream(&mut self) -> &mut Stream {
        self
    }
}

impl Side for Prefixed<Stream> {
    fn stream(&mut self) -> &mut Stream {
        self.get_mut()
    }
}

impl Side for TlsStream<Prefixed<Stream>> {
    fn stream(&mut self) -> &mut Stream {
        self.get_mut().0.get_mut()
    }
}

/// Keeps the books of one connection and closes them when it is dropped: also when the task is cancelled or panics.
struct Account {
    serving: Arc<Serving>,
    worker: Rc<Worker>,
    session: Rc<Session>,
    accepted_at: Instant,
    peer: SocketAddr,
    client: SocketAddr,
    /// Where the client connected to, as a PROXY header announced it.
    destination: Option<SocketAddr>,
    tls: Option<TlsEvent>,
    endpoint: Option<SocketAddr>,
    attempts: u16,
    connect: Option<Duration>,
    reason: Option<CloseReason>,
}

impl Account {
    fn open(
        serving: Arc<Serving>,
        worker: Rc<Worker>,
        session: Rc<Session>,
        peer: SocketAddr,
        accepted_at: Instant,
    ) -> Self {
        let peer = canonical(peer);
        Self {
            serving,
            worker,
            session,
            accepted_at,
            peer,
            client: peer,
            destination: None,
            tls: None,
            endpoint: None,
            attempts: 0,
            connect: None,
            reason: None,
        }
    }

    fn shard(&self) -> &Shard {
        self.serving.live.counters.shard(self.worker.index)
    }

    fn handshake_done(&mut self, tls: &rustls::ServerConnection) {
        let shard = self.shard();
        match tls.handshake_kind() {
            Some(rustls::HandshakeKind::Resumed) => shard.tls_resumed_handshakes.add(1),
            _ => shard.tls_full_handshakes.add(1),
        }
        self.tls = Some(TlsEvent {
            server_name: tls.server_name().map(Into::into),
            version: match tls.protocol_version() {
                Some(rustls::ProtocolVersion::TLSv1_2) => "TLS1.2",
                _ => "TLS1.3",
            },
        });
    }

    fn connected(&mut self, endpoint: SocketAddr) {
        let took = self.accepted_at.elapsed();
        self.endpoint = Some(endpoint);
        self.connect = Some(took);
        self.shard().connect.observe(took);
    }

    fn log_start(&self) {
        let log = &self.worker.shared.access_log;
        if log.wants_starts() {
            log.offer(self.event(Kind::Start));
        }
    }

    fn event(&self, kind: Kind) -> Event {
        Event {
            kind,
            at: SystemTime::now(),
            listener: self.serving.label.clone(),
            peer: self.peer,
            client: self.client,
            tls: self.tls.clone(),
            endpoint: self.endpoint,
            attempts: self.attempts,
            bytes_to_backend: self.session.bytes_to_backend.get(),
            bytes_to_client: self.session.bytes_to_client.get(),
            connect: self.connect,
            duration: self.accepted_at.elapsed(),
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let reason = self.reason.or(self.session.cancelled.get()).unwrap_or(CloseReason::Internal);
        let shard = self.shard();
        shard.close(reason);
        shard.duration.observe(self.accepted_at.elapsed());
        self.worker.log_end(reason, || self.event(Kind::End(reason)));
    }
}

impl Meter for Account {
    fn sent_to_backend(&self, bytes: usize) {
        self.session.bytes_to_backend.set(self.session.bytes_to_backend.get() + bytes as u64);
        self.shard().bytes_to_backend.add(bytes as u64);
    }

    fn sent_to_client(&self, bytes: usize) {
        self.session.bytes_to_client.set(self.session.bytes_to_client.get() + bytes as u64);
        self.shard().bytes_to_client.add(bytes as u64);
    }

    fn active(&self, now: Instant) {
        self.session.last_activity.set(now);
    }
}

/// IPv4 clients of a socket for both families come as IPv4-mapped IPv6 addresses.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
