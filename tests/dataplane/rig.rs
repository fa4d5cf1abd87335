//! A proxy in this process, with backends and clients that use blocking sockets.
//!
//! Tests wait for states, never for a fixed time; each wait may take up to [`WAIT_LIMIT`].

use std::{
    collections::BTreeMap,
    fmt::Debug,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    num::{NonZeroU16, NonZeroU32},
    os::fd::AsFd,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use socket2::{Domain, SockRef, Socket, Type};
use tcplb::{
    drain::DrainMode,
    model::{
        Access, AccessLogSettings, ActiveCheck, Balancing, BindState, Close, Connect, EndpointConfig, EndpointDrain,
        EndpointKey, Keepalive, Limits, Listener, ListenerDrain, ListenerKey, ObjectKey, Priority, Probe, Proximity,
        Snapshot, StableId, Timeouts, Transport, UpstreamConfig, UpstreamKey, Weight,
    },
    proxy::{
        DrainOutcome, ListenerState, Monitor, Options, Proxy,
        access_log::{AccessLog, Events, Format, LineEncoder, ProcessIdentity},
        accounting::CloseReason,
        socket::Sharing,
    },
    upstream,
};
use tokio::runtime::Runtime;

/// The time limit of each wait.
pub const WAIT_LIMIT: Duration = Duration::from_secs(30);

/// A running proxy. On drop it waits until all connections have ended, and checks the counters.
pub struct Rig {
    proxy: Option<Proxy>,
    pub monitor: Monitor,
    snapshot: Snapshot,
    /// All listeners so far: the proxy forgets removed ones.
    listeners: BTreeMap<String, Arc<ListenerState>>,
    endpoints: Vec<Arc<upstream::Endpoint>>,
    log: Lines,
    control: Runtime,
}

/// The resources of a proxy.
pub struct Size {
    pub workers: usize,
    pub capacity: usize,
    pub preconnected: usize,
    /// For each worker.
    pub pipes: usize,
    /// The first descriptor that clients must not use.
    pub spare_from: i32,
}

impl Default for Size {
    fn default() -> Self {
        Self { workers: 2, capacity: 4000, preconnected: 64, pipes: 16, spare_from: i32::MAX }
    }
}

impl Rig {
    /// One listener in front of these endpoints.
    pub fn new(backends: &[SocketAddr]) -> Self {
        Self::with(backends, |_, _| {})
    }

    pub fn with(backends: &[SocketAddr], change: impl FnOnce(&mut Listener, &mut UpstreamConfig)) -> Self {
        Self::sized(Size::default(), backends, change)
    }

    pub fn sized(size: Size, backends: &[SocketAddr], change: impl FnOnce(&mut Listener, &mut UpstreamConfig)) -> Self {
        let (mut listener, mut upstream) = (listener(), upstream(backends));
        change(&mut listener, &mut upstream);
        let snapshot = Snapshot {
            generation: 0,
            listeners: [(listener_key(), Arc::new(listener))].into_iter().collect(),
            upstreams: [(upstream_key(), Arc::new(upstream))].into_iter().collect(),
            ..Snapshot::default()
        };
        Self::start(size, snapshot)
    }

    pub fn start(size: Size, snapshot: Snapshot) -> Self {
        Self::start_with(size, BTreeMap::new(), snapshot)
    }

    /// A second proxy with the listening sockets of this one, which only keeps its open connections.
    pub fn taken_over(&self, size: Size, snapshot: Snapshot) -> Self {
        let sockets = self.control.block_on(self.proxy().sockets()).into_iter();
        let copies = |sockets: Vec<Arc<_>>| sockets.iter().map(|socket| copy(&**socket)).collect();
        let inherited = sockets.map(|(address, sockets)| (address, copies(sockets))).collect();
        let other = Self::start_with(size, inherited, snapshot);
        self.control.block_on(self.proxy().stop_accepting());
        other
    }

    fn start_with(size: Size, inherited: BTreeMap<SocketAddr, Vec<TcpListener>>, snapshot: Snapshot) -> Self {
        // Many connections with both ends in this process need more descriptors than the usual limit.
        let limit = getrlimit(Resource::Nofile);
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
        let control = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let log = Lines::default();
        let encoder = LineEncoder { format: Format::Text, process: ProcessIdentity::new("test") };
        let (access_log, _) = AccessLog::start(Events::Ends, encoder, log.clone());
        let options = Options {
            workers: size.workers,
            // Includes the listening sockets of the first snapshot.
            descriptors: 2 * size.capacity + size.workers * snapshot.listeners.len(),
            spare_from: size.spare_from,
            probes: 1000,
            cancels: 512,
            preconnected: size.preconnected,
            pipes: size.pipes,
            sharing: Sharing::Exclusive,
            inherited,
            access_log,
        };
        let proxy = Proxy::start(options, control.handle()).unwrap();
        let mut rig = Self {
            monitor: proxy.monitor(),
            proxy: Some(proxy),
            snapshot,
            listeners: BTreeMap::new(),
            endpoints: Vec::new(),
            log,
            control,
        };
        rig.publish(|_| {});
        rig
    }

    /// Stops accepting, and ends open connections according to their drain policy, within this time.
    pub fn shut_down(&self, longest: Duration) -> DrainOutcome {
        self.control.block_on(async {
            self.proxy().stop_accepting().await;
            self.proxy().drain(DrainMode::AsDeclared, longest).await
        })
    }

    fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("there until it is dropped")
    }

    /// Publishes a changed snapshot and waits until it is applied.
    pub fn publish(&mut self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.snapshot);
        self.snapshot.generation += 1;
        let generation = self.snapshot.generation;
        self.proxy().publish(Arc::new(self.snapshot.clone()));
        wait_until("the snapshot is applied", || self.proxy().reports().borrow().generation == generation);
        let view = self.monitor.view();
        for listener in &*view.listeners {
            self.listeners.insert(format!("{:p}", Arc::as_ptr(listener)), listener.clone());
        }
        for endpoint in view.upstreams.iter().flat_map(|(_, upstream)| upstream.endpoints().to_vec()) {
            if !self.endpoints.iter().any(|known| Arc::ptr_eq(known, &endpoint)) {
                self.endpoints.push(endpoint);
            }
        }
    }

    pub fn change_listener(&mut self, change: impl FnOnce(&mut Listener)) {
        self.publish(|snapshot| change(Arc::make_mut(snapshot.listeners.get_mut(&listener_key()).unwrap())));
    }

    pub fn change_upstream(&mut self, change: impl FnOnce(&mut UpstreamConfig)) {
        self.publish(|snapshot| change(Arc::make_mut(snapshot.upstreams.get_mut(&upstream_key()).unwrap())));
    }

    /// The bind address of the listener.
    pub fn address(&self) -> SocketAddr {
        self.address_of(&listener_key())
    }

    pub fn address_of(&self, key: &ListenerKey) -> SocketAddr {
        match &self.proxy().reports().borrow().listeners[key] {
            BindState::Bound(address) => *address,
            BindState::Failed(sentence) => panic!("{key} is not bound: {sentence}"),
        }
    }

    pub fn connect(&self) -> TcpStream {
        connect(self.address())
    }

    /// A client and the backend's end of its connection.
    pub fn connect_to(&self, backend: &Backend) -> (TcpStream, TcpStream) {
        let client = self.connect();
        let served = backend.accept();
        (client, served)
    }

    /// The number of connections with this close reason, over all listeners so far.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.listeners.values().map(|listener| listener.counters.totals().closed(reason)).sum()
    }

    /// Waits until exactly this many connections have this close reason.
    pub fn wait_closed(&self, reason: CloseReason, count: u64) {
        wait_until_or(
            || format!("{count} connections ended as {reason:?}; ended: {:?}", self.reasons()),
            || self.closed(reason) >= count,
        );
        assert_eq!(self.closed(reason), count, "{reason:?}");
    }

    /// The close reasons of connections, with their counts.
    pub fn reasons(&self) -> BTreeMap<&'static str, u64> {
        let counts = CloseReason::ALL.map(|reason| (reason.label(), self.closed(reason)));
        counts.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    pub fn accepted(&self) -> u64 {
        self.listeners.values().map(|listener| listener.counters.totals().accepted).sum()
    }

    pub fn active(&self) -> u64 {
        self.listeners.values().map(|listener| listener.counters.totals().active()).sum()
    }

    pub fn bytes(&self) -> (u64, u64) {
        let totals = self.listeners.values().map(|listener| listener.counters.totals());
        totals.fold((0, 0), |sum, t| (sum.0 + t.bytes_to_backend, sum.1 + t.bytes_to_client))
    }

    pub fn handshakes(&self) -> (u64, u64) {
        let totals = self.listeners.values().map(|listener| listener.counters.totals());
        totals.fold((0, 0), |sum, t| (sum.0 + t.tls_full_handshakes, sum.1 + t.tls_resumed_handshakes))
    }

    /// Handshakes with backends: full ones and resumed ones.
    pub fn backend_handshakes(&self) -> (u64, u64) {
        let totals = self.listeners.values().map(|listener| listener.counters.totals());
        totals.fold((0, 0), |sum, t| (sum.0 + t.backend_tls_full_handshakes, sum.1 + t.backend_tls_resumed_handshakes))
    }

    /// The live endpoint with this address.
    pub fn endpoint(&self, address: SocketAddr) -> Arc<upstream::Endpoint> {
        self.endpoints.iter().rfind(|endpoint| endpoint.address() == address).expect("a known endpoint").clone()
    }

    /// The written lines of the access log.
    pub fn logged(&self) -> Vec<String> {
        String::from_utf8(lock(&self.log.0).clone()).unwrap().lines().map(Into::into).collect()
    }

    fn check_books(&self) {
        wait_until_or(
            || format!("every connection has ended; {} active, ended: {:?}", self.active(), self.reasons()),
            || {
                let books_are_closed = self.active() == 0 && self.monitor.open_by_worker().sum::<usize>() == 0;
                books_are_closed && self.endpoints.iter().all(|endpoint| endpoint.active() == 0)
            },
        );
        assert_eq!(self.monitor.capacity().lent(), 0, "no borrowed place is left behind");
        for listener in self.listeners.values() {
            assert_eq!(listener.admission.open(), 0, "no place of {} is left behind", listener.key);
            assert_eq!(listener.share.in_use(), 0, "no permit of {} is left behind", listener.key.object);
        }
        let closed: u64 = self.reasons().values().sum();
        assert_eq!(self.accepted(), closed, "each accepted connection has ended for one reason: {:?}", self.reasons());
        let log = self.monitor.access_log();
        let ends = log.logged() + log.dropped() + log.suppressed();
        assert_eq!(ends, closed, "each end is logged or counted as dropped or suppressed");
        wait_until("what is logged is written", || self.logged().len() as u64 == log.logged());
        for (label, count) in self.reasons() {
            let of_this = format!("reason={label}");
            let lines = self.logged().iter().filter(|line| line.split(' ').any(|pair| pair == of_this)).count() as u64;
            let without_line = log.dropped() + log.suppressed();
            assert!(lines <= count && lines + without_line >= count, "{lines} of {count} lines say {label}");
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.check_books();
        }
        self.proxy = None;
    }
}

