mod log;
mod preconnect;
pub mod task;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    select,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

use self::{
    log::{log, log_omitted, log_service, record_priority_change},
    preconnect::Refill,
    task::spawn,
};
use super::{
    backends::Backends,
    change_log::ChangeLog,
    endpoint::{
        Endpoint,
        pool::{Pool, PreconnectBudget},
    },
    endpoint_set::{EndpointChange, EndpointSet},
    in_place::in_place_if,
    priority::ActivePriority,
    probe::{ProbeResult, ProbeTarget, probe},
    published::{FormerEndpoint, Published, PublishedState},
    rebalance::{Group, RebalancePolicy, WeightedEndpoint},
    subset::{Candidates, Subset},
};
use crate::{
    capacity::{Share, TenantPlaces, TenantQueue},
    model::{self, ActiveCheck, Close, DrainCause, Priority},
};

/// The minimum pause after a publication, in which further changes are gathered.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The control side of an upstream: decides which endpoints are usable, publishes the result to connections, and runs
/// probes and pools. No connection ever waits for it.
pub(super) struct UpstreamControl {
    context: UpstreamContext,
    upstream: Arc<Published>,
    endpoint_set: EndpointSet,
    /// `None`: not configured yet, or retired.
    settings: Option<Arc<model::UpstreamConfig>>,
    /// The probe tasks, by endpoint id.
    probes: BTreeMap<u64, ProbeTask>,
    /// The pool tasks, by endpoint id.
    pools: BTreeMap<u64, PoolTask>,
    /// The preconnected sockets of the upstream.
    sockets: Arc<Share>,
    /// The subsets in use, and some that were dropped.
    subsets: Vec<SubsetEntry>,
    /// The time at which the published state changes without an event.
    due: Option<Instant>,
    /// True if probes have changed usable endpoints since the last review.
    unsettled: bool,
    /// Changes that are not published yet: logged once they are.
    unlogged: Vec<EndpointChange>,
    /// True if a subset was added since the last update of standby marks.
    standby_outdated: bool,
}

/// A subset, and its active priority level.
struct SubsetEntry {
    backends: Backends,
    subset: Weak<Subset>,
    serving: ActivePriority,
}

/// The resources that all upstreams share.
#[derive(Clone)]
pub(super) struct UpstreamContext {
    pub control: Handle,
    pub budget: PreconnectBudget,
    /// The permits of concurrent probes: each probe needs a descriptor.
    pub probes: Arc<TenantPlaces>,
    pub changes: Arc<ChangeLog>,
}

impl UpstreamControl {
    pub fn new(context: UpstreamContext, upstream: Arc<Published>) -> Self {
        let (endpoint_set, probes, pools, subsets) = Default::default();
        let sockets = context.budget.share();
        Self {
            context,
            upstream,
            endpoint_set,
            settings: None,
            probes,
            pools,
            sockets,
            subsets,
            due: None,
            unsettled: false,
            unlogged: Vec::new(),
            standby_outdated: false,
        }
    }

    /// Returns the subset of these backends, shared while it is in use. A new one starts with the active priority level
    /// of the most similar one.
    pub fn subset(&mut self, backends: &Backends) -> Arc<Subset> {
        // Before unused subsets are removed.
        let alike = self.active_of_most_similar(backends);
        if let Some(subset) = self.open_subsets().into_iter().find(|subset| subset.backends() == backends) {
            return subset;
        }
        let settings = self.settings.as_ref().expect("what connections are sent to is wanted");
        let candidates = Candidates::new(self.endpoint_set.candidates(backends, Instant::now()));
        let mut serving = alike.unwrap_or_default();
        let (subset, change) =
            Subset::new(self.upstream.clone(), backends.clone(), settings, &candidates, &mut serving);
        if let Some(change) = change {
            record_priority_change(&self.upstream, backends, change);
        }
        let subset = Arc::new(subset);
        self.due = self.due.into_iter().chain(serving.due(&settings.balancing.failover)).min();
        self.subsets.push(SubsetEntry { backends: backends.clone(), subset: Arc::downgrade(&subset), serving });
        if self.has_one_priority() {
            // Its endpoints are not on standby, which is the default.
            self.standby_outdated = true;
        } else {
            self.update_standby();
        }
        // Its last endpoint may be ejected and must return.
        self.upstream.attention.notify_one();
        subset
    }

