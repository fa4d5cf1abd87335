//! Records of connections: every accepted connection is counted as closed exactly once, and offered to the access log.

use std::{
    cell::{Cell, RefCell},
    mem,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant as StdInstant, SystemTime},
};

use tokio::time::Instant;

use super::relay::Meter;
use crate::{
    proxy::{
        access_log::{AccessLog, Attempts, ConnectionId, Event, Kind, logs_end, logs_start},
        accounting::{CloseReason, Shard},
        listener::ListenerConfig,
        stream::{Stream, relay_memory::RelayShare},
        tls::{ClientTls, HandshakeFault, Identity},
    },
    upstream::{
        Endpoint,
        socket_options::{set_keepalive, set_urgent_inline},
    },
};

/// Records the connections of one worker.
#[derive(Debug)]
pub struct ConnectionRecorder {
    worker: usize,
    log: Arc<AccessLog>,
    /// The number of the next connection.
    next: Cell<u64>,
    started: StdInstant,
}

impl ConnectionRecorder {
    pub fn new(worker: usize, log: Arc<AccessLog>) -> Self {
        Self { worker, log, next: Cell::default(), started: StdInstant::now() }
    }

    /// Records a connection that was never served.
    pub fn record_unserved(
        self: &Rc<Self>,
        config: &Arc<ListenerConfig>,
        peer: SocketAddr,
        at: Instant,
        reason: CloseReason,
    ) {
        let session = Rc::new(self.begin(config, peer, at));
        let mut record = ConnectionRecord::open(self.clone(), config.clone(), session, peer);
        record.reason = Some(reason);
    }

    /// A connection that was just accepted.
    pub fn begin(&self, config: &ListenerConfig, peer: SocketAddr, accepted_at: Instant) -> Session {
        Session {
            id: self.next_id(),
            accepted_at,
            listener: config.state.id,
            client: Cell::new(canonical(peer)),
            tls: RefCell::default(),
            endpoint: Cell::new(0),
            endpoint_address: Cell::new(None),
            last_activity: Cell::new(accepted_at),
            bytes_to_backend: Cell::new(0),
            bytes_to_client: Cell::new(0),
            cancelled: Cell::new(None),
        }
    }

    /// The id of a new connection.
    fn next_id(&self) -> ConnectionId {
        let number = self.next.get();
        self.next.set(number + 1);
        ConnectionId { worker: self.worker as u16, number }
    }
}

/// An open connection, as its worker sees it.
#[derive(Debug)]
pub struct Session {
    pub id: ConnectionId,
    pub accepted_at: Instant,
    /// The id of its listener.
    pub listener: u64,
    /// The client's address from a PROXY header; otherwise the peer.
    client: Cell<SocketAddr>,
    tls: RefCell<Option<Arc<ClientTls>>>,
    /// The id of its endpoint; 0: not connected yet.
    endpoint: Cell<u64>,
    endpoint_address: Cell<Option<SocketAddr>>,
    last_activity: Cell<Instant>,
    bytes_to_backend: Cell<u64>,
    bytes_to_client: Cell<u64>,
    /// The reason why its task is being cancelled.
    cancelled: Cell<Option<CloseReason>>,
}

impl Session {
    pub fn client(&self) -> SocketAddr {
        self.client.get()
    }

    /// The TLS of the client, as far as it is known.
    pub fn tls(&self) -> Option<Arc<ClientTls>> {
        self.tls.borrow().clone()
    }

    pub fn endpoint_address(&self) -> Option<SocketAddr> {
        self.endpoint_address.get()
    }

    pub fn bytes_to_backend(&self) -> u64 {
        self.bytes_to_backend.get()
    }

    pub fn bytes_to_client(&self) -> u64 {
        self.bytes_to_client.get()
    }

    pub fn last_activity(&self) -> Instant {
        self.last_activity.get()
    }

    pub fn endpoint(&self) -> u64 {
        self.endpoint.get()
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.get().is_some()
    }

    /// Sets the close reason. Call this before the connection's task is aborted.
    pub fn cancel(&self, reason: CloseReason) {
        self.cancelled.set(Some(reason));
    }
}

