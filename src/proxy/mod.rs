//! The data plane: applies the latest snapshot to sockets and connections.
//!
//! [`Topology`](topology) owns listeners and upstreams, [workers](worker) accept and serve, and a [connection] passes
//! these steps: PROXY header, admission, TLS, connect, relay, record.

pub mod access_log;
pub mod accounting;
pub mod admission;
mod connection;
mod connections;
mod drain;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod labeled_enum;
mod listener;
pub mod postgres;
pub mod proxy_protocol;
pub mod socket;
mod stream;
pub mod tls;
mod topology;
mod view;
mod worker;

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, TcpListener},
    os::fd::RawFd,
    sync::{Arc, Mutex, PoisonError, Weak},
    thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use prometheus_client::metrics::histogram::Histogram;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
};

pub use connections::{AddressFilter, ConnectionQuery, EndpointFilter, FirstConnections, ListedConnection};
pub use drain::{Draining, DrainingResource};
pub use listener::ListenerState;
pub use topology::Sockets;
pub use view::View;
pub use worker::handle::DrainOutcome;

use crate::{
    capacity::Places,
    drain::DrainMode,
    model::{Report, Snapshot},
    upstream::{ChangeLog, PreconnectBudget, Upstreams},
};
use access_log::AccessLog;
use admission::{CONNECTIONS, SWEEP, Sources};
use drain::Drainer;
use postgres::Cancels;
use socket::Sharing;
use topology::Topology;
use worker::{
    handle::{Shared, WorkerCommand, WorkerHandle, ask},
    shutdown::{self, Drains},
};

/// Upper bounds for durations of applying a snapshot, in seconds.
const APPLY_BUCKETS: [f64; 10] = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// The options of a proxy.
#[derive(Debug)]
pub struct Options {
    /// Not zero.
    pub workers: usize,
    /// The descriptors for listening sockets (one each) and client connections (two each).
    pub descriptors: usize,
    /// Client connections only use descriptors below this one.
    pub spare_from: RawFd,
    /// The maximum number of preconnected sockets.
    pub preconnected: usize,
    /// The maximum number of pipes of each worker.
    pub pipes: usize,
    /// The maximum number of concurrent probes.
    pub probes: usize,
    /// The maximum number of concurrent connections that deliver PostgreSQL's requests to cancel queries.
    pub cancels: usize,
    pub sharing: Sharing,
    /// Listening sockets inherited from the previous process, by the address they were opened for.
    pub inherited: BTreeMap<SocketAddr, Vec<TcpListener>>,
    pub access_log: AccessLog,
}

/// The running data plane.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    reports: watch::Receiver<Arc<Report>>,
    orders: mpsc::UnboundedSender<topology::TopologyCommand>,
    view: Arc<ArcSwap<View>>,
    draining: Arc<ArcSwap<Vec<Draining>>>,
    changes: Arc<ChangeLog>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

impl Proxy {
    /// Starts the workers, and control tasks on the given runtime. Nothing is served before the first snapshot.
    ///
    /// # Errors
    /// If a worker's thread or event loop cannot be created.
    pub fn start(options: Options, control: &Handle) -> io::Result<Self> {
        let (workers, inboxes): (Vec<_>, Vec<_>) = (0..options.workers).map(|_| WorkerHandle::new()).unzip();
        let shared = Arc::new(Shared {
            workers,
            capacity: Arc::new(Places::new(options.descriptors / 2, CONNECTIONS)),
            handshake_memory: Arc::default(),
            relay_memory: Arc::default(),
            spare_from: options.spare_from,
            pipes: options.pipes,
            access_log: Arc::new(options.access_log),
            apply_duration: Histogram::new(APPLY_BUCKETS),
            started: Instant::now(),
        });
        let threads = inboxes
            .into_iter()
            .enumerate()
            .map(|(index, inbox)| worker::start(index, shared.clone(), inbox))
            .collect::<io::Result<Vec<_>>>()?;
        let (snapshots, published) = watch::channel(Arc::default());
        let (reporting, reports) = watch::channel(Arc::default());
        let (orders, inbox) = mpsc::unbounded_channel();
        let view = Arc::new(ArcSwap::default());
        let upstreams = Upstreams::new(control.clone(), PreconnectBudget::new(options.preconnected), options.probes);
        let changes = upstreams.changes();
        let sources = Arc::new(Sources::new(shared.started));
        let topology = Topology {
            shared: shared.clone(),
            snapshots: published,
            reports: reporting,
            view: view.clone(),
            usable_changes: changes.count(),
            upstreams,
            sources: sources.clone(),
            descriptors: options.descriptors,
            cancels: Arc::new(Cancels::new(options.cancels)),
            sharing: options.sharing,
            inherited: options.inherited,
            state: topology::TopologyState::default(),
        };
        control.spawn(topology.run(inbox));
        control.spawn(sweep(Arc::downgrade(&sources)));
        let draining = Arc::new(ArcSwap::default());
        let drainer = Drainer {
            shared: shared.clone(),
            view: view.clone(),
            changes: changes.clone(),
            draining: draining.clone(),
        };
        control.spawn(drainer.run(reports.clone()));
        Ok(Self { shared, snapshots, reports, orders, view, draining, changes, threads: Mutex::new(threads) })
    }

