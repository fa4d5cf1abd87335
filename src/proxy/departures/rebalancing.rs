use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;
use tracing::info;

use super::parts_of;
use crate::{
    drain::Pace,
    model::UpstreamKey,
    proxy::{
        accounting::CloseReason,
        sessions::{Choice, First, Owner, Wish, Wishes},
        topology::View,
    },
    upstream::rebalance::{Group, Lasting, Load, Rebalancing, Sharer, excesses},
};

/// A connection without a byte for this long is idle.
const IDLE: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_secs(60);
/// After a look at the connections that found none to close it is looked again after this long.
const PAUSE: Duration = Duration::from_secs(1);
/// Nothing was to be closed for this long: it is over.
const OVER: Duration = Duration::from_secs(10);

/// Spreads connections anew that last, where that is wanted.
#[derive(Debug, Default)]
pub struct Rebalance {
    upstreams: BTreeMap<UpstreamKey, State>,
}

#[derive(Debug)]
struct State {
    pace: Pace,
    /// By the ids of their endpoints: what is known of a group ends when another endpoint joins or one leaves it.
    groups: BTreeMap<Vec<u64>, Returning>,
    lasting: Lasting,
    /// Nothing is closed before.
    pauses_until: Instant,
    under_way: Option<UnderWay>,
}

/// Connections of a group that were closed and are expected to be opened again.
#[derive(Clone, Copy, Debug)]
struct Returning {
    count: u64,
    /// How many connections the group had got when that was last looked at.
    connections: u64,
}

#[derive(Clone, Copy, Debug)]
struct UnderWay {
    closed: usize,
    /// When there was something to close last.
    last: Instant,
}

impl Rebalance {
    /// Whether it has to be looked at from time to time.
    pub fn is_wanted(view: &View) -> bool {
        view.upstreams.iter().any(|(_, upstream)| upstream.rebalancing().is_some())
    }

    /// What is to be closed now, if connections that are still being dialled count.
    pub fn due(&mut self, view: &View, now: Instant) -> Wishes {
        let mut wishes = Wishes::new();
        self.upstreams.retain(|key, _| view.upstreams.iter().any(|(other, _)| other == key));
        for (key, upstream) in &view.upstreams {
            match upstream.rebalancing() {
                Some(rebalancing) => {
                    let state = self.upstreams.entry(key.clone()).or_insert_with(|| State::new(&rebalancing, now));
                    wishes.extend(state.due(key, &rebalancing, &upstream.groups(), now));
                }
                None => drop(self.upstreams.remove(key)),
            }
        }
        wishes
    }

    /// What of it is to be closed if these are the connections that reached each endpoint: those that wait for one that
    /// does not answer are no reason to close what it has.
    pub fn confirmed(&self, view: &View, mut wishes: Wishes, established: &BTreeMap<u64, u32>) -> Wishes {
        let of = |id: u64| established.get(&id).copied().unwrap_or(0);
        let mut confirmed = Wishes::new();
        for (key, upstream) in &view.upstreams {
            let (Some(rebalancing), Some(state)) = (upstream.rebalancing(), self.upstreams.get(key)) else { continue };
            for group in upstream.groups() {
                let ids: Vec<u64> = group.iter().map(|sharer| sharer.endpoint.id()).collect();
                let Some(returning) = state.groups.get(&ids) else { continue };
                let load = |sharer: &Sharer| Load { open: of(sharer.endpoint.id()), weight: sharer.weight };
                let loads: Vec<Load> = group.iter().map(load).collect();
                let excesses = excesses(&loads, returning.count, rebalancing.tolerance);
                for (owner, excess) in ids.into_iter().map(Owner::Endpoint).zip(excesses) {
                    let Some(wish) = wishes.remove(&owner) else { continue };
                    let count = wish.count.min(excess as usize);
                    if count > 0 {
                        confirmed.insert(owner, Wish { count, ..wish });
                    }
                }
            }
        }
        confirmed
    }

    /// Takes note of what has been wished and closed.
    pub fn note(&mut self, wishes: &Wishes, closed: &BTreeMap<Owner, usize>, now: Instant) {
        for state in self.upstreams.values_mut() {
            state.note(wishes, closed, now);
        }
    }
}

