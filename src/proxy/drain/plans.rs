use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use tracing::info;

use crate::{
    drain::{Pace, Schedule, parts_of},
    model::{Close, DRAIN_TOLERANCE, ObjectKey, UpstreamKey},
    proxy::{
        accounting::CloseReason,
        listener::ListenerState,
        worker::sessions::{CloseCriteria, CloseRequest, CloseRequests, DrainTarget},
    },
    upstream::{Endpoint, Upstream},
};

/// An endpoint or a listener that gets no new connections.
#[derive(Clone, Debug)]
pub enum DrainingResource {
    Endpoint { upstream: Arc<Upstream>, endpoint: Arc<Endpoint> },
    Listener(Arc<ListenerState>),
}

impl DrainingResource {
    pub fn target(&self) -> DrainTarget {
        match self {
            Self::Endpoint { endpoint, .. } => DrainTarget::Endpoint(endpoint.id()),
            Self::Listener(listener) => DrainTarget::Listener(listener.id),
        }
    }

    /// The id of the endpoint. `None`: a listener.
    pub fn endpoint_id(&self) -> Option<u64> {
        match self {
            Self::Endpoint { endpoint, .. } => Some(endpoint.id()),
            Self::Listener(_) => None,
        }
    }

    /// The number of open connections.
    pub fn open(&self) -> usize {
        match self {
            Self::Endpoint { endpoint, .. } => endpoint.active() as usize,
            Self::Listener(listener) => listener.counters.totals().active() as usize,
        }
    }
}

impl fmt::Display for DrainingResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint { endpoint, .. } => endpoint.key().fmt(f),
            Self::Listener(listener) => listener.key.fmt(f),
        }
    }
}

/// A drain in progress.
#[derive(Clone, Debug)]
pub struct Draining {
    pub object: ObjectKey,
    pub reason: CloseReason,
    pub resource: DrainingResource,
    /// The time at which the last connection is due to be closed. A limit of the rate may delay it.
    pub until: Instant,
}

impl Draining {
    /// True if all connections should have been closed more than [`DRAIN_TOLERANCE`] ago.
    pub fn is_overdue(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.until) > DRAIN_TOLERANCE
    }
}

type DrainKey = (DrainTarget, CloseReason);

/// The state that drains are derived from.
#[derive(Debug, Default)]
pub struct DrainInput<'a> {
    /// The targets that get no new connections, with the policy for their open ones; `None`: these are kept.
    pub draining: BTreeMap<DrainKey, (ObjectKey, DrainingResource, Option<Close>)>,
    /// All upstreams, sorted by key. Plans of endpoints whose upstream is not among them are orphans.
    pub upstreams: &'a [(UpstreamKey, Arc<Upstream>)],
}

/// The drains in progress: one plan for each target and cause. A plan stays in force until its target is back in use:
/// an endpoint that is removed while it is drained as unhealthy is drained for both causes. A failback drain is
/// independent: it ends when no other priority is preferred any more, and keeps no other plan in force.
#[derive(Debug, Default)]
pub struct DrainPlans {
    plans: BTreeMap<DrainKey, DrainPlan>,
    /// The paces, by load balancer and reason.
    paces: BTreeMap<(ObjectKey, CloseReason), Pace>,
    /// The number of closes that were last requested for each reason, by target.
    parts: BTreeMap<DrainTarget, Vec<(CloseReason, usize)>>,
    has_changed: bool,
}

#[derive(Debug)]
struct DrainPlan {
    object: ObjectKey,
    resource: DrainingResource,
    close: Close,
    since: Instant,
    /// The maximum number of open connections since then.
    total: usize,
    closed: usize,
    /// True once the end of the drain is logged.
    is_end_logged: bool,
    /// True if its load balancer is removed: the target does not come back.
    is_orphan: bool,
}

impl DrainPlans {
    /// Starts plans for new targets, and ends those of targets that are back in use.
    pub fn follow(&mut self, input: DrainInput, now: Instant) {
        let keys = input.draining.keys().filter(|(_, reason)| *reason != CloseReason::Failback);
        let unavailable: BTreeSet<DrainTarget> = keys.map(|(target, _)| *target).collect();
        let goes_on = |case: &DrainKey| match case {
            (_, CloseReason::Failback) => input.draining.contains_key(case),
            (target, _) => unavailable.contains(target),
        };
        self.plans.retain(|case, plan| {
            let kept = input.draining.get(case).is_some_and(|(_, _, close)| close.is_none());
            plan.is_orphan = !plan.is_of(input.upstreams);
            let stays = !kept && (goes_on(case) || plan.is_orphan);
            if !stays {
                plan.log_end(case.1);
                self.has_changed = true;
            }
            stays
        });
        for (case, (object, resource, close)) in input.draining {
            let Some(close) = close else { continue };
            let plan = self.plans.entry(case).or_insert_with(|| {
                self.has_changed = true;
                let plan = DrainPlan {
                    object,
                    resource,
                    close,
                    since: now,
                    total: 0,
                    closed: 0,
                    is_end_logged: false,
                    is_orphan: false,
                };
                plan.log_begin(case.1);
                plan
            });
            self.has_changed |= plan.close != close;
            plan.close = close;
            plan.total = plan.total.max(plan.resource.open());
        }
        let used: BTreeSet<_> = self.plans.iter().map(|((_, reason), plan)| (plan.object.clone(), *reason)).collect();
        self.paces.retain(|group, _| used.contains(group));
    }

