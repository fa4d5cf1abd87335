//! Pools of preconnected sockets.
//!
//! Pooled sockets were never used, so bytes of one client cannot reach another. A greeting that has already arrived
//! goes to the client that gets the connection.

use std::{
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crossbeam_queue::ArrayQueue;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{sync::Notify, time::Instant};

use crate::{
    capacity::{Permit, Places, Share, Terms},
    model::Preconnect,
};

/// The number of sockets that all pools together may hold, including those being dialled.
#[derive(Clone, Debug)]
pub struct PreconnectBudget(Arc<Places>);

/// An upstream has at most three times as many sockets as are left: alone at most three quarters, and many together
/// leave some for others. These must be free before there are others: a full pool keeps its sockets until clients take
/// them or they expire. The places are never divided, so none are guaranteed.
const TERMS: Terms = Terms { guaranteed_one_in: usize::MAX, to_come: 0, borrowed_to_left: 3 };

impl PreconnectBudget {
    pub fn new(sockets: usize) -> Self {
        Self(Arc::new(Places::new(sockets, TERMS)))
    }

    /// The number of sockets that may still be opened.
    pub fn left(&self) -> usize {
        self.0.total().saturating_sub(self.0.lent())
    }

    /// The sockets of one upstream.
    pub fn share(&self) -> Arc<Share> {
        Arc::new(Share::new(self.0.clone()))
    }
}

/// Statistics of the pool of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolFigures {
    /// Sockets in the pool.
    pub idle: usize,
    /// Sockets taken by clients.
    pub hits: u64,
    /// Clients that found the pool empty and dialled.
    pub misses: u64,
    /// Sockets closed unused: expired or dead.
    pub discarded: u64,
}

#[derive(Debug, Default)]
pub struct PoolCounters {
    hits: AtomicU64,
    misses: AtomicU64,
    discarded: AtomicU64,
}

impl PoolCounters {
    pub fn hits(&self) -> u64 {
        self.hits.load(Relaxed)
    }

    pub fn figures(&self, idle: usize) -> PoolFigures {
        let (misses, discarded) = (self.misses.load(Relaxed), self.discarded.load(Relaxed));
        PoolFigures { idle, hits: self.hits(), misses, discarded }
    }
}

/// The preconnected sockets of one endpoint.
pub struct Pool {
    idle: ArrayQueue<Idle>,
    idle_timeout: Duration,
    pub taken: Notify,
}

pub struct Idle {
    stream: TcpStream,
    born: Instant,
    /// Held until a client takes the socket or it is closed.
    _permit: Permit,
}

impl Idle {
    pub fn new(stream: TcpStream, permit: Permit) -> Self {
        Self { stream, born: Instant::now(), _permit: permit }
    }
}

impl Pool {
    pub fn new(preconnect: Preconnect) -> Self {
        Self {
            idle: ArrayQueue::new(preconnect.per_endpoint.get().into()),
            idle_timeout: preconnect.idle_timeout,
            taken: Notify::new(),
        }
    }

    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    pub fn flush(&self) {
        while self.idle.pop().is_some() {}
    }

    /// Takes the oldest socket that is still good.
    pub fn take(&self, counters: &PoolCounters) -> Option<TcpStream> {
        let mut taken = None;
        while let Some(idle) = self.idle.pop() {
            if self.is_good(&idle) {
                taken = Some(idle.stream);
                break;
            }
            counters.discarded.fetch_add(1, Relaxed);
        }
        let outcome = if taken.is_some() { &counters.hits } else { &counters.misses };
        outcome.fetch_add(1, Relaxed);
        self.taken.notify_one();
        taken
    }

    fn is_good(&self, idle: &Idle) -> bool {
        !self.is_old(idle) && is_alive(&idle.stream)
    }

    fn is_old(&self, idle: &Idle) -> bool {
        idle.born.elapsed() >= self.idle_timeout
    }

    pub fn put(&self, idle: Idle) {
        drop(self.idle.push(idle));
    }

    /// Closes expired and dead sockets.
    pub fn sweep(&self, counters: &PoolCounters) -> Sweep {
        let mut sweep = Sweep { dead: 0, next: self.idle_timeout };
        for _ in 0..self.idle.len() {
            let Some(idle) = self.idle.pop() else { break };
            if self.is_good(&idle) {
                sweep.next = sweep.next.min(self.idle_timeout.saturating_sub(idle.born.elapsed()));
                // Cannot be full: only this task adds sockets.
                drop(self.idle.push(idle));
            } else {
                sweep.dead += usize::from(!self.is_old(&idle));
                counters.discarded.fetch_add(1, Relaxed);
            }
        }
        sweep
    }

    pub fn missing(&self) -> usize {
        self.idle.capacity() - self.idle.len()
    }
}

pub struct Sweep {
    /// The number of sockets that the backend had closed.
    pub dead: usize,
    /// The time until the oldest of the others expires.
    pub next: Duration,
}

/// True if the peer has neither closed nor reset the connection. Unread bytes are a greeting, not a sign of failure.
fn is_alive(stream: &TcpStream) -> bool {
    // A peek is not enough: it would count bytes before the end ("Too many connections") as a sign of life.
    let mut asked = [PollFd::new(stream, PollFlags::IN | PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let dead = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
    poll(&mut asked, Some(&now)).is_ok() && !asked[0].revents().intersects(dead)
}
