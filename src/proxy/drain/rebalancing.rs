use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;
use tracing::info;

use crate::{
    model::{self, UpstreamKey},
    proxy::{
        accounting::CloseReason,
        view::View,
        worker::sessions::{CloseCriteria, CloseOrder, CloseRequest, CloseRequests, DrainTarget},
    },
    upstream::{
        Upstream,
        rebalance::{ConnectionCounts, EndpointLoad, RebalancePolicy, Rebalancer, WeightedEndpoint},
    },
};

/// A connection without traffic for this long is idle.
const IDLE: Duration = Duration::from_secs(5);
/// A rebalancing ends after this time without excess connections.
const OVER: Duration = Duration::from_secs(10);

/// An upstream without connections for this long is skipped until it has some. Longer than [`OVER`] and the time for
/// which an excess must last. The pace of closes needs no ticks.
const SKIP_AFTER: Duration = Duration::from_secs(15);

/// Rebalances long-lived connections of upstreams with `rebalance`.
#[derive(Debug, Default)]
pub struct ConnectionRebalancer {
    upstreams: BTreeMap<UpstreamKey, UpstreamRebalance>,
}

#[derive(Debug)]
struct UpstreamRebalance {
    rebalancer: Rebalancer,
    run: Option<RebalanceRun>,
    /// The last time at which the upstream had connections.
    used: Instant,
}

#[derive(Clone, Copy, Debug)]
struct RebalanceRun {
    closed: usize,
    /// The last time at which there were excess connections.
    last: Instant,
}

impl ConnectionRebalancer {
    /// The connections to close now, counting connections that are still being dialled.
    pub fn due(&mut self, view: &View, now: Instant) -> CloseRequests {
        let mut requests = CloseRequests::new();
        let exists = |key: &UpstreamKey| view.upstreams.binary_search_by(|(other, _)| other.cmp(key)).is_ok();
        self.upstreams.retain(|key, _| exists(key));
        for (key, upstream) in &*view.upstreams {
            match upstream.rebalancing() {
                Some(rebalancing) => {
                    let state =
                        self.upstreams.entry(key.clone()).or_insert_with(|| UpstreamRebalance::new(&rebalancing, now));
                    if !state.update_idle(upstream, now) {
                        requests.extend(state.due(key, &rebalancing, &endpoint_loads(upstream), now));
                    }
                }
                None => drop(self.upstreams.remove(key)),
            }
        }
        requests
    }

    /// Limits the requests to the excess among established connections.
    pub fn confirmed(&self, view: &View, requests: &CloseRequests, established: &BTreeMap<u64, u32>) -> CloseRequests {
        let mut confirmed = CloseRequests::new();
        let due = counts(requests.iter().map(|(target, request)| (target, request.count)));
        for (key, upstream) in &*view.upstreams {
            let (Some(rebalancing), Some(state)) = (upstream.rebalancing(), self.upstreams.get(key)) else { continue };
            let of_upstream = state.rebalancer.confirmed(&rebalancing, &endpoint_loads(upstream), &due, established);
            for (target, count) in of_upstream.into_iter().map(|(id, count)| (DrainTarget::Endpoint(id), count)) {
                confirmed.insert(target, CloseRequest { count, ..requests[&target] });
            }
        }
        confirmed
    }

    /// Records the connections that were requested and closed.
    pub fn record(&mut self, requests: &CloseRequests, closed: &BTreeMap<DrainTarget, usize>, now: Instant) {
        let due = counts(requests.iter().map(|(target, request)| (target, request.count)));
        let closed = counts(closed.iter().map(|(target, count)| (target, *count)));
        for state in self.upstreams.values_mut() {
            state.record(&due, &closed, now);
        }
    }
}

impl UpstreamRebalance {
    fn new(rebalancing: &RebalancePolicy, now: Instant) -> Self {
        Self { rebalancer: Rebalancer::new(&rebalancing.rebalance, now), run: None, used: now }
    }

    /// Notes whether the upstream has connections. Returns true if it has had none for longer than [`SKIP_AFTER`].
    fn update_idle(&mut self, upstream: &Upstream, now: Instant) -> bool {
        if upstream.endpoints().iter().any(|endpoint| endpoint.active() > 0) {
            self.used = now;
        }
        now.saturating_duration_since(self.used) > SKIP_AFTER
    }

    fn due(
        &mut self,
        key: &UpstreamKey,
        rebalancing: &RebalancePolicy,
        groups: &[Vec<EndpointLoad>],
        now: Instant,
    ) -> CloseRequests {
        let due = self.rebalancer.due(rebalancing, groups, now);
        self.log_progress(key, self.rebalancer.too_many(), now);
        let Some(criteria) = criteria(&rebalancing.rebalance, now) else { return CloseRequests::new() };
        let request = |count| CloseRequest { count, reason: CloseReason::Rebalanced, criteria };
        due.into_iter().map(|(id, count)| (DrainTarget::Endpoint(id), request(count))).collect()
    }

    fn record(&mut self, due: &ConnectionCounts, closed: &ConnectionCounts, now: Instant) {
        let closed = self.rebalancer.record(due, closed, now);
        if let Some(run) = &mut self.run {
            run.closed += closed;
        }
    }

    /// Logs the start and the end of a rebalancing.
    fn log_progress(&mut self, load_balancer: &UpstreamKey, too_many: usize, now: Instant) {
        match &mut self.run {
            None if too_many > 0 => {
                info!(%load_balancer, too_many, "rebalancing: endpoints have more connections than their share");
                self.run = Some(RebalanceRun { closed: 0, last: now });
            }
            Some(run) if too_many > 0 => run.last = now,
            Some(RebalanceRun { closed, last }) if now.saturating_duration_since(*last) > OVER => {
                info!(%load_balancer, closed, "rebalanced");
                self.run = None;
            }
            _ => {}
        }
    }
}

/// The criteria for closing. `None`: the clock does not reach back far enough, so no connection is old enough.
fn criteria(settings: &model::Rebalance, now: Instant) -> Option<CloseCriteria> {
    let silent_since = now.checked_sub(IDLE)?;
    Some(CloseCriteria {
        order: if settings.idle_only { CloseOrder::LeastRecentlyActive } else { CloseOrder::Oldest },
        accepted_before: Some(now.checked_sub(settings.min_age)?),
        silent_since: settings.idle_only.then_some(silent_since),
    })
}

fn endpoint_loads(upstream: &Upstream) -> Vec<Vec<EndpointLoad>> {
    upstream.groups().iter().map(|group| group.iter().map(WeightedEndpoint::load).collect()).collect()
}

/// The counts of endpoints.
fn counts<'a>(of: impl Iterator<Item = (&'a DrainTarget, usize)>) -> ConnectionCounts {
    let of_endpoint = |(target, count): (&DrainTarget, usize)| match target {
        DrainTarget::Endpoint(id) => Some((*id, count)),
        DrainTarget::Listener(_) => None,
    };
    of.filter_map(of_endpoint).collect()
}