    /// The active priority level of the subset that has most backends in common with these, so that an edited route
    /// keeps it. The common backends must have several priorities: two routes that share only their fallback are
    /// different routes.
    fn active_of_most_similar(&self, backends: &Backends) -> Option<ActivePriority> {
        if self.has_one_priority() {
            return None;
        }
        let all = &self.settings.as_ref()?.backends;
        let likeness = |known: &SubsetEntry| {
            let common = || all.iter().filter(|(name, _)| backends.contain(name) && known.backends.contain(name));
            let groups: BTreeSet<_> = common().map(|(_, backend)| backend.priority).collect();
            let others = all.keys().filter(|name| known.backends.contain(name)).count() - common().count();
            (groups.len() > 1).then(|| (common().count(), Reverse(others)))
        };
        let alike = self.subsets.iter().filter_map(|known| Some((likeness(known)?, known)));
        alike.max_by_key(|(likeness, _)| *likeness).map(|(_, known)| known.serving.clone())
    }

    fn has_one_priority(&self) -> bool {
        let mut priorities = self.settings.iter().flat_map(|settings| settings.backends.values()).map(|it| it.priority);
        let first = priorities.next();
        priorities.all(|priority| Some(priority) == first)
    }

    /// The active priority of these backends, if it is not their first one.
    pub fn failed_over(&mut self, backends: &Backends) -> Option<Priority> {
        let subset = self.open_subsets().into_iter().find(|subset| subset.backends() == backends)?;
        let own =
            self.settings.iter().flat_map(|settings| &settings.backends).filter(|(name, _)| backends.contain(name));
        let first = own.map(|(_, backend)| backend.priority).min()?;
        subset.serving().filter(|serving| *serving > first)
    }

    /// The endpoints that get no new connections, with the cause, and the policy for their open connections.
    pub fn draining(&mut self) -> Vec<(Arc<Endpoint>, DrainCause, Option<Close>)> {
        let Some(settings) = self.settings.clone() else { return Vec::new() };
        self.protect_subsets();
        let open = self.open_subsets();
        // The result is the same for all endpoints of a backend.
        let mut by_backend: BTreeMap<(Arc<str>, Priority), bool> = BTreeMap::new();
        let mut gives_way = |endpoint: &&Arc<Endpoint>| {
            let of_backend = (endpoint.key().backend.clone(), endpoint.backend().priority);
            *by_backend.entry(of_backend).or_insert_with(|| {
                let given_way = || open.iter().filter_map(|subset| subset.prefers_others_to(endpoint));
                given_way().next().is_some() && given_way().all(|gives_way| gives_way)
            })
        };
        // Includes endpoints that drain for another cause: their connections fail back as well.
        let failed_back = self.endpoint_set.endpoints().chain(self.endpoint_set.removed()).filter(&mut gives_way);
        let failed_back = failed_back.map(|endpoint| (endpoint.clone(), DrainCause::Failback));
        let draining = self.endpoint_set.draining(&settings.unready).into_iter().chain(failed_back);
        draining.map(|(endpoint, why)| (endpoint, why, settings.drain.on(why))).collect()
    }

    /// The endpoints that connections are balanced over, in groups of comparable shares: the endpoints of one group are
    /// in the same subsets.
    pub fn groups(&mut self) -> Vec<Group> {
        let mut of: BTreeMap<u64, (Vec<usize>, WeightedEndpoint)> = BTreeMap::new();
        for (number, subset) in self.open_subsets().iter().enumerate() {
            for (endpoint, weight) in subset.shares() {
                of.entry(endpoint.id())
                    .or_insert_with(|| (Vec::new(), WeightedEndpoint { endpoint, weight }))
                    .0
                    .push(number);
            }
        }
        let mut groups: BTreeMap<Vec<usize>, Group> = BTreeMap::new();
        for (subsets, weighted) in of.into_values() {
            groups.entry(subsets).or_default().push(weighted);
        }
        groups.into_values().collect()
    }