fn copy(socket: &impl AsFd) -> TcpListener {
    socket.as_fd().try_clone_to_owned().unwrap().into()
}

/// The sink of the access log.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn listener_key() -> ListenerKey {
    ListenerKey { object: ObjectKey::new("shop", "db"), port: 1 }
}

pub fn upstream_key() -> UpstreamKey {
    UpstreamKey { object: ObjectKey::new("shop", "db") }
}

/// A listener on a free port of 127.0.0.1 without limits.
pub fn listener() -> Listener {
    Listener {
        name: "db".into(),
        bind: SocketAddr::from(([127, 0, 0, 1], 0)),
        upstream: upstream_key(),
        owner: None,
        tls: None,
        proxy_protocol: None,
        access: Access::default(),
        limits: Limits::default(),
        timeouts: Timeouts {
            handshake: WAIT_LIMIT,
            idle: None,
            half_closed: None,
            max_duration: None,
            jitter_percent: 0,
        },
        keepalive: Some(KEEPALIVE),
        drain: ListenerDrain { removed: None, shutdown: Some(close(WAIT_LIMIT, Duration::ZERO)) },
        access_log: AccessLogSettings::default(),
    }
}

/// Closes within `after`, over the last part of it.
pub fn close(after: Duration, spread: Duration) -> Close {
    Close { after, spread, max_per_second: None }
}

