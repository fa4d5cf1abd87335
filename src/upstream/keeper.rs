use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures::FutureExt;
use tokio::{
    runtime::Handle,
    select,
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use super::{
    Backends, Current, Subset, Upstream,
    endpoint::Endpoint,
    members::{Change, Event, Members},
    pool::{Pool, PreconnectBudget, Refill},
    priority::{Serving, Switch},
    probe::{Outcome, probe},
};
use crate::model::{self, ActiveCheck, UpstreamKey};

/// The control side of an upstream: decides which endpoints are usable, publishes that to the connections, and runs
/// probes and pools. No connection ever waits for it.
pub(super) struct Keeper {
    surroundings: Surroundings,
    members: Members,
    /// `None`: nothing wanted yet, or retired.
    settings: Option<Arc<model::Upstream>>,
    /// By endpoint id.
    probes: BTreeMap<u64, AbortOnDropHandle<()>>,
    /// By endpoint id.
    pools: BTreeMap<u64, OpenPool>,
    /// Those that connections may still be balanced over, and some that are gone.
    subsets: Vec<Known>,
    /// When connections have to see something else although nothing has happened.
    due: Option<Instant>,
}

/// A subset, and which group of its endpoints serves.
struct Known {
    subset: Weak<Subset>,
    serving: Serving,
}

/// What all keepers share.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub control: Handle,
    pub budget: PreconnectBudget,
    /// Counts changes of what is usable.
    pub usable_changes: watch::Sender<u64>,
}

impl Keeper {
    pub fn new(surroundings: Surroundings) -> Self {
        let (members, probes, pools, subsets) = Default::default();
        Self { surroundings, members, settings: None, probes, pools, subsets, due: None }
    }

    /// The same one for as long as somebody has it.
    pub fn subset(&mut self, upstream: &Arc<Upstream>, backends: &Backends) -> Arc<Subset> {
        if let Some(subset) = self.open_subsets().into_iter().find(|subset| subset.backends() == backends) {
            return subset;
        }
        let settings = self.settings.as_ref().expect("what connections are sent to is wanted");
        let candidates = self.members.candidates(Instant::now());
        let mut serving = Serving::default();
        let (subset, switch) = Subset::new(upstream.clone(), backends.clone(), settings, &candidates, &mut serving);
        if let Some(switch) = switch {
            log_switch(upstream.key(), backends, switch);
        }
        let subset = Arc::new(subset);
        self.subsets.push(Known { subset: Arc::downgrade(&subset), serving });
        self.note_service();
        // Its last endpoint may be ejected.
        upstream.attention.notify_one();
        subset
    }

    /// Has ejections leave those subsets an endpoint that somebody has now.
    fn protect_subsets(&mut self) {
        let open = self.open_subsets();
        // The whole is protected in any case.
        let parts = open.iter().map(|subset| subset.backends()).filter(|backends| **backends != Backends::All);
        self.members.never_empty(parts.cloned().collect());
    }

    fn open_subsets(&mut self) -> Vec<Arc<Subset>> {
        self.subsets.retain(|known| known.subset.strong_count() > 0);
        self.subsets.iter().filter_map(|known| known.subset.upgrade()).collect()
    }

    pub fn change(&mut self, upstream: &Arc<Upstream>, wanted: &Arc<model::Upstream>) {
        let before = self.settings.replace(wanted.clone());
        if before.as_ref() == Some(wanted) {
            return;
        }
        if before.as_ref().is_none_or(|before| before.active_check != wanted.active_check) {
            self.probes.clear();
        }
        let dialling = |settings: &model::Upstream| (settings.connect, settings.keepalive);
        if before.as_ref().is_none_or(|before| dialling(before) != dialling(wanted)) {
            self.pools.clear();
        }
        self.protect_subsets();
        let changes = self.members.change(wanted, &upstream.attention, Instant::now());
        log(upstream.key(), &changes);
        self.publish(upstream);
        self.probe_all(upstream);
    }

    pub fn probed(&mut self, upstream: &Arc<Upstream>, id: u64, outcome: Outcome) {
        self.protect_subsets();
        let changes = self.members.probed(id, outcome, Instant::now());
        self.take_note(upstream, &changes);
    }

    /// Answers when the next review is due.
    fn review(&mut self, upstream: &Arc<Upstream>) -> Option<Instant> {
        self.protect_subsets();
        let now = Instant::now();
        let changes = self.members.review(now);
        self.take_note(upstream, &changes);
        if self.due.is_some_and(|due| due <= now) {
            self.balance(upstream);
        }
        self.members.next_return().into_iter().chain(self.due).min()
    }

