use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    excess::{Load, RebalancePolicy, excesses},
    sustained::SustainedExcess,
};
use crate::{
    drain::{Pace, parts_of},
    model,
};

const MINUTE: Duration = Duration::from_secs(60);
/// The pause after a tick that found no connection to close.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// The load of an endpoint at a tick, and its total connections.
#[derive(Clone, Copy, Debug)]
pub struct EndpointLoad {
    pub id: u64,
    pub load: Load,
    /// The total number of established connections.
    pub connections: u64,
}

/// Numbers of connections, by endpoint id.
pub type ConnectionCounts = BTreeMap<u64, usize>;

/// Decides at each tick how many connections of which endpoints of an upstream to close.
#[derive(Debug)]
pub struct Rebalancer {
    pace: Pace,
    /// The state of each group, by the ids of its endpoints. It ends when an endpoint joins or leaves.
    groups: BTreeMap<Vec<u64>, ExpectedReturns>,
    sustained: SustainedExcess,
    too_many: usize,
    /// The time before which no connection is closed.
    pauses_until: Instant,
}

/// Connections of a group that were closed and are expected to return.
#[derive(Clone, Copy, Debug)]
struct ExpectedReturns {
    count: u64,
    /// The total connections of the group at the last tick.
    connections: u64,
}

impl Rebalancer {
    pub fn new(settings: &model::Rebalance, now: Instant) -> Self {
        let pace = Pace::new(settings.max_closes_per_minute.get() as usize, MINUTE, now);
        Self { pace, groups: BTreeMap::new(), sustained: SustainedExcess::default(), too_many: 0, pauses_until: now }
    }

    /// The sustained excess as of the last tick.
    pub fn too_many(&self) -> usize {
        self.too_many
    }

    /// The connections to close now, counting those that are still being dialled. Must be called at every tick while
    /// there are connections, and for some seconds after.
    pub fn due(
        &mut self,
        rebalancing: &RebalancePolicy,
        groups: &[Vec<EndpointLoad>],
        now: Instant,
    ) -> ConnectionCounts {
        let most = rebalancing.rebalance.max_closes_per_minute.get() as usize;
        let mut allowed = self.pace.changed(most, MINUTE, now).allows(now);
        let mut former = std::mem::take(&mut self.groups);
        let mut due = ConnectionCounts::new();
        self.too_many = 0;
        for group in groups {
            let connections = group.iter().map(|endpoint| endpoint.connections).sum();
            let mut returning = former.remove(&ids(group)).unwrap_or(ExpectedReturns { count: 0, connections });
            returning.note_connections(connections);
            self.groups.insert(ids(group), returning);
            let loads: Vec<Load> = group.iter().map(|endpoint| endpoint.load).collect();
            let excesses = excesses(&loads, returning.count, rebalancing.tolerance);
            let excesses: Vec<(u64, u32)> = ids(group).into_iter().zip(excesses).collect();
            let sustained: Vec<usize> =
                self.sustained.of(&excesses, now).into_iter().map(|count| count as usize).collect();
            self.too_many += sustained.iter().sum::<usize>();
            for (id, count) in ids(group).into_iter().zip(parts_of(allowed, &sustained)).filter(|(_, count)| *count > 0)
            {
                allowed -= count;
                due.insert(id, count);
            }
        }
        let ids: BTreeSet<u64> = self.groups.keys().flatten().copied().collect();
        self.sustained.retain(|id| ids.contains(&id));
        if now < self.pauses_until { ConnectionCounts::new() } else { due }
    }

    /// Limits the closes to the excess among established connections: connections that wait for an unresponsive
    /// endpoint are no reason to close its open ones.
    pub fn confirmed(
        &self,
        rebalancing: &RebalancePolicy,
        groups: &[Vec<EndpointLoad>],
        due: &ConnectionCounts,
        established: &BTreeMap<u64, u32>,
    ) -> ConnectionCounts {
        let mut confirmed = ConnectionCounts::new();
        for group in groups {
            let Some(returning) = self.groups.get(&ids(group)) else { continue };
            let reached = |id: &u64| established.get(id).copied().unwrap_or(0);
            let load = |endpoint: &EndpointLoad| Load { open: reached(&endpoint.id), ..endpoint.load };
            let loads: Vec<Load> = group.iter().map(load).collect();
            let excesses = excesses(&loads, returning.count, rebalancing.tolerance);
            for (id, excess) in ids(group).into_iter().zip(excesses) {
                let count = due.get(&id).copied().unwrap_or(0).min(excess as usize);
                if count > 0 {
                    confirmed.insert(id, count);
                }
            }
        }
        confirmed
    }

    /// Records the due and the closed connections of all upstreams, and returns the number that were closed here.
    pub fn record(&mut self, due: &ConnectionCounts, closed: &ConnectionCounts, now: Instant) -> usize {
        let of = |id: &u64| closed.get(id).copied().unwrap_or(0);
        let is_own = |id: &u64| self.groups.keys().any(|ids| ids.contains(id));
        let (is_due, mut all) = (due.keys().any(is_own), 0);
        for (ids, returning) in &mut self.groups {
            ids.iter().filter(|id| of(id) > 0).for_each(|id| self.sustained.closed(*id, now));
            let count: usize = ids.iter().map(of).sum();
            returning.count += count as u64;
            self.pace.spend(count, now);
            all += count;
        }
        if all == 0 && is_due {
            self.pauses_until = now + PAUSE;
        }
        all
    }
}

impl ExpectedReturns {
    /// Counts new connections, each of which may be one that returns.
    fn note_connections(&mut self, connections: u64) {
        self.count = self.count.saturating_sub(connections.saturating_sub(self.connections));
        self.connections = connections;
    }
}

fn ids(group: &[EndpointLoad]) -> Vec<u64> {
    group.iter().map(|endpoint| endpoint.id).collect()
}