pub const KEEPALIVE: Keepalive =
    Keepalive { idle: Duration::from_secs(60), interval: Duration::from_secs(15), probes: 4 };

pub fn upstream(backends: &[SocketAddr]) -> UpstreamConfig {
    let mut endpoints: Vec<EndpointConfig> = backends.iter().copied().map(endpoint).collect();
    endpoints.sort_by(|one, other| one.key.cmp(&other.key));
    UpstreamConfig {
        balancing: Balancing { hash_prefix_v6: 64, ..Balancing::default() },
        backends: [("db".into(), Arc::default())].into(),
        endpoints,
        active_check: None,
        passive_check: None,
        connect: Connect {
            timeout: WAIT_LIMIT / 3,
            deadline: WAIT_LIMIT,
            attempts: NonZeroU16::new(3).unwrap(),
            preconnect: None,
        },
        keepalive: Some(KEEPALIVE),
        unready: BTreeMap::new(),
        drain: EndpointDrain::default(),
        rebalance: None,
    }
}

/// Probes every 50 ms; one result changes the state.
pub fn quick_check() -> ActiveCheck {
    ActiveCheck {
        probe: Probe::Tcp,
        port: None,
        transport: Transport::Plain,
        interval: Duration::from_millis(50),
        unhealthy_interval: Duration::from_millis(50),
        jitter_percent: 10,
        timeout: WAIT_LIMIT,
        healthy_after: NonZeroU16::MIN,
        unhealthy_after: NonZeroU16::MIN,
    }
}

