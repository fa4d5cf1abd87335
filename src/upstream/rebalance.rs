//! How many connections endpoints have beyond their share, a function over counts, and how many of them are closed when.
//!
//! Each replica decides over its own connections by itself. What it closes comes back to any replica, and there goes where
//! the algorithm sends new connections. So closing as many as are too many is right where these go to whoever has the
//! fewest, and by and by too few where they go anywhere: then it goes on until it is enough.

mod leveller;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;

pub use self::leveller::{Counted, Counts, Leveller};
use super::Endpoint;
use crate::model::{self, Algorithm};

/// How an upstream's connections are spread anew.
#[derive(Clone, Copy, Debug)]
pub struct Rebalancing {
    pub rebalance: model::Rebalance,
    pub tolerance: Tolerance,
}

impl Rebalancing {
    /// `None`: connections stay where they are.
    pub(super) fn of(settings: &model::Upstream) -> Option<Self> {
        let rebalance = settings.rebalance?;
        let tolerance = Tolerance::of(settings.balancing.algorithm, rebalance.max_imbalance_percent)?;
        Some(Self { rebalance, tolerance })
    }
}

/// Endpoints whose shares can be compared, sorted by their ids.
pub type Group = Vec<Sharer>;

/// An endpoint that gets connections.
#[derive(Clone, Debug)]
pub struct Sharer {
    pub endpoint: Arc<Endpoint>,
    pub weight: u64,
}

impl Sharer {
    pub fn counted(&self) -> Counted {
        let load = Load { open: self.endpoint.active(), weight: self.weight };
        Counted { id: self.endpoint.id(), load, connections: self.endpoint.connections() }
    }
}

/// An endpoint that connections are spread over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    pub open: u32,
    /// Its share is as large, compared with those of the others.
    pub weight: u64,
}

/// How far above its share an endpoint may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tolerance {
    /// In percent of the share.
    pub percent: u16,
    /// Whether chance decides where connections go: then as many above it are nothing out of the ordinary as its square
    /// root.
    pub by_chance: bool,
}

impl Tolerance {
    /// `None`: these connections come back to the endpoint they were closed at.
    pub fn of(algorithm: Algorithm, percent: u16) -> Option<Self> {
        match algorithm {
            Algorithm::LeastConnections | Algorithm::PowerOfTwo => Some(Self { percent, by_chance: false }),
            Algorithm::RoundRobin | Algorithm::Random => Some(Self { percent, by_chance: true }),
            Algorithm::Maglev => None,
        }
    }

    /// The most connections that are not too many, of a share of `weight` out of `weights`. It is rounded up: somebody
    /// has to have the odd one.
    fn most(self, all: u64, weight: u64, weights: u64) -> u32 {
        let parts = u128::from(all) * u128::from(weight) * (100 + u128::from(self.percent));
        let by_percent = parts.div_ceil(u128::from(weights).max(1) * 100);
        let share = all as f64 * weight as f64 / weights as f64;
        let by_chance = if self.by_chance { (share + share.sqrt()) as u128 } else { 0 };
        by_percent.max(by_chance).try_into().unwrap_or(u32::MAX)
    }
}

/// How many connections of each endpoint are too many. `coming_back` were closed here and are expected to be opened
/// again: they belong to the shares as well. Otherwise, while clients wait before they come back, everybody would have
/// too many of the few that are left.
fn excesses(loads: &[Load], coming_back: u64, tolerance: Tolerance) -> Vec<u32> {
    let all: u64 = loads.iter().map(|load| u64::from(load.open)).sum::<u64>() + coming_back;
    let weights = loads.iter().map(|load| load.weight).sum();
    let excess = |load: &Load| load.open.saturating_sub(tolerance.most(all, load.weight, weights));
    loads.iter().map(excess).collect()
}

/// An excess counts once it has lasted for this long: connections that come and go make one at most looks.
const LASTING: Duration = Duration::from_secs(3);

/// Which endpoints have had too many for some time, by their ids.
#[derive(Clone, Debug, Default)]
struct Lasting(BTreeMap<u64, Excess>);

#[derive(Clone, Copy, Debug)]
struct Excess {
    since: Instant,
    closed: Option<Instant>,
}

impl Lasting {
    /// How many of the excesses of these endpoints have lasted. It has to be asked at every look.
    fn of(&mut self, excesses: &[(u64, u32)], now: Instant) -> Vec<u32> {
        let of_endpoint = |(id, count): &(u64, u32)| {
            if *count == 0 {
                // What was closed may come back to where it was: then it is still the same excess.
                let is_over = |excess: &Excess| excess.closed.is_none_or(|closed| now >= closed + LASTING);
                if self.0.get(id).is_some_and(is_over) {
                    self.0.remove(id);
                }
                return 0;
            }
            let excess = self.0.entry(*id).or_insert(Excess { since: now, closed: None });
            if now >= excess.since + LASTING { *count } else { 0 }
        };
        excesses.iter().map(of_endpoint).collect()
    }

    /// Connections of this one have been closed.
    fn closed(&mut self, id: u64, now: Instant) {
        if let Some(excess) = self.0.get_mut(&id) {
            excess.closed = Some(now);
        }
    }

    /// Forgets all but these.
    fn retain(&mut self, is_known: impl Fn(u64) -> bool) {
        self.0.retain(|id, _| is_known(*id));
    }
}

#[cfg(test)]
mod tests;