    /// Stops all tasks and closes what no client uses.
    pub fn retire(&mut self) {
        self.settings = None;
        self.probes.clear();
        self.pools.clear();
    }

    fn take_note(&mut self, upstream: &Arc<Upstream>, changes: &[Change]) {
        if !changes.is_empty() {
            log(upstream.key(), changes);
            self.publish(upstream);
        }
    }

    /// Makes what was decided what connections see.
    fn publish(&mut self, upstream: &Arc<Upstream>) {
        let Some(settings) = self.settings.clone() else { return };
        let before = upstream.current.load_full();
        let current = Current {
            connect: settings.connect,
            keepalive: settings.keepalive,
            endpoints: self.members.endpoints().cloned().collect(),
            usable: self.members.usable(),
            drain: settings.drain,
            departing: self.members.departing(&settings.unready),
        };
        match (before.usable, current.usable) {
            (1.., 0) => warn!(upstream = %upstream.key(), "no endpoint is usable, connections are refused"),
            (0, usable @ 1..) if !before.endpoints.is_empty() => {
                info!(upstream = %upstream.key(), usable, "connections are served again");
            }
            _ => {}
        }
        upstream.current.store(Arc::new(current));
        self.balance(upstream);
        self.fill_pools(&settings);
        self.surroundings.usable_changes.send_modify(|count| *count += 1);
        // An ejection may end earlier than the keeper's task knows.
        upstream.attention.notify_one();
    }

    /// Has each subset's connections go to those endpoints that they are to go to now.
    fn balance(&mut self, upstream: &Upstream) {
        let Some(settings) = self.settings.clone() else { return };
        let now = Instant::now();
        let candidates = self.members.candidates(now);
        let mut switched = false;
        for Known { subset, serving } in &mut self.subsets {
            let Some(subset) = subset.upgrade() else { continue };
            if let Some(switch) = subset.publish(&settings, &candidates, serving) {
                log_switch(upstream.key(), subset.backends(), switch);
                upstream.switches.fetch_add(u64::from(switch.from.is_some()), Relaxed);
                switched = true;
            }
        }
        let failover = &settings.balancing.failover;
        let failbacks = self.subsets.iter().filter_map(|known| known.serving.due(failover));
        self.due = failbacks.chain(self.members.next_step(now)).min();
        self.note_service();
        if switched {
            self.surroundings.usable_changes.send_modify(|count| *count += 1);
        }
    }

    /// Has each endpoint know whether it stands by, while others serve all that would go to it.
    fn note_service(&mut self) {
        let open = self.open_subsets();
        for endpoint in self.members.endpoints() {
            let served = || open.iter().filter_map(|subset| subset.is_served_by(endpoint));
            endpoint.stand_by(served().next().is_some() && !served().any(|serves| serves));
        }
    }

    fn probe_all(&mut self, upstream: &Arc<Upstream>) {
        let Some(check) = self.settings.as_ref().and_then(|settings| settings.active_check) else { return };
        let endpoints = by_id(self.members.endpoints());
        self.probes.retain(|id, _| endpoints.contains_key(id));
        let fresh = endpoints.len() - self.probes.len();
        for (id, endpoint) in endpoints {
            let start = || spawn_probe(&self.surroundings.control, upstream, endpoint, check, fresh);
            self.probes.entry(id).or_insert_with(start);
        }
    }

    /// Keeps a pool for each usable endpoint, if pools are wanted, and no others.
    fn fill_pools(&mut self, settings: &model::Upstream) {
        let Some(preconnect) = settings.connect.preconnect else { return };
        let usable = by_id(self.members.endpoints().filter(|endpoint| endpoint.usable()));
        self.pools.retain(|id, _| usable.contains_key(id));
        let refill = || Refill {
            connect: settings.connect,
            keepalive: settings.keepalive,
            budget: self.surroundings.budget.clone(),
        };
        for (id, endpoint) in usable {
            let open = || OpenPool::new(&self.surroundings.control, endpoint, Pool::new(preconnect), refill());
            self.pools.entry(id).or_insert_with(open);
        }
    }
}

/// The task of an upstream: lets ejections end and begin.
pub(super) async fn keep(upstream: Arc<Upstream>) {
    loop {
        let due = upstream.keeper().review(&upstream);
        let is_due = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        select! {
            () = is_due => {}
            () = upstream.attention.notified() => {}
        }
    }
}

