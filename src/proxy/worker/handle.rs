//! The interface of workers to other threads.

use std::{
    collections::BTreeMap,
    io,
    net::{TcpListener, TcpStream},
    os::fd::RawFd,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant as StdInstant},
};

use futures::future::join_all;
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    sessions::{CloseRequests, DrainTarget},
    shutdown::Drains,
};
use crate::{
    capacity::Places,
    proxy::{
        access_log::AccessLog,
        connection::AcceptedConnection,
        connections::{ConnectionQuery, FirstConnections},
        listener::ListenerSlot,
        stream::{handshake_memory::HandshakeMemory, relay_memory::RelayMemory},
    },
};

/// The state that all workers share.
#[derive(Debug)]
pub struct Shared {
    pub workers: Vec<WorkerHandle>,
    pub capacity: Arc<Places>,
    pub handshake_memory: Arc<HandshakeMemory>,
    pub relay_memory: Arc<RelayMemory>,
    /// Client connections only use descriptors below this one.
    pub spare_from: RawFd,
    /// The maximum number of pipes of each worker.
    pub pipes: usize,
    pub access_log: Arc<AccessLog>,
    /// Durations of applying a snapshot.
    pub apply_duration: prometheus_client::metrics::histogram::Histogram,
    pub started: StdInstant,
}

/// The handle of a worker.
#[derive(Debug)]
pub struct WorkerHandle {
    pub orders: mpsc::UnboundedSender<WorkerCommand>,
    /// The number of connections that the worker has, or that are on the way to it.
    pub open: AtomicUsize,
    /// The last heartbeat, in milliseconds after the start.
    pub heartbeat: AtomicU64,
}

impl WorkerHandle {
    pub fn new() -> (Self, mpsc::UnboundedReceiver<WorkerCommand>) {
        let (orders, inbox) = mpsc::unbounded_channel();
        (Self { orders, open: AtomicUsize::new(0), heartbeat: AtomicU64::new(0) }, inbox)
    }

    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// The time since the last heartbeat; `now` is the age of the process.
    pub fn silent_for(&self, now: Duration) -> Duration {
        now.saturating_sub(Duration::from_millis(self.heartbeat.load(Relaxed)))
    }
}

/// Sends an order to each worker, and waits for the answers. The answer of a worker that has stopped is empty.
pub async fn ask<T: Default>(
    shared: &Shared,
    orders: impl Iterator<Item = impl FnOnce(oneshot::Sender<T>) -> WorkerCommand>,
) -> Vec<T> {
    let answers = shared.workers.iter().zip(orders).map(|(worker, order)| {
        let (done, answer) = oneshot::channel();
        let _ = worker.orders.send(order(done));
        async { answer.await.unwrap_or_default() }
    });
    join_all(answers.collect::<Vec<_>>()).await
}

/// A command for a worker.
#[derive(Debug)]
pub enum WorkerCommand {
    /// Accept on a socket.
    Listen {
        id: SocketId,
        slot: Arc<ListenerSlot>,
        socket: TcpListener,
        /// Returns the same socket: a second descriptor for it would be one less for a connection.
        done: oneshot::Sender<io::Result<Arc<AsyncFd<TcpListener>>>>,
    },
    /// Stop accepting on a socket and release it.
    Close { id: SocketId, done: oneshot::Sender<()> },
    /// Serve a connection that another worker accepted.
    Adopt(TcpStream, Box<AcceptedConnection>),
    /// Return the number of established connections of each endpoint, by its id.
    Count { done: oneshot::Sender<BTreeMap<u64, u32>> },
    /// Return the ranks of the connections that would be closed first.
    Rank { requests: Arc<CloseRequests>, done: oneshot::Sender<BTreeMap<DrainTarget, Vec<Instant>>> },
    /// Close connections, and return their number by target.
    CloseSome { requests: CloseRequests, done: oneshot::Sender<BTreeMap<DrainTarget, usize>> },
    /// Return the first open connections that match a query.
    List { query: Arc<ConnectionQuery>, done: oneshot::Sender<FirstConnections> },
    /// Drain open connections, and return how they ended.
    Drain { drains: Drains, done: oneshot::Sender<DrainOutcome> },
    /// Stop the thread; connections that are still open are reset.
    Stop,
}

pub type SocketId = u64;

/// The results of a drain, for the connections that were open at its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainOutcome {
    pub by_themselves: usize,
    /// Closed over the spread.
    pub closed: usize,
    /// Reset at the deadline.
    pub reset: usize,
}

impl std::ops::AddAssign for DrainOutcome {
    fn add_assign(&mut self, other: Self) {
        self.by_themselves += other.by_themselves;
        self.closed += other.closed;
        self.reset += other.reset;
    }
}
