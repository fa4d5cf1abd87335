//! A worker as other threads see it.

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
    proxy::{access_log::AccessLog, connection::AcceptedConnection, listener::ListenerSlot},
};

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    pub workers: Vec<WorkerHandle>,
    pub capacity: Arc<Places>,
    /// No client gets a descriptor from this one on.
    pub spare_from: RawFd,
    /// How many pipes the connections of each worker may have at a time.
    pub pipes: usize,
    pub access_log: Arc<AccessLog>,
    pub started: StdInstant,
}

/// A worker, seen from other threads.
#[derive(Debug)]
pub struct WorkerHandle {
    pub orders: mpsc::UnboundedSender<Order>,
    /// Connections it has or has been handed.
    pub open: AtomicUsize,
    /// Milliseconds after the start when it last was seen alive.
    pub heartbeat: AtomicU64,
}

impl WorkerHandle {
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Order>) {
        let (orders, inbox) = mpsc::unbounded_channel();
        (Self { orders, open: AtomicUsize::new(0), heartbeat: AtomicU64::new(0) }, inbox)
    }

    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// How long ago the worker was seen alive, when the process is as old as `now`.
    pub fn silent_for(&self, now: Duration) -> Duration {
        now.saturating_sub(Duration::from_millis(self.heartbeat.load(Relaxed)))
    }
}

/// What a worker is told.
#[derive(Debug)]
pub enum Order {
    /// Accept on a socket.
    Listen {
        id: SocketId,
        slot: Arc<ListenerSlot>,
        socket: TcpListener,
        /// The same socket: a second descriptor for it would be one less for a connection.
        done: oneshot::Sender<io::Result<Arc<AsyncFd<TcpListener>>>>,
    },
    /// Stop accepting on a socket and let go of it.
    Close { id: SocketId, closing: Closing, done: oneshot::Sender<()> },
    /// Serve a connection that another worker accepted.
    Adopt(TcpStream, Box<AcceptedConnection>),
    /// Tell how many connections have reached each endpoint, by its id.
    Count { done: oneshot::Sender<BTreeMap<u64, u32>> },
    /// Tell how long those connections have been silent, or open, that would be closed first.
    Rank { requests: Arc<CloseRequests>, done: oneshot::Sender<BTreeMap<DrainTarget, Vec<Instant>>> },
    /// Close some connections, and tell how many these were.
    CloseSome { requests: CloseRequests, done: oneshot::Sender<BTreeMap<DrainTarget, usize>> },
    /// End open connections, and tell how they have ended.
    Drain { drains: Drains, done: oneshot::Sender<DrainOutcome> },
    /// End the thread; what is still open is reset.
    Stop,
}

pub type SocketId = u64;

/// What becomes of the connections that wait in a socket's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// They are accepted first: closing the socket would reset them.
    Last,
    /// They are left to another process that has the same socket.
    HandedOver,
}

/// How the connections that were open at the beginning of a drain have ended.
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