    /// True if connections may have to be closed before the next change.
    pub fn have_work(&self, now: Instant) -> bool {
        // The last connections may end between two ticks: logging and removing such a plan is work, too.
        let is_open = |plan: &DrainPlan| plan.resource.open() > 0 || !plan.is_end_logged || plan.is_orphan;
        self.plans.values().any(|plan| is_open(plan) || now < plan.since + plan.close.after)
    }

    /// The connections to close now.
    pub fn due(&mut self, now: Instant) -> CloseRequests {
        let mut requests = CloseRequests::new();
        self.parts.clear();
        let mut groups: BTreeMap<(ObjectKey, CloseReason), Vec<(DrainTarget, usize)>> = BTreeMap::new();
        for ((target, reason), plan) in &mut self.plans {
            let excess = plan.excess(now);
            if excess > 0 {
                groups.entry((plan.object.clone(), *reason)).or_default().push((*target, excess));
            }
        }
        for (group, excesses) in groups {
            let excesses: Vec<(DrainTarget, usize)> = excesses
                .into_iter()
                // Some of them are already closed for another reason.
                .map(|(target, excess)| {
                    (target, excess.saturating_sub(requests.get(&target).map_or(0, |request| request.count)))
                })
                .collect();
            let allowed = self.allowed(&group, now);
            let counts = parts_of(allowed, &excesses.iter().map(|(_, excess)| *excess).collect::<Vec<_>>());
            for ((target, _), count) in excesses.into_iter().zip(counts).filter(|(_, count)| *count > 0) {
                let request = CloseRequest { count: 0, reason: group.1, criteria: CloseCriteria::default() };
                requests.entry(target).or_insert(request).count += count;
                self.parts.entry(target).or_default().push((group.1, count));
            }
        }
        requests
    }

    /// Records the connections that were closed.
    pub fn record(&mut self, closed: &BTreeMap<DrainTarget, usize>, now: Instant) {
        for (target, count) in closed {
            let mut rest = *count;
            // Each reason has its own rate, and is charged for its part only.
            for (reason, requested) in self.parts.remove(target).unwrap_or_default() {
                let part = rest.min(requested);
                rest -= part;
                let Some(plan) = self.plans.get_mut(&(*target, reason)) else { continue };
                plan.closed += part;
                if let Some(pace) = self.paces.get_mut(&(plan.object.clone(), reason)) {
                    pace.spend(part, now);
                }
            }
        }
        for ((_, reason), plan) in
            self.plans.iter_mut().filter(|(_, plan)| !plan.is_end_logged && plan.resource.open() == 0)
        {
            plan.is_end_logged = true;
            plan.log_end(*reason);
        }
        let before = self.plans.len();
        self.plans.retain(|_, plan| !plan.is_orphan || plan.resource.open() > 0);
        self.has_changed |= self.plans.len() != before;
    }

    /// The drains in progress, if they have changed since the last call.
    pub fn take_changed(&mut self) -> Option<Vec<Draining>> {
        let draining = |((_, reason), plan): (&DrainKey, &DrainPlan)| {
            let (object, resource) = (plan.object.clone(), plan.resource.clone());
            Draining { object, reason: *reason, resource, until: plan.since + plan.close.after }
        };
        std::mem::take(&mut self.has_changed).then(|| self.plans.iter().map(draining).collect())
    }

    /// The number of closes that the rate allows. All plans of a load balancer for one reason share the rate.
    fn allowed(&mut self, group: &(ObjectKey, CloseReason), now: Instant) -> usize {
        let of_group = |((_, reason), plan): &(&DrainKey, &DrainPlan)| (&plan.object, reason) == (&group.0, &group.1);
        // All have the same settings, except plans of removed targets.
        let rates = self.plans.iter().filter(of_group).filter_map(|(_, plan)| plan.close.max_per_second);
        let Some(most) = rates.min().map(|most| most.get() as usize) else { return usize::MAX };
        let second = Duration::from_secs(1);
        let pace = self.paces.entry(group.clone()).or_insert_with(|| Pace::new(most, second, now));
        pace.changed(most, second, now).allows(now)
    }
}

impl DrainPlan {
    /// The number of open connections above the schedule.
    fn excess(&mut self, now: Instant) -> usize {
        let open = self.resource.open();
        self.total = self.total.max(open);
        self.is_end_logged &= open == 0;
        let schedule = Schedule::new(self.close, Duration::MAX);
        open.saturating_sub(schedule.may_remain(self.total, now.saturating_duration_since(self.since)))
    }

    /// True if one of these upstreams would show that the target is back in use.
    fn is_of(&self, upstreams: &[(UpstreamKey, Arc<Upstream>)]) -> bool {
        match &self.resource {
            DrainingResource::Endpoint { upstream, .. } => {
                let place = upstreams.binary_search_by(|(key, _)| key.cmp(upstream.key()));
                place.is_ok_and(|place| Arc::ptr_eq(&upstreams[place].1, upstream))
            }
            DrainingResource::Listener(_) => true,
        }
    }

    fn log_begin(&self, reason: CloseReason) {
        let Close { after, spread, .. } = self.close;
        let (load_balancer, what, connections) = (&self.object, &self.resource, self.resource.open());
        if connections > 0 {
            info!(%load_balancer, %what, reason = reason.label(), connections, ?after, ?spread, "draining");
        }
    }

    fn log_end(&self, reason: CloseReason) {
        let (load_balancer, what, closed, stay) = (&self.object, &self.resource, self.closed, self.resource.open());
        if self.total == 0 || (self.is_end_logged && stay == 0) {
            return;
        }
        if stay == 0 {
            info!(%load_balancer, %what, reason = reason.label(), closed, "drained");
        } else {
            info!(%load_balancer, %what, reason = reason.label(), closed, stay, "no longer draining");
        }
    }
}

#[cfg(test)]
mod tests;