    /// Makes ejections leave each subset in use a usable endpoint.
    fn protect_subsets(&mut self) {
        let open = self.open_subsets();
        // The subset of all backends is always protected.
        let parts = open.iter().map(|subset| subset.backends()).filter(|backends| **backends != Backends::All);
        self.endpoint_set.protect(parts.cloned().collect());
    }

    fn open_subsets(&mut self) -> Vec<Arc<Subset>> {
        let before = self.subsets.len();
        self.subsets.retain(|known| known.subset.strong_count() > 0);
        if self.subsets.len() < before {
            self.notify_of_change();
        }
        self.subsets.iter().filter_map(|known| known.subset.upgrade()).collect()
    }

    /// Applies new settings. Probes get `control`, which is this instance.
    pub fn change(&mut self, control: &Arc<Mutex<Self>>, wanted: &Arc<model::UpstreamConfig>) {
        let before = self.settings.replace(wanted.clone());
        if before.as_ref() == Some(wanted) {
            return;
        }
        let dialling = |settings: &model::UpstreamConfig| (settings.connect, settings.keepalive);
        if before.as_ref().is_none_or(|before| dialling(before) != dialling(wanted)) {
            self.pools.clear();
        }
        self.protect_subsets();
        self.unlogged.extend(self.endpoint_set.change(wanted, &self.upstream.attention, Instant::now()));
        self.unsettled = false;
        self.publish();
        self.probe_all(control);
        // The next review may be due earlier than the control task knows.
        if self.next_review(Instant::now()).is_some() {
            self.upstream.attention.notify_one();
        }
    }

    /// Records the outcome of a probe for the next review. Returns true if the endpoint is healthy.
    pub fn probed(&mut self, id: u64, outcome: Option<ProbeResult>) -> bool {
        let changes = match outcome {
            Some(outcome) => {
                let changes = self.endpoint_set.observe(id, outcome, Instant::now());
                let any = !changes.is_empty();
                self.unlogged.extend(changes);
                any
            }
            None => self.endpoint_set.probe_not_sent(id),
        };
        if changes {
            self.unsettled = true;
            self.upstream.attention.notify_one();
        }
        self.endpoint_set.is_healthy(id)
    }

    /// Applies everything that was recorded since the last review. The cost depends on the number of endpoints, not on
    /// the number of changes.
    pub fn review(&mut self) -> Review {
        self.protect_subsets();
        let now = Instant::now();
        self.unlogged.extend(self.endpoint_set.review(now));
        let publishes = mem::take(&mut self.unsettled) || !self.unlogged.is_empty();
        let is_due = self.due.is_some_and(|due| due <= now);
        if publishes {
            self.publish();
        } else if is_due {
            self.balance();
        }
        if mem::take(&mut self.standby_outdated) {
            self.update_standby();
        }
        Review { next: self.next_review(now), published: publishes || is_due }
    }

    /// The time at which an ejection ends, the published state changes without an event, or the number of omitted log
    /// lines is logged. Logs that number if it is due.
    fn next_review(&self, now: Instant) -> Option<Instant> {
        let omitted_due = log_omitted(&self.upstream, now);
        self.endpoint_set.next_return().into_iter().chain(self.due).chain(omitted_due).min()
    }

    /// Stops all tasks and closes pooled sockets.
    pub fn retire(&mut self) {
        self.settings = None;
        self.unlogged.clear();
        self.probes.clear();
        self.pools.clear();
        self.open_subsets().iter().for_each(|subset| subset.retire());
    }

    /// Publishes the current decisions to connections.
    fn publish(&mut self) {
        let Some(settings) = self.settings.clone() else { return };
        let before = self.upstream.current.load_full();
        let usable = self.endpoint_set.usable();
        let former = self.endpoint_set.former(&settings.unready);
        let former = former.map(|(endpoint, unready)| FormerEndpoint { endpoint: endpoint.clone(), unready });
        let current = PublishedState {
            connect: settings.connect,
            keepalive: settings.keepalive,
            endpoints: self.endpoint_set.endpoints().cloned().collect(),
            former: former.collect(),
            usable,
            // Unchanged while first checks are pending.
            refuses: usable == 0 && (before.refuses || !self.endpoint_set.awaits_first_check()),
            rebalance: RebalancePolicy::of(&settings),
        };
        let were_any = !before.endpoints.is_empty();
        match (before.refuses, current.refuses) {
            (false, true) if were_any || !current.endpoints.is_empty() => log_service(&self.upstream, true, usable),
            (true, false) if were_any => log_service(&self.upstream, false, usable),
            _ => {}
        }
        self.upstream.current.store(Arc::new(current));
        self.balance();
        let changes = mem::take(&mut self.unlogged);
        log(&self.upstream, &changes);
        self.fill_pools(&settings);
        self.notify_of_change();
    }