    /// Publishes a configuration. Only the latest one counts.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        self.snapshots.send_replace(snapshot);
    }

    /// The generation that was last published.
    pub fn published(&self) -> u64 {
        self.snapshots.borrow().generation
    }

    /// The reports on applied snapshots.
    pub fn reports(&self) -> watch::Receiver<Arc<Report>> {
        self.reports.clone()
    }

    /// Access to the live state, for metrics and admin pages.
    pub fn monitor(&self) -> Monitor {
        Monitor {
            shared: self.shared.clone(),
            view: self.view.clone(),
            draining: self.draining.clone(),
            reports: self.reports.clone(),
            changes: self.changes.clone(),
        }
    }

    /// The open listening sockets, for a process that takes over.
    pub async fn sockets(&self) -> Vec<Sockets> {
        let (answer, sockets) = oneshot::channel();
        let _ = self.orders.send(topology::TopologyCommand::Sockets(answer));
        sockets.await.unwrap_or_default()
    }

    /// Closes all listening sockets permanently, after accepting the connections that wait. Open connections continue.
    pub async fn stop_accepting(&self) {
        let (done, answer) = oneshot::channel();
        let _ = self.orders.send(topology::TopologyCommand::StopAccepting(done));
        let _ = answer.await;
    }

    /// Ends all open connections within `longest`.
    pub async fn drain(&self, how: DrainMode, longest: Duration) -> DrainOutcome {
        let (declared, workers) = (shutdown::declared(&self.view.load()), self.shared.workers.len());
        let mut answers = Vec::new();
        for worker in &self.shared.workers {
            let (done, answer) = oneshot::channel();
            let drains = Drains::new(how, &declared, longest, workers, tokio::time::Instant::now());
            let _ = worker.orders.send(WorkerCommand::Drain { drains, done });
            answers.push(answer);
        }
        let mut drained = DrainOutcome::default();
        for answer in answers {
            drained += answer.await.unwrap_or_default();
        }
        drained
    }

    /// Stops the workers; connections that are still open are reset.
    pub fn stop(&self) {
        for worker in &self.shared.workers {
            let _ = worker.orders.send(WorkerCommand::Stop);
        }
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Removes expired entries of client addresses until the proxy is dropped.
async fn sweep(sources: Weak<Sources>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(sources) = sources.upgrade() else { return };
        sources.sweep(Instant::now());
    }
}

/// Read access to a running proxy.
#[derive(Clone, Debug)]
pub struct Monitor {
    shared: Arc<Shared>,
    view: Arc<ArcSwap<View>>,
    draining: Arc<ArcSwap<Vec<Draining>>>,
    reports: watch::Receiver<Arc<Report>>,
    changes: Arc<ChangeLog>,
}

impl Monitor {
    /// The changes of usable or draining endpoints.
    pub fn changes(&self) -> &ChangeLog {
        &self.changes
    }

    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Bytes that unfinished handshakes hold beyond their free allowance.
    pub fn handshake_memory(&self) -> usize {
        self.shared.handshake_memory.in_use()
    }

    /// Bytes that open connections hold because their receivers are slow.
    pub fn relay_memory(&self) -> usize {
        self.shared.relay_memory.held()
    }

    /// The reports on applied snapshots. The view is updated before each report.
    pub fn reports(&self) -> watch::Receiver<Arc<Report>> {
        self.reports.clone()
    }

    /// The drains in progress.
    pub fn draining(&self) -> Arc<Vec<Draining>> {
        self.draining.load_full()
    }

    pub fn access_log(&self) -> &AccessLog {
        &self.shared.access_log
    }

    /// The first open connections of all workers that match a query. Those of a worker that has stopped are left out.
    pub async fn connections(&self, query: ConnectionQuery) -> FirstConnections {
        let query = Arc::new(query);
        let list = |done| WorkerCommand::List { query: query.clone(), done };
        let of_workers = ask(&self.shared, (0..self.shared.workers.len()).map(|_| list)).await;
        FirstConnections::merged(of_workers, &query)
    }

    /// The durations of applying snapshots.
    pub fn apply_duration(&self) -> &Histogram {
        &self.shared.apply_duration
    }

    pub fn capacity(&self) -> &Places {
        &self.shared.capacity
    }

    /// The time since the last heartbeat of each worker.
    pub fn workers_silent_for(&self) -> impl Iterator<Item = Duration> {
        let now = self.shared.started.elapsed();
        self.shared.workers.iter().map(move |worker| worker.silent_for(now))
    }

    /// The number of open connections of each worker.
    pub fn open_by_worker(&self) -> impl Iterator<Item = usize> {
        self.shared.workers.iter().map(WorkerHandle::open)
    }
}
