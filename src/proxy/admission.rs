//! Who may connect, how many, and how fast: exact over all workers.
//!
//! A connection passes three gates, each refusing it as early as it can:
//! 1. [`Capacity`]: what this process has room for;
//! 2. [`Admission::admit_connection`], before a byte is read: the listener's count is taken, its rate only looked at;
//! 3. [`Admission::admit_source`], when the client's address is known: access lists, the source's count and rate, the
//!    listener's rate. They are all asked before any of them is charged.
//!
//! So a refused connection costs no other its place: tokens are charged only for connections that pass every gate, and
//! counts are given back by dropping the permits.

mod gcra;
mod sources;
#[cfg(test)]
mod tests;

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use thiserror::Error;

use self::gcra::Gcra;
pub use self::sources::{SourcePermit, Sources};
use crate::model::{Access, Limits, Listener};

/// How many connections this process has room for.
#[derive(Debug)]
pub struct Capacity {
    limit: usize,
    in_use: AtomicUsize,
}

impl Capacity {
    pub fn new(limit: usize) -> Self {
        Self { limit, in_use: AtomicUsize::new(0) }
    }

    /// Room for one connection, given back when the permit is dropped; `None`: there is none.
    pub fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        self.in_use
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |in_use| (in_use < self.limit).then_some(in_use + 1))
            .is_ok()
            .then(|| Permit(Arc::clone(self)))
    }

    pub fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed)
    }

    pub fn limit(&self) -> usize {
        self.limit
    }
}

/// Room for one connection in a [`Capacity`].
#[derive(Debug)]
#[must_use = "the room is given back when this is dropped"]
pub struct Permit(Arc<Capacity>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a connection is not let in.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    #[error("the listener has as many connections as maxConnections allows")]
    ListenerFull,
    #[error("the listener gets new connections faster than newConnections allows")]
    ListenerRate,
    #[error("the client's address is not allowed by the access lists")]
    Denied,
    #[error("the client's address has as many connections as maxConnectionsPerSource allows")]
    SourceFull,
    #[error("the client's address opens connections faster than newConnectionsPerSource allows")]
    SourceRate,
}

/// The live side of one listener's limits. Outlives changes of its configuration: counts stay, limits come with each call.
#[derive(Debug)]
pub struct Admission {
    /// Tells the sources of this listener from those of others.
    id: u64,
    sources: Arc<Sources>,
    open: AtomicU32,
    rate: RateState,
}

impl Admission {
    /// `id` is this listener's own in this process, never used again for another.
    pub fn new(id: u64, sources: Arc<Sources>) -> Self {
        Self { id, sources, open: AtomicU32::new(0), rate: RateState::default() }
    }

    /// The first gate of a listener, before a byte of the connection is read: takes a place in its count.
    ///
    /// An exhausted rate refuses here already, but a token is charged only by [`admit_source`](Self::admit_source), which
    /// must follow: otherwise clients that are refused for their address would use up the rate of the others.
    pub fn admit_connection(self: &Arc<Self>, limits: &Limits, now: Instant) -> Result<ConnectionPermit, Refusal> {
        if let Some(rate) = limits.new_connections
            && !self.rate.conforms(rate.into(), self.sources.nanoseconds(now))
        {
            return Err(Refusal::ListenerRate);
        }
        let limit = limits.max_connections.map_or(u32::MAX, u32::from);
        self.open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < limit).then(|| open + 1))
            .map(|_| ConnectionPermit(Arc::clone(self)))
            .map_err(|_| Refusal::ListenerFull)
    }

    /// The second gate, on the effective client address. Charges the rates of source and listener, or neither.
    ///
    /// `source` is what per-source limits count; `None`: they do not apply, as for a proxy that speaks for itself.
    /// The permit is `None` while the listener does not count connections per source; those it did not count then stay
    /// uncounted when it begins to.
    pub fn admit_source(
        self: &Arc<Self>,
        listener: &Listener,
        client: IpAddr,
        source: Option<IpAddr>,
        now: Instant,
    ) -> Result<Option<SourcePermit>, Refusal> {
        if !permits(&listener.access, client) {
            return Err(Refusal::Denied);
        }
        let limits = &listener.limits;
        let now = self.sources.nanoseconds(now);
        let charge_listener = || match limits.new_connections {
            Some(rate) if !self.rate.take(rate.into(), now) => Err(Refusal::ListenerRate),
            _ => Ok(()),
        };
        match source {
            Some(source) if limits_sources(limits) => self.sources.admit(self.id, source, limits, now, charge_listener),
            _ => charge_listener().map(|()| None),
        }
    }

    /// Connections that passed the first gate and are still open.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }
}

/// A place in a listener's count.
#[derive(Debug)]
#[must_use = "the place is given back when this is dropped"]
pub struct ConnectionPermit(Arc<Admission>);

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn permits(access: &Access, client: IpAddr) -> bool {
    !access.deny.contains(client) && (access.allow.is_empty() || access.allow.contains(client))
}

fn limits_sources(limits: &Limits) -> bool {
    limits.max_connections_per_source.is_some() || limits.new_connections_per_source.is_some()
}

/// A rate limit that all workers charge, without a lock.
#[derive(Debug, Default)]
struct RateState {
    theoretical_arrival: AtomicU64,
    /// The latest time anyone came with.
    latest: AtomicU64,
}

impl RateState {
    fn conforms(&self, rate: Gcra, now: u64) -> bool {
        self.decide(rate, now, self.theoretical_arrival.load(Ordering::Acquire)).is_ok()
    }

    fn take(&self, rate: Gcra, now: u64) -> bool {
        let mut state = self.theoretical_arrival.load(Ordering::Acquire);
        loop {
            let decision = self.decide(rate, now, state);
            let (Ok(next) | Err(next)) = decision;
            if next == state {
                return decision.is_ok();
            }
            match self.theoretical_arrival.compare_exchange_weak(state, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return decision.is_ok(),
                Err(changed) => state = changed,
            }
        }
    }

    /// Workers come with times that they took in another order. Taking the latest one that is known *after* the state
    /// was read means that no state is ahead of its time, which [`Gcra::decide`] would take for that of another rate.
    fn decide(&self, rate: Gcra, now: u64, state: u64) -> Result<u64, u64> {
        rate.decide(state, self.latest.fetch_max(now, Ordering::AcqRel).max(now))
    }
}