impl State {
    fn new(rebalancing: &Rebalancing, now: Instant) -> Self {
        let pace = Pace::new(rebalancing.rebalance.max_closes_per_minute.get() as usize, MINUTE, now);
        Self { pace, groups: BTreeMap::new(), lasting: Lasting::default(), pauses_until: now, under_way: None }
    }

    fn due(&mut self, key: &UpstreamKey, rebalancing: &Rebalancing, groups: &[Group], now: Instant) -> Wishes {
        let settings = rebalancing.rebalance;
        let most = settings.max_closes_per_minute.get() as usize;
        let mut allowed = self.pace.changed(most, MINUTE, now).allows(now);
        let mut known = std::mem::take(&mut self.groups);
        // A clock that does not reach so far back has seen no connection that is older.
        let (Some(accepted_before), Some(silent_since)) = (now.checked_sub(settings.min_age), now.checked_sub(IDLE))
        else {
            return Wishes::new();
        };
        let choice = Choice {
            first: if settings.idle_only { First::Silent } else { First::Oldest },
            accepted_before: Some(accepted_before),
            silent_since: settings.idle_only.then_some(silent_since),
        };
        let mut wishes = Wishes::new();
        let mut too_many = 0;
        for group in groups {
            let ids: Vec<u64> = group.iter().map(|sharer| sharer.endpoint.id()).collect();
            let connections = group.iter().map(|sharer| sharer.endpoint.connections()).sum();
            let mut returning = known.remove(&ids).unwrap_or(Returning { count: 0, connections });
            returning.note_connections(connections);
            let loads: Vec<Load> =
                group.iter().map(|sharer| Load { open: sharer.endpoint.active(), weight: sharer.weight }).collect();
            let excesses = excesses(&loads, returning.count, rebalancing.tolerance);
            let excesses: Vec<(u64, u32)> = ids.iter().copied().zip(excesses).collect();
            let excesses: Vec<usize> =
                self.lasting.of(&excesses, now).into_iter().map(|count| count as usize).collect();
            self.groups.insert(ids.clone(), returning);
            too_many += excesses.iter().sum::<usize>();
            for (id, count) in ids.into_iter().zip(parts_of(allowed, &excesses)).filter(|(_, count)| *count > 0) {
                allowed -= count;
                wishes.insert(Owner::Endpoint(id), Wish { count, reason: CloseReason::Rebalanced, choice });
            }
        }
        let known: BTreeSet<u64> = self.groups.keys().flatten().copied().collect();
        self.lasting.retain(|id| known.contains(&id));
        self.tell(key, too_many, now);
        if now < self.pauses_until { Wishes::new() } else { wishes }
    }

    fn note(&mut self, wishes: &Wishes, closed: &BTreeMap<Owner, usize>, now: Instant) {
        let ids = || self.groups.keys().flatten().map(|id| Owner::Endpoint(*id));
        let is_closed = ids().any(|owner| closed.get(&owner).is_some_and(|count| *count > 0));
        if !is_closed && ids().any(|owner| wishes.contains_key(&owner)) {
            self.pauses_until = now + PAUSE;
        }
        for (ids, returning) in &mut self.groups {
            for id in ids.iter().filter(|id| closed.get(&Owner::Endpoint(**id)).is_some_and(|count| *count > 0)) {
                self.lasting.closed(*id, now);
            }
            let own = ids.iter().filter_map(|id| closed.get(&Owner::Endpoint(*id)));
            let count: usize = own.sum();
            returning.count += count as u64;
            self.pace.spend(count, now);
            if let Some(under_way) = &mut self.under_way {
                under_way.closed += count;
            }
        }
    }

    /// Says when it begins and when it has come to an end.
    fn tell(&mut self, load_balancer: &UpstreamKey, too_many: usize, now: Instant) {
        match &mut self.under_way {
            None if too_many > 0 => {
                info!(%load_balancer, too_many, "rebalancing: endpoints have more connections than their share");
                self.under_way = Some(UnderWay { closed: 0, last: now });
            }
            Some(under_way) if too_many > 0 => under_way.last = now,
            Some(UnderWay { closed, last }) if now.saturating_duration_since(*last) > OVER => {
                info!(%load_balancer, closed, "rebalanced");
                self.under_way = None;
            }
            _ => {}
        }
    }
}

impl Returning {
    /// Whoever comes may be one of those.
    fn note_connections(&mut self, connections: u64) {
        self.count = self.count.saturating_sub(connections.saturating_sub(self.connections));
        self.connections = connections;
    }
}
