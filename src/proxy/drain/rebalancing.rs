use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;
use tracing::info;

use crate::{
    model::{self, UpstreamKey},
    proxy::{
        accounting::CloseReason,
        view::View,
        worker::sessions::{Choice, First, Owner, Wish, Wishes},
    },
    upstream::{
        Upstream,
        rebalance::{Counts, EndpointLoad, Rebalancer, Rebalancing, WeightedEndpoint},
    },
};

/// A connection without a byte for this long is idle.
const IDLE: Duration = Duration::from_secs(5);
/// Nothing was to be closed for this long: it is over.
const OVER: Duration = Duration::from_secs(10);

/// Spreads connections anew that last, where that is wanted.
#[derive(Debug, Default)]
pub struct Rebalance {
    upstreams: BTreeMap<UpstreamKey, State>,
}

#[derive(Debug)]
struct State {
    rebalancer: Rebalancer,
    under_way: Option<UnderWay>,
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
                    wishes.extend(state.due(key, &rebalancing, &endpoint_loads(upstream), now));
                }
                None => drop(self.upstreams.remove(key)),
            }
        }
        wishes
    }

    /// What of it is to be closed if these are the connections that reached each endpoint.
    pub fn confirmed(&self, view: &View, wishes: &Wishes, established: &BTreeMap<u64, u32>) -> Wishes {
        let mut confirmed = Wishes::new();
        let due = counts(wishes.iter().map(|(owner, wish)| (owner, wish.count)));
        for (key, upstream) in &view.upstreams {
            let (Some(rebalancing), Some(state)) = (upstream.rebalancing(), self.upstreams.get(key)) else { continue };
            let of_upstream = state.rebalancer.confirmed(&rebalancing, &endpoint_loads(upstream), &due, established);
            for (owner, count) in of_upstream.into_iter().map(|(id, count)| (Owner::Endpoint(id), count)) {
                confirmed.insert(owner, Wish { count, ..wishes[&owner] });
            }
        }
        confirmed
    }

    /// Takes note of what has been wished and closed.
    pub fn note(&mut self, wishes: &Wishes, closed: &BTreeMap<Owner, usize>, now: Instant) {
        let due = counts(wishes.iter().map(|(owner, wish)| (owner, wish.count)));
        let closed = counts(closed.iter().map(|(owner, count)| (owner, *count)));
        for state in self.upstreams.values_mut() {
            state.note(&due, &closed, now);
        }
    }
}

impl State {
    fn new(rebalancing: &Rebalancing, now: Instant) -> Self {
        Self { rebalancer: Rebalancer::new(&rebalancing.rebalance, now), under_way: None }
    }

    fn due(
        &mut self,
        key: &UpstreamKey,
        rebalancing: &Rebalancing,
        groups: &[Vec<EndpointLoad>],
        now: Instant,
    ) -> Wishes {
        let due = self.rebalancer.due(rebalancing, groups, now);
        self.tell(key, self.rebalancer.too_many(), now);
        let Some(choice) = choice(&rebalancing.rebalance, now) else { return Wishes::new() };
        let wish = |count| Wish { count, reason: CloseReason::Rebalanced, choice };
        due.into_iter().map(|(id, count)| (Owner::Endpoint(id), wish(count))).collect()
    }

    fn note(&mut self, due: &Counts, closed: &Counts, now: Instant) {
        let closed = self.rebalancer.note(due, closed, now);
        if let Some(under_way) = &mut self.under_way {
            under_way.closed += closed;
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

/// Which connections may be closed, and which first. `None`: the clock does not reach back so far, and has seen none
/// that is old enough.
fn choice(settings: &model::Rebalance, now: Instant) -> Option<Choice> {
    let silent_since = now.checked_sub(IDLE)?;
    Some(Choice {
        first: if settings.idle_only { First::Silent } else { First::Oldest },
        accepted_before: Some(now.checked_sub(settings.min_age)?),
        silent_since: settings.idle_only.then_some(silent_since),
    })
}

fn endpoint_loads(upstream: &Upstream) -> Vec<Vec<EndpointLoad>> {
    upstream.groups().iter().map(|group| group.iter().map(WeightedEndpoint::load).collect()).collect()
}

/// Those of endpoints.
fn counts<'a>(of: impl Iterator<Item = (&'a Owner, usize)>) -> Counts {
    let of_endpoint = |(owner, count): (&Owner, usize)| match owner {
        Owner::Endpoint(id) => Some((*id, count)),
        Owner::Listener(_) => None,
    };
    of.filter_map(of_endpoint).collect()
}