/// The settings of the only backend, and so of each of its endpoints.
pub fn backend_of(upstream: &mut UpstreamConfig) -> &mut tcplb::model::Backend {
    Arc::make_mut(upstream.backends.get_mut("db").unwrap())
}

pub fn endpoint(address: SocketAddr) -> EndpointConfig {
    EndpointConfig {
        key: EndpointKey { backend: "db".into(), address, uid: None },
        stable_id: StableId::Address(address),
        weight: Weight::ONE,
        proximity: Proximity::Remote,
    }
}

/// Moves this endpoint to another backend, which serves only when the others cannot.
pub fn stand_by(upstream: &mut UpstreamConfig, address: SocketAddr) {
    let backend = tcplb::model::Backend { priority: Priority(1), ..Default::default() };
    upstream.backends.insert("spare".into(), Arc::new(backend));
    let mut own = upstream.endpoints.iter_mut();
    own.find(|endpoint| endpoint.key.address == address).unwrap().key.backend = "spare".into();
    upstream.endpoints.sort_by(|one, other| one.key.cmp(&other.key));
}

pub fn some(number: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(number)
}

/// A server of this test, which accepts on request.
pub struct Backend {
    socket: TcpListener,
    pub address: SocketAddr,
}

impl Backend {
    pub fn new() -> Self {
        Self::on("127.0.0.1:0")
    }

    pub fn on(address: &str) -> Self {
        let socket = TcpListener::bind(address).unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        Self { socket, address }
    }

    pub fn accept(&self) -> TcpStream {
        let mut accepted = None;
        wait_until("the backend gets a connection", || {
            accepted = self.accept_now();
            accepted.is_some()
        });
        accepted.unwrap()
    }