    /// Announces a change of the usable or draining endpoints.
    fn notify_of_change(&self) {
        self.context.changes.note(&self.upstream.key);
    }

    /// Rebuilds the balancers of the subsets that have changed.
    fn balance(&mut self) {
        let Some(settings) = self.settings.clone() else { return };
        let now = Instant::now();
        let candidates = Candidates::new(self.endpoint_set.candidates(&Backends::All, now));
        let affected = self.endpoint_set.take_affected();
        let failover = &settings.balancing.failover;
        let mut changed = Vec::new();
        for SubsetEntry { backends, subset, serving } in &mut self.subsets {
            let is_due = serving.due(failover).is_some_and(|due| due <= now);
            if !(is_due || backends.are_among(&affected) || backends.are_renamed(&settings)) {
                continue;
            }
            let Some(subset) = subset.upgrade() else { continue };
            if let Some(change) = subset.publish(&settings, &candidates, serving) {
                changed.push((subset, change));
            }
        }
        let failbacks = self.subsets.iter().filter_map(|known| known.serving.due(failover));
        self.due = failbacks.chain(self.endpoint_set.next_step(now)).min();
        self.update_standby();
        for (subset, change) in &changed {
            record_priority_change(&self.upstream, subset.backends(), *change);
        }
        if !changed.is_empty() {
            self.notify_of_change();
        }
    }

    /// Marks endpoints of inactive priorities as standby.
    fn update_standby(&mut self) {
        let open = self.open_subsets();
        // The result is the same for all endpoints of a backend.
        let mut by_backend: BTreeMap<(Arc<str>, Priority), bool> = BTreeMap::new();
        for endpoint in self.endpoint_set.endpoints() {
            let of_backend = (endpoint.key().backend.clone(), endpoint.backend().priority);
            let is_standby = *by_backend.entry(of_backend).or_insert_with(|| {
                let served = || open.iter().filter_map(|subset| subset.is_served_by(endpoint));
                served().next().is_some() && !served().any(|serves| serves)
            });
            endpoint.set_standby(is_standby);
        }
    }

    /// Starts and stops probes according to the settings of each backend.
    fn probe_all(&mut self, control: &Arc<Mutex<Self>>) {
        let targets: BTreeMap<u64, ProbeTarget> = self
            .endpoint_set
            .endpoints()
            .filter_map(|endpoint| Some((endpoint.id(), ProbeTarget::of(endpoint)?)))
            .collect();
        self.probes.retain(|id, task| targets.get(id) == Some(&*task.target));
        // At most one millisecond for each new task.
        let fresh = targets.len() - self.probes.len();
        for (id, target) in targets {
            let spread = Duration::from_millis(fresh.saturating_sub(1) as u64).min(target.check.interval);
            let start = || {
                let queue = self.context.probes.queue(&self.upstream.key.object.namespace);
                let results = ProbeResults { upstream: control.clone(), id };
                ProbeTask::start(&self.context.control, queue, Arc::new(target), results, spread)
            };
            self.probes.entry(id).or_insert_with(start);
        }
    }

    /// Keeps a pool for each usable endpoint, if preconnecting is enabled, and no other pools.
    fn fill_pools(&mut self, settings: &model::UpstreamConfig) {
        let Some(preconnect) = settings.connect.preconnect else { return };
        let usable = self.endpoint_set.endpoints().filter(|endpoint| endpoint.usable());
        let usable: BTreeMap<_, _> = usable.map(|endpoint| (endpoint.id(), endpoint)).collect();
        self.pools.retain(|id, _| usable.contains_key(id));
        let refill =
            || Refill { connect: settings.connect, keepalive: settings.keepalive, sockets: self.sockets.clone() };
        for (id, endpoint) in usable {
            let open = || PoolTask::new(&self.context.control, endpoint, Pool::new(preconnect), refill());
            self.pools.entry(id).or_insert_with(open);
        }
    }
}