#[cfg(test)]
impl Session {
    /// A session of the client 10.0.x.y, where x and y are the low bytes of the number. Every fourth one has no endpoint
    /// yet; the others have 10.9.0.1 or 10.9.0.2.
    pub fn for_test(number: u64, listener: u64, accepted_at: Instant) -> Self {
        let [.., high, low] = number.to_be_bytes();
        let endpoint = match number % 4 {
            0 => None,
            1 => Some(SocketAddr::from(([10, 9, 0, 1], 5432))),
            _ => Some(SocketAddr::from(([10, 9, 0, 2], 5432))),
        };
        Self {
            id: ConnectionId { worker: 0, number },
            accepted_at,
            listener,
            client: Cell::new(SocketAddr::from(([10, 0, high, low], 40_000))),
            tls: RefCell::default(),
            endpoint: Cell::new(0),
            endpoint_address: Cell::new(endpoint),
            last_activity: Cell::new(accepted_at),
            bytes_to_backend: Cell::new(0),
            bytes_to_client: Cell::new(0),
            cancelled: Cell::new(None),
        }
    }

    pub fn moved(&self, at: Instant, bytes: u64) {
        self.last_activity.set(at);
        self.bytes_to_client.set(bytes);
    }
}

/// The record of one connection. Dropping it records the end, also when the task is cancelled or panics.
pub struct ConnectionRecord {
    recorder: Rc<ConnectionRecorder>,
    session: Rc<Session>,
    pub config: Arc<ListenerConfig>,
    /// The peer of the TCP connection.
    pub peer: SocketAddr,
    /// The address that the client connected to, from a PROXY header.
    pub destination: Option<SocketAddr>,
    /// `None`: none, or the listener has a single route for all clients.
    pub route: Option<Arc<str>>,
    backend: Option<Arc<str>>,
    pub attempts: Attempts,
    connect: Option<Duration>,
    /// `None` until the connection ends by itself.
    pub reason: Option<CloseReason>,
}

impl ConnectionRecord {
    pub fn open(
        recorder: Rc<ConnectionRecorder>,
        config: Arc<ListenerConfig>,
        session: Rc<Session>,
        peer: SocketAddr,
    ) -> Self {
        Self {
            recorder,
            session,
            config,
            peer: canonical(peer),
            destination: None,
            route: None,
            backend: None,
            attempts: Attempts::default(),
            connect: None,
            reason: None,
        }
    }

    pub fn accepted_at(&self) -> Instant {
        self.session.accepted_at
    }

    /// The client's address from a PROXY header; otherwise the peer.
    pub fn client(&self) -> SocketAddr {
        self.session.client()
    }

    pub fn set_client(&self, client: SocketAddr) {
        self.session.client.set(canonical(client));
    }

    pub fn tls(&self) -> Option<Arc<ClientTls>> {
        self.session.tls()
    }

    /// True if the client presented a certificate that has expired.
    pub fn has_expired_identity(&self) -> bool {
        let tls = self.session.tls.borrow();
        let identity = tls.as_ref().and_then(|tls| tls.agreed.as_ref()?.identity.as_ref());
        identity.is_some_and(Identity::has_expired)
    }

    fn set_tls(&self, tls: ClientTls) {
        self.session.tls.replace(Some(Arc::new(tls)));
    }

    fn shard(&self) -> &Shard {
        self.config.state.counters.shard(self.recorder.worker)
    }

    pub fn handshake_done(&mut self, tls: &rustls::CommonState, server_name: Option<Box<str>>) {
        let shard = self.shard();
        match tls.handshake_kind() {
            Some(rustls::HandshakeKind::Resumed) => shard.tls_resumed_handshakes.add(1),
            _ => shard.tls_full_handshakes.add(1),
        }
        self.set_tls(ClientTls::of(tls, server_name));
    }

    /// Records the server name that a client requests, before TLS is terminated or passed through.
    pub fn asked_for(&mut self, server_name: Option<&str>) {
        self.set_tls(ClientTls { server_name: server_name.map(Into::into), ..ClientTls::default() });
    }

    /// Records the fault of a failed handshake, and returns the close reason.
    pub fn handshake_failed(&mut self, fault: HandshakeFault) -> CloseReason {
        let known = self.session.tls.take().map(Arc::unwrap_or_clone).unwrap_or_default();
        self.set_tls(ClientTls { fault: Some(fault), ..known });
        if fault.is_of_certificate() { CloseReason::TlsClientCertificate } else { CloseReason::TlsFailed }
    }

