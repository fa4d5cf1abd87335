//! Admission: access lists, connection limits and rate limits, exact over all workers.
//!
//! A connection passes three gates, each of which refuses as early as possible:
//! 1. the [`Share`](crate::capacity::Share) of its load balancer in the connections that the process has room for;
//! 2. [`Admission::admit_connection`], before a byte is read: takes a place in the listener's count, checks its rate;
//! 3. [`Admission::admit_source`], when the client's address is known: access lists, the source's count and rate, the
//!    listener's rate. All of them are checked before any is charged.
//!
//! A refused connection costs other connections nothing: tokens are charged only for connections that pass every gate,
//! and dropping the permits gives counts back.

mod count;
mod gcra;
mod rate;
mod refusal;
mod sources;
mod sync;
#[cfg(test)]
mod tests;

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Instant,
};

use self::{count::OpenCount, rate::RateState, sources::SourceTable};
pub use self::{
    refusal::Refusal,
    sources::{SWEEP, SourcePermit, Sources},
};
use crate::{
    capacity::Terms,
    model::{Access, Limits, Listener, ListenerKey},
};

/// The division of the process's connections among load balancers: a quarter is guaranteed. The guaranteed places of a
/// load balancer that is declared later are free even if all others are taken.
pub const CONNECTIONS: Terms = Terms { guaranteed_one_in: 4, to_come: 1, borrowed_to_left: usize::MAX };

/// The live side of one listener's limits. Outlives changes of its configuration: counts are kept, and limits are
/// passed with each call.
#[derive(Debug)]
pub struct Admission {
    key: ListenerKey,
    sources: Arc<Sources>,
    /// Created when the listener first has limits per source.
    table: OnceLock<Arc<SourceTable>>,
    open: OpenCount,
    rate: RateState,
}

impl Admission {
    /// The listener's source table takes its entries from `sources`.
    pub fn new(key: ListenerKey, sources: Arc<Sources>) -> Self {
        Self { key, sources, table: OnceLock::new(), open: OpenCount::default(), rate: RateState::default() }
    }

    /// The first gate of a listener, before a byte of the connection is read: takes a place in its count.
    ///
    /// An exhausted rate refuses here already, but only [`admit_source`](Self::admit_source), which must follow,
    /// charges a token. Otherwise clients that are refused for their address would use up the rate of the others.
    pub fn admit_connection(self: &Arc<Self>, limits: &Limits, now: Instant) -> Result<ConnectionPermit, Refusal> {
        if let Some(rate) = limits.new_connections
            && !self.rate.conforms(rate.into(), self.sources.nanoseconds(now))
        {
            return Err(Refusal::ListenerRate);
        }
        let limit = limits.max_connections.map_or(u32::MAX, u32::from);
        if self.open.enter(limit) { Ok(ConnectionPermit(Arc::clone(self))) } else { Err(Refusal::ListenerFull) }
    }

    /// The second gate, on the effective client address. Charges the rates of source and listener, or neither.
    ///
    /// `source` is the address that per-source limits count; `None`: they do not apply, as for a health check of the
    /// proxy in front. The permit is `None` while the listener does not count connections per source; connections
    /// admitted then stay uncounted when it begins to.
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
            Some(source) if limits_sources(limits) => self.table().admit(source, limits, now, charge_listener),
            _ => charge_listener().map(|()| None),
        }
    }

    fn table(&self) -> &Arc<SourceTable> {
        self.table.get_or_init(|| self.sources.table(self.key.clone()))
    }

    /// The number of sources with an entry in the listener's table.
    pub fn sources(&self) -> usize {
        self.table.get().map_or(0, |table| table.entries())
    }

    /// Connections that passed the first gate and are still open.
    pub fn open(&self) -> u32 {
        self.open.get()
    }
}

/// A place in a listener's count.
#[derive(Debug)]
#[must_use = "the place is given back when this is dropped"]
pub struct ConnectionPermit(Arc<Admission>);

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.open.leave();
    }
}

fn permits(access: &Access, client: IpAddr) -> bool {
    !access.deny.contains(client) && (access.allow.is_empty() || access.allow.contains(client))
}

fn limits_sources(limits: &Limits) -> bool {
    limits.max_connections_per_source.is_some() || limits.new_connections_per_source.is_some()
}