    pub fn accept_now(&self) -> Option<TcpStream> {
        match self.socket.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).unwrap();
                Some(patient(stream))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("cannot accept: {error}"),
        }
    }

    /// Serves every connection on its own thread, for as long as the test program runs.
    pub fn serving(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        // Not 128: when many clients connect at once on a busy machine, SYNs would be dropped, and connects would time
        // out.
        SockRef::from(&socket).listen(4096).unwrap();
        let address = socket.local_addr().unwrap();
        thread::spawn(move || {
            for stream in socket.incoming() {
                let (stream, serve) = (patient(stream.unwrap()), serve.clone());
                thread::spawn(move || serve(stream));
            }
        });
        address
    }

    /// Echoes bytes, and ends when the client does.
    pub fn echo() -> SocketAddr {
        Self::serving(|mut stream| {
            let _ = io::copy(&mut stream.try_clone().unwrap(), &mut stream);
        })
    }
}

/// An address of 127.0.0.1 on which no process listens, and none can for as long as the socket is held.
pub fn dead_address() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// An address that answers no SYN: a listening socket whose queue is full.
pub struct BlackHole {
    pub address: SocketAddr,
    _listening: Socket,
    _queued: Vec<TcpStream>,
}

impl BlackHole {
    pub fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            queued.push(stream);
        }
        Self { address, _listening: socket, _queued: queued }
    }
}

/// A client. If it is refused, a read returns the error.
pub fn connect(address: SocketAddr) -> TcpStream {
    connected(Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap(), address)
}

/// Connects a socket. A proxy may reset it before this thread continues: a blocking call would fail then, and nothing
/// could be read.
fn connected(socket: Socket, address: SocketAddr) -> TcpStream {
    socket.set_nonblocking(true).unwrap();
    let pending = socket.connect(&address.into());
    if let Err(error) = pending {
        assert_eq!(error.raw_os_error(), Some(Errno::INPROGRESS.raw_os_error()), "{address}: {error}");
    }
    let limit = Timespec::try_from(WAIT_LIMIT).unwrap();
    let events = poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&limit)).unwrap();
    assert_eq!(events, 1, "no answer from {address}");
    socket.set_nonblocking(false).unwrap();
    patient(socket.into())
}

/// A client with another address of the loopback network.
pub fn connect_from(source: [u8; 4], address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    connected(socket, address)
}

/// Sets a time limit on every wait.
pub fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(WAIT_LIMIT)).unwrap();
    stream.set_write_timeout(Some(WAIT_LIMIT)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Closes the connection with a reset.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Sends bytes and checks that they arrive at the other end of the proxy.
pub fn passes(mut from: &TcpStream, mut to: &TcpStream, bytes: &[u8]) {
    from.write_all(bytes).unwrap();
    assert_eq!(read_exactly(&mut to, bytes.len()), bytes);
}

/// Sends a byte each way.
pub fn is_connected(client: &TcpStream, served: &TcpStream) {
    passes(client, served, b"?");
    passes(served, client, b"!");
}

/// Sends a byte and expects its echo.
pub fn is_echoed(mut stream: impl Read + Write) {
    stream.write_all(b"?").unwrap();
    assert_eq!(read_exactly(&mut stream, 1), b"?");
}

pub fn read_exactly(mut stream: impl Read, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Reads until a clean end.
pub fn read_to_end(mut stream: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("a clean end");
    bytes
}

/// Reads until a reset, which must come.
pub fn read_to_reset(mut stream: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let error = stream.read_to_end(&mut bytes).expect_err("a reset, not a clean end");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
    bytes
}

/// Expects a reset and nothing before it.
pub fn is_reset(stream: impl Read) {
    assert_eq!(read_to_reset(stream), b"");
}

/// Checks that nothing has arrived, not even an end.
pub fn is_silent(stream: &TcpStream) {
    stream.set_nonblocking(true).unwrap();
    let outcome = stream.peek(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    assert_eq!(outcome.expect_err("nothing to read").kind(), io::ErrorKind::WouldBlock);
}

pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    wait_until_or(|| what, condition);
}

pub fn wait_until_or<D: Debug>(what: impl Fn() -> D, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < WAIT_LIMIT, "waited in vain until {:?}", what());
        thread::sleep(Duration::from_millis(2));
    }
}
