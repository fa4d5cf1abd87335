//! Connections that are opened before a client needs them.
//!
//! None of them was ever used, so nothing of one client can reach another. A greeting that is already waiting goes to
//! the client that gets the connection.

use std::{
    io,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{self, Relaxed},
        },
    },
    time::Duration,
};

use crossbeam_queue::ArrayQueue;
use futures::future;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tracing::warn;

use super::{
    dial::{dial, is_local},
    endpoint::Endpoint,
    socket_options::{set_keepalive, set_urgent_inline},
};
use crate::model::{Connect, Keepalive, Preconnect};

/// How many sockets all pools together may hold, being dialled included.
#[derive(Clone, Debug)]
pub struct PreconnectBudget(Arc<AtomicUsize>);

impl PreconnectBudget {
    pub fn new(sockets: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(sockets)))
    }

    /// How many more there may be now.
    pub fn left(&self) -> usize {
        self.0.load(Relaxed)
    }

    fn reserve(&self) -> Option<Reservation> {
        let taken = self.0.fetch_update(Ordering::AcqRel, Relaxed, |left| left.checked_sub(1));
        taken.is_ok().then(|| Reservation(self.clone()))
    }
}

struct Reservation(PreconnectBudget);

impl Drop for Reservation {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// What became of an endpoint's preconnected sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolFigures {
    /// Waiting for a client now.
    pub idle: usize,
    /// Taken by a client.
    pub hits: u64,
    /// Times a client found none and dialled.
    pub misses: u64,
    /// Closed unused: too old or dead.
    pub discarded: u64,
}

#[derive(Debug, Default)]
pub(super) struct PoolCounters {
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
pub(super) struct Pool {
    idle: ArrayQueue<Idle>,
    idle_timeout: Duration,
    taken: Notify,
}

struct Idle {
    stream: TcpStream,
    born: Instant,
    /// Held until a client has the socket or it is closed.
    _reservation: Reservation,
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

    /// The oldest one that is still good.
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

    /// Closes those that are too old or dead.
    fn sweep(&self, counters: &PoolCounters) -> Sweep {
        let mut sweep = Sweep { dead: 0, next: self.idle_timeout };
        for _ in 0..self.idle.len() {
            let Some(idle) = self.idle.pop() else { break };
            if self.is_good(&idle) {
                sweep.next = sweep.next.min(self.idle_timeout.saturating_sub(idle.born.elapsed()));
                // Cannot be full: only this task puts sockets in.
                drop(self.idle.push(idle));
            } else {
                sweep.dead += usize::from(!self.is_old(&idle));
                counters.discarded.fetch_add(1, Relaxed);
            }
        }
        sweep
    }

    fn missing(&self) -> usize {
        self.idle.capacity() - self.idle.len()
    }
}

struct Sweep {
    /// How many the backend had closed.
    dead: usize,
    /// How long until the oldest of the others is too old.
    next: Duration,
}

/// Whether the peer has neither closed nor reset the connection. Bytes that wait are a greeting and no bad sign.
fn is_alive(stream: &TcpStream) -> bool {
    // A peek would not do: it sees the bytes before the end ("Too many connections") and takes them for life.
    let mut asked = [PollFd::new(stream, PollFlags::IN | PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let dead = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
    poll(&mut asked, Some(&now)).is_ok() && !asked[0].revents().intersects(dead)
}

/// How a pool is kept full.
#[derive(Clone)]
pub(super) struct Refill {
    pub connect: Connect,
    pub keepalive: Option<Keepalive>,
    pub budget: PreconnectBudget,
}

impl Refill {
    /// Keeps `pool` full for ever.
    pub async fn run(self, endpoint: Arc<Endpoint>, pool: Arc<Pool>) {
        const FIRST_PAUSE: Duration = Duration::from_millis(100);
        const LONGEST_PAUSE: Duration = Duration::from_secs(5);
        const LOOK_AGAIN: Duration = Duration::from_secs(1);
        let mut pause = FIRST_PAUSE;
        loop {
            let sweep = pool.sweep(endpoint.pool_counters());
            if sweep.dead == 0 && pool.missing() == 0 {
                pause = FIRST_PAUSE;
                let _ = timeout(sweep.next.min(LOOK_AGAIN), pool.taken.notified()).await;
                continue;
            }
            let round = if sweep.dead > 0 { Err(Setback::Closed) } else { self.round(&endpoint, &pool).await };
            match round {
                // Not yet the end of the setbacks: the backend may close what it accepts.
                Ok(()) => {}
                Err(Setback::BudgetUsedUp) => drop(timeout(LOOK_AGAIN, pool.taken.notified()).await),
                Err(setback) => {
                    if pause == FIRST_PAUSE {
                        setback.tell_if_local(&endpoint);
                    }
                    sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Dials some of those that are missing at once. However many fail, they are one observation of the endpoint.
    async fn round(&self, endpoint: &Endpoint, pool: &Pool) -> Result<(), Setback> {
        const AT_ONCE: usize = 8;
        let reserved: Vec<_> = (0..pool.missing().min(AT_ONCE)).map_while(|_| self.budget.reserve()).collect();
        if reserved.is_empty() {
            return Err(Setback::BudgetUsedUp);
        }
        let dials = reserved.into_iter().map(|reservation| self.open(endpoint, reservation));
        let (opened, failed): (Vec<_>, Vec<_>) = future::join_all(dials).await.into_iter().partition(Result::is_ok);
        if !opened.is_empty() {
            endpoint.reached();
        }
        for idle in opened.into_iter().flatten() {
            drop(pool.idle.push(idle));
        }
        let mut errors: Vec<io::Error> = failed.into_iter().filter_map(Result::err).collect();
        if let Some(error) = errors.iter().find(|error| !is_local(error)) {
            endpoint.connect_failed(error);
            return Err(Setback::Unreachable);
        }
        errors.pop().map_or(Ok(()), |error| Err(Setback::Local(error)))
    }

    async fn open(&self, endpoint: &Endpoint, reservation: Reservation) -> io::Result<Idle> {
        let limit = self.connect.timeout;
        let stream = match timeout(limit, dial(endpoint.address())).await {
            Ok(dialled) => dialled?.into_std(),
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}"))),
        };
        set_keepalive(&stream, self.keepalive)?;
        set_urgent_inline(&stream)?;
        Ok(Idle { stream, born: Instant::now(), _reservation: reservation })
    }
}

/// Why to wait before the next round.
enum Setback {
    BudgetUsedUp,
    /// The backend closed what it had accepted.
    Closed,
    Unreachable,
    Local(io::Error),
}

impl Setback {
    fn tell_if_local(&self, endpoint: &Endpoint) {
        if let Self::Local(error) = self {
            warn!(endpoint = %endpoint.key(), reason = %error, "cannot preconnect");
        }
    }
}