    /// Counts a TLS handshake with a backend.
    pub fn backend_handshake_done(&self, tls: &rustls::CommonState) {
        match tls.handshake_kind() {
            Some(rustls::HandshakeKind::Resumed) => self.shard().backend_tls_resumed_handshakes.add(1),
            _ => self.shard().backend_tls_full_handshakes.add(1),
        }
    }

    pub fn connected(&mut self, endpoint: &Endpoint, took: Duration) {
        if self.recorder.log.wants_ends() || self.recorder.log.has_followers() {
            self.backend = Some(endpoint.key().backend.clone());
        }
        self.session.endpoint_address.set(Some(endpoint.address()));
        self.session.endpoint.set(endpoint.id());
        self.connect = Some(took);
        self.shard().record_connect(took);
    }

    /// Logs the start of an admitted connection, before TLS.
    pub fn log_start(&mut self) {
        if self.recorder.log.wants_starts() && logs_start(self.config.listener.access_log, self.session.id) {
            let event = self.take_event(Kind::Start, self.accepted_at().elapsed());
            self.recorder.log.offer(event, &self.config.state.queued_events);
        }
    }

    /// Offers the end to the access log, if its listener logs it, and shows it to followers.
    fn log_end(&mut self, reason: CloseReason, duration: Duration) {
        let (logged, followed) = (self.logs_end(reason), self.recorder.log.has_followers());
        if !logged && !followed {
            return;
        }
        let event = self.take_event(Kind::End(reason), duration);
        if followed {
            self.recorder.log.show(&event);
        }
        if logged {
            self.recorder.log.offer(event, &self.config.state.queued_events);
        }
    }

    /// True if the end is to be logged. Otherwise it is counted; refusals of a listener above the rate limit are only
    /// counted.
    fn logs_end(&self, reason: CloseReason) -> bool {
        let log = &self.recorder.log;
        if !log.wants_ends() {
            return false;
        }
        let is_failure = reason.is_failure() || !self.attempts.failed.is_empty();
        if !logs_end(self.config.listener.access_log, self.session.id, is_failure) {
            log.suppress();
            return false;
        }
        if reason.is_refusal() && !self.shard().may_log_refusal(self.recorder.started.elapsed().as_secs()) {
            log.leave_out();
            return false;
        }
        true
    }

    /// Moves values that only the end event has, without counting references again. At the start they are absent.
    fn take_event(&mut self, kind: Kind, duration: Duration) -> Event {
        Event {
            kind,
            at: SystemTime::now(),
            id: self.session.id,
            listener: self.config.label.clone(),
            peer: self.peer,
            client: self.client(),
            tls: self.session.tls.take(),
            route: self.route.take(),
            backend: self.backend.take(),
            endpoint: self.session.endpoint_address(),
            attempts: mem::take(&mut self.attempts),
            bytes_to_backend: self.session.bytes_to_backend.get(),
            bytes_to_client: self.session.bytes_to_client.get(),
            connect: self.connect,
            duration,
        }
    }
}

impl Drop for ConnectionRecord {
    fn drop(&mut self) {
        let reason = self.reason.or(self.session.cancelled.get()).unwrap_or(CloseReason::Internal);
        let shard = self.shard();
        shard.close(reason);
        let duration = self.accepted_at().elapsed();
        shard.record_duration(duration);
        self.log_end(reason, duration);
    }
}

impl Meter for ConnectionRecord {
    fn memory(&self) -> &RelayShare {
        &self.config.state.relay_memory
    }

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

    /// Sets keepalive and SO_OOBINLINE on long-lived connections only: their system calls would be a considerable part
    /// of the cost of a short connection. A connection gets SO_OOBINLINE earlier only where urgent data is noticed.
    fn long_lived(&self, backend: &Stream) {
        // Fails only for a socket that is closed, which the relay detects.
        let _ = set_keepalive(backend.tcp(), self.config.upstream.keepalive());
        let _ = set_urgent_inline(backend.tcp());
    }
}

/// Converts IPv4-mapped IPv6 addresses, which dual-stack sockets report for IPv4 clients, to IPv4.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