pub(super) fn lock(control: &Mutex<UpstreamControl>) -> MutexGuard<'_, UpstreamControl> {
    // Each step leaves the state consistent; a panic is reported where it happens.
    control.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The outcome of a review.
pub(super) struct Review {
    /// The time of the next review without an event.
    pub next: Option<Instant>,
    /// True if the published state has changed.
    pub published: bool,
}

/// The control task of an upstream: applies probe results, begins and ends ejections. The first change is applied at
/// once, changes that follow it together.
pub(super) async fn run(control: Arc<Mutex<UpstreamControl>>) {
    let attention = lock(&control).upstream.attention.clone();
    loop {
        let started = Instant::now();
        let Review { next: due, published } = review(&control);
        if published {
            sleep(pause_after(started.elapsed())).await;
        }
        let is_due = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        select! {
            () = is_due => {}
            () = attention.notified() => {}
        }
    }
}

/// Reviews the endpoints.
fn review(control: &Mutex<UpstreamControl>) -> Review {
    /// The number of endpoints whose review may delay other tasks.
    const LARGE: usize = 250;

    let mut control = lock(control);
    in_place_if(control.endpoint_set.endpoints().count() >= LARGE, || control.review())
}

/// The pause after a review of this duration: reviews of one upstream take at most a fifth of a thread.
fn pause_after(review: Duration) -> Duration {
    (review * 4).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
}

/// The task that probes an endpoint, stopped on drop.
struct ProbeTask {
    /// Shared with the task, because each endpoint has one.
    target: Arc<ProbeTarget>,
    _task: AbortOnDropHandle<()>,
}

impl ProbeTask {
    /// The first probe is delayed by a random part of `spread`, so that tasks that start at the same time do not probe
    /// at the same time.
    fn start(
        control: &Handle,
        queue: Arc<TenantQueue>,
        target: Arc<ProbeTarget>,
        results: ProbeResults,
        spread: Duration,
    ) -> Self {
        let probed = target.clone();
        let task = spawn(control, "probe", move || {
            let (results, target) = (results.clone(), probed.clone());
            let report = move |outcome| results.record(&target.check, outcome);
            probe(probed.clone(), queue.clone(), spread.mul_f64(fastrand::f64()), report)
        });
        Self { target, _task: task }
    }
}

/// The receiver of the probe results of an endpoint.
#[derive(Clone)]
struct ProbeResults {
    upstream: Arc<Mutex<UpstreamControl>>,
    /// The id of the endpoint.
    id: u64,
}

impl ProbeResults {
    /// Records the outcome of this check, unless its settings have changed since. Returns true if the endpoint is
    /// healthy.
    fn record(&self, check: &Arc<ActiveCheck>, outcome: Option<ProbeResult>) -> bool {
        let mut upstream = lock(&self.upstream);
        if upstream.endpoint_set.check(self.id).is_none_or(|current| current != *check) {
            return upstream.endpoint_set.is_healthy(self.id);
        }
        upstream.probed(self.id, outcome)
    }
}

/// A pool and the task that fills it; dropping it flushes the pool.
struct PoolTask {
    endpoint: Arc<Endpoint>,
    pool: Arc<Pool>,
    _refill: AbortOnDropHandle<()>,
}

impl PoolTask {
    fn new(control: &Handle, endpoint: &Arc<Endpoint>, pool: Pool, refill: Refill) -> Self {
        let pool = Arc::new(pool);
        endpoint.set_pool(Some(pool.clone()));
        let filled = (endpoint.clone(), pool.clone());
        let task = spawn(control, "refill", move || refill.clone().run(filled.0.clone(), filled.1.clone()));
        Self { endpoint: endpoint.clone(), pool, _refill: task }
    }
}

impl Drop for PoolTask {
    fn drop(&mut self) {
        self.endpoint.set_pool(None);
        self.pool.flush();
    }
}
