//! Closes the connections of endpoints and listeners that are draining, according to `drain` of their load balancer,
//! and excess connections of endpoints with more than their share, according to `rebalance`.
//!
//! One task decides for all workers. It follows the view, and requests a number of closes for each target from each
//! worker. The workers together close the least recently active connections first, and never exceed the rate.

mod closing;
mod plans;
mod rebalancing;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    select,
    sync::watch,
    time::{Instant, sleep_until},
};

pub use self::plans::{Draining, DrainingResource};
use self::{
    closing::{close, established},
    plans::{DrainInput, DrainPlans},
    rebalancing::ConnectionRebalancer,
};
use super::{
    accounting::CloseReason,
    view::View,
    worker::{DRAIN_TICK, abort_on_panic::AbortOnPanic, handle::Shared, jittered},
};
use crate::{
    model::{Close, DrainCause, Report, Snapshot, UpstreamKey},
    shared::changes,
    upstream::{ChangeLog, Endpoint, Upstream, in_place_if},
};

/// The time after which draining endpoints without connections are ignored. Until then, a connection that was assigned
/// just before the drain began may appear.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);
/// The number of upstreams whose draining endpoints take long to read.
const MANY_UPSTREAMS: usize = 32;

pub struct Drainer {
    pub shared: Arc<Shared>,
    pub view: Arc<ArcSwap<View>>,
    pub changes: Arc<ChangeLog>,
    /// Publishes the drains in progress.
    pub draining: Arc<ArcSwap<Vec<Draining>>>,
}

impl Drainer {
    /// Runs until the sender of reports is dropped.
    pub async fn run(self, mut reports: watch::Receiver<Arc<Report>>) {
        let _abort = AbortOnPanic;
        let (mut plans, mut rebalance) = (DrainPlans::default(), ConnectionRebalancer::default());
        let mut known = DrainingEndpoints::default();
        let mut next = Instant::now();
        loop {
            // Without connections to close, this waits for the next change.
            let tick = async {
                match plans.have_work(Instant::now()) || !known.rebalanced.is_empty() {
                    // Not restarted by each change: changes may arrive faster than ticks.
                    true => sleep_until(next).await,
                    false => std::future::pending().await,
                }
            };
            select! {
                changed = reports.changed() => match changed {
                    Ok(()) => {
                        let changed = known.take_changes(&self.changes);
                        let changes = changed.as_ref().map_or(usize::MAX, BTreeSet::len);
                        in_place_if(changes.max(known.draining.len()) >= MANY_UPSTREAMS, || {
                            let (view, now) = (self.view.load(), Instant::now());
                            known.follow(&view, changed, now);
                            plans.follow(known.drain_input(&view), now);
                        });
                    }
                    Err(_) => return,
                },
                () = tick => {
                    next = Instant::now() + jittered(DRAIN_TICK);
                    let requests = plans.due(Instant::now());
                    let closed = close(&self.shared, &requests).await;
                    plans.record(&closed, Instant::now());
                    let view = self.view.load_full();
                    let requests = rebalance.due(&view, Instant::now());
                    if !requests.is_empty() {
                        let confirmed = rebalance.confirmed(&view, &requests, &established(&self.shared).await);
                        let closed = close(&self.shared, &confirmed).await;
                        rebalance.record(&requests, &closed, Instant::now());
                    }
                }
            }
            if let Some(draining) = plans.take_changed() {
                self.draining.store(Arc::new(draining));
            }
        }
    }
}

/// The draining endpoints of each upstream, read again only after a change of the upstream.
#[derive(Default)]
struct DrainingEndpoints {
    snapshot: Arc<Snapshot>,
    /// The number of changes of upstreams that are taken into account.
    seen: u64,
    draining: BTreeMap<UpstreamKey, UpstreamDrains>,
    /// The upstreams with rebalancing.
    rebalanced: BTreeSet<UpstreamKey>,
}

/// The draining endpoints of an upstream.
struct UpstreamDrains {
    upstream: Arc<Upstream>,
    endpoints: Vec<(Arc<Endpoint>, DrainCause, Option<Close>)>,
    /// The time at which they were read.
    since: Instant,
}