/// Runs a task for as long as the handle is held; one that panics is started again.
pub(super) fn spawn<F>(
    control: &Handle,
    name: &'static str,
    task: impl Fn() -> F + Send + 'static,
) -> AbortOnDropHandle<()>
where
    F: Future<Output = ()> + Send,
{
    let forever = async move {
        while AssertUnwindSafe(task()).catch_unwind().await.is_err() {
            error!(task = name, "task panicked and is started again");
            sleep(Duration::from_secs(1)).await;
        }
    };
    AbortOnDropHandle::new(control.spawn(forever))
}

/// Probes at once, but for as many milliseconds as there are others that start at the same time.
fn spawn_probe(
    control: &Handle,
    upstream: &Arc<Upstream>,
    endpoint: &Arc<Endpoint>,
    check: ActiveCheck,
    fresh: usize,
) -> AbortOnDropHandle<()> {
    let spread = Duration::from_millis(fresh.saturating_sub(1) as u64).min(check.interval);
    let (upstream, id, target) = (upstream.clone(), endpoint.id(), endpoint.address());
    spawn(control, "probe", move || {
        let upstream = upstream.clone();
        let report = move |outcome| upstream.keeper().probed(&upstream, id, outcome);
        probe(target, check, spread.mul_f64(fastrand::f64()), report)
    })
}

/// A pool that is kept full; dropping it flushes it.
struct OpenPool {
    endpoint: Arc<Endpoint>,
    pool: Arc<Pool>,
    _refill: AbortOnDropHandle<()>,
}

impl OpenPool {
    fn new(control: &Handle, endpoint: &Arc<Endpoint>, pool: Pool, refill: Refill) -> Self {
        let pool = Arc::new(pool);
        endpoint.set_pool(Some(pool.clone()));
        let filled = (endpoint.clone(), pool.clone());
        let task = spawn(control, "refill", move || refill.clone().run(filled.0.clone(), filled.1.clone()));
        Self { endpoint: endpoint.clone(), pool, _refill: task }
    }
}

impl Drop for OpenPool {
    fn drop(&mut self) {
        self.endpoint.set_pool(None);
        self.pool.flush();
    }
}

fn by_id<'a>(endpoints: impl Iterator<Item = &'a Arc<Endpoint>>) -> BTreeMap<u64, &'a Arc<Endpoint>> {
    endpoints.map(|endpoint| (endpoint.id(), endpoint)).collect()
}

fn log(upstream: &UpstreamKey, changes: &[Change]) {
    for Change { endpoint, event } in changes {
        let endpoint = endpoint.key();
        match event {
            Event::Unhealthy { reason } => warn!(%upstream, %endpoint, reason, "endpoint unhealthy"),
            Event::Healthy { reason } => info!(%upstream, %endpoint, reason, "endpoint healthy"),
            Event::Ejected { length, failures, reason } => {
                warn!(%upstream, %endpoint, ?length, failures, reason, "endpoint ejected");
            }
            Event::Returned { reason } => info!(%upstream, %endpoint, reason, "endpoint no longer ejected"),
        }
    }
}

/// `backends` are those of a route, or all.
fn log_switch(upstream: &UpstreamKey, backends: &Backends, Switch { from, to, first }: Switch) {
    let backends = match backends {
        Backends::All => None,
        Backends::Of(names) => Some(names.join(", ")),
    };
    match from {
        Some(from) if from < to => {
            warn!(%upstream, backends, %from, %to, "failed over: new connections go to endpoints of another priority");
        }
        Some(from) => {
            info!(%upstream, backends, %from, %to, "failed back: new connections go to endpoints of another priority");
        }
        None if to > first => {
            warn!(%upstream, backends, %to, "failed over: new connections go to endpoints of a higher priority number");
        }
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_started_again() {
        let (done, mut is_done) = mpsc::unbounded_channel();
        let starts = AtomicU32::new(0);
        let task = move || {
            let (start, done) = (starts.fetch_add(1, SeqCst), done.clone());
            async move {
                assert!(start > 0, "the first start panics");
                done.send(start).unwrap();
            }
        };
        let _running = spawn(&Handle::current(), "test", task);
        assert_eq!(is_done.recv().await, Some(1));
        assert_eq!(is_done.recv().await, None, "one that ends is not");
    }
}