impl DrainingEndpoints {
    /// The upstreams that have changed since the last call; `None`: unknown. Taken before the view is loaded, so that a
    /// change in between is not missed: a new upstream is recorded as changed before it is in a view.
    fn take_changes(&mut self, log: &ChangeLog) -> Option<BTreeSet<UpstreamKey>> {
        let (seen, changed) = log.since(self.seen);
        self.seen = seen;
        changed
    }

    fn follow(&mut self, view: &View, changed: Option<BTreeSet<UpstreamKey>>, now: Instant) {
        self.remove_idle(now);
        let before = mem::replace(&mut self.snapshot, view.snapshot.clone());
        let Some(mut changed) = changed else { return self.read_all(view, now) };
        for (key, before, now) in changes(&before.upstreams, &view.snapshot.upstreams) {
            match (before, now) {
                (None, _) => {
                    changed.insert(key.clone());
                }
                (Some(_), None) => {
                    self.draining.remove(key);
                    self.rebalanced.remove(key);
                }
                // The change log has it. It also has an upstream that was removed and came back between two views.
                (Some(_), Some(_)) => {}
            }
        }
        // The routes of listeners decide which endpoints can take over.
        let listeners = changes(&before.listeners, &view.snapshot.listeners);
        changed.extend(listeners.map(|(key, ..)| UpstreamKey { object: key.object.clone() }));
        for key in changed {
            if let Some(upstream) = find(&view.upstreams, &key) {
                self.read(&key, upstream, now);
            }
        }
    }

    /// Removes draining endpoints without connections. They get no new ones before the next change of their upstream.
    fn remove_idle(&mut self, now: Instant) {
        self.draining.retain(|_, drains| {
            if now >= drains.since + IDLE_TIMEOUT {
                drains.endpoints.retain(|(endpoint, ..)| endpoint.active() > 0);
            }
            !drains.endpoints.is_empty()
        });
    }

    fn read_all(&mut self, view: &View, now: Instant) {
        (self.draining, self.rebalanced) = Default::default();
        for (key, upstream) in &*view.upstreams {
            self.read(key, upstream, now);
        }
    }

    fn read(&mut self, key: &UpstreamKey, upstream: &Arc<Upstream>, since: Instant) {
        let drains = UpstreamDrains { upstream: upstream.clone(), endpoints: upstream.draining(), since };
        match drains.endpoints.is_empty() {
            true => drop(self.draining.remove(key)),
            false => drop(self.draining.insert(key.clone(), drains)),
        }
        match upstream.rebalancing() {
            None => self.rebalanced.remove(key),
            Some(_) => self.rebalanced.insert(key.clone()),
        };
    }

    /// The draining endpoints, and the draining listeners of a view.
    fn drain_input<'a>(&self, view: &'a View) -> DrainInput<'a> {
        let mut draining = BTreeMap::new();
        for UpstreamDrains { upstream, endpoints, .. } in self.draining.values() {
            for (endpoint, cause, close) in endpoints {
                let (upstream, endpoint, reason) = (upstream.clone(), endpoint.clone(), reason_for(*cause));
                let object = upstream.key().object.clone();
                let resource = DrainingResource::Endpoint { upstream, endpoint };
                draining.insert((resource.target(), reason), (object, resource, *close));
            }
        }
        for removed in &*view.draining {
            let object = removed.listener.key.object.clone();
            let listener = DrainingResource::Listener(removed.listener.clone());
            draining
                .insert((listener.target(), CloseReason::ListenerRemoved), (object, listener, removed.drain.removed));
        }
        DrainInput { draining, upstreams: &view.upstreams }
    }
}

/// The upstream with this key, in upstreams that are sorted by key.
fn find<'a>(upstreams: &'a [(UpstreamKey, Arc<Upstream>)], key: &UpstreamKey) -> Option<&'a Arc<Upstream>> {
    let place = upstreams.binary_search_by(|(other, _)| other.cmp(key)).ok()?;
    Some(&upstreams[place].1)
}

fn reason_for(cause: DrainCause) -> CloseReason {
    match cause {
        DrainCause::Terminating => CloseReason::EndpointTerminating,
        DrainCause::Removed => CloseReason::EndpointRemoved,
        DrainCause::Unhealthy => CloseReason::EndpointUnhealthy,
        DrainCause::Drained => CloseReason::EndpointDrained,
        DrainCause::Failback => CloseReason::Failback,
    }
}

#[cfg(test)]
mod tests;
