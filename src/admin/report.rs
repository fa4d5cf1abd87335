//! The report of this proxy to the leader: the served state of each load balancer. It contains no secrets.

#[cfg(test)]
pub mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::rendering::Rendering;
use crate::{
    model::{
        BackendHealth, BindState, Certificate, EndpointFailure, FailedOver, ListenerOutcome, ObjectKey, ReplicaReport,
        ReportChanges, Served, UpstreamConfig, UpstreamKey,
    },
    printable::printable,
    proxy::{Draining, DrainingResource, Monitor, View},
    shared::{changes, revised},
    state::{Configuration, ReadinessState},
    translate::{Reason, Verdict},
    upstream::{Backends, ChangeLog, Endpoint, Upstream},
};

/// The maximum wait of a client for another report. It is well below the idle timeout of admin connections.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// The minimum wait for another report, so that simultaneous changes are reported together.
const GATHERED_FOR: Duration = Duration::from_millis(200);
/// The interval of complete reports. They include changes that do not wake waiting clients: failures of endpoints that
/// stay usable, and numbers of draining connections.
const RESYNC_PERIOD: Duration = Duration::from_secs(5);
/// The minimum interval of complete reports, as a multiple of their duration: they use at most 1 % of a thread.
const FULL_REPORT_PAUSE_FACTOR: u32 = 100;
/// The number of reports that are kept as bases of differences.
const MAX_VERSIONS: usize = 16;

/// The maximum length of the reason of a failure. Part of it may come from a backend.
const MAX_REASON: usize = 1024;

/// The current report, and waiting for its changes.
#[derive(Debug)]
pub struct Reports {
    monitor: Monitor,
    state: Arc<ReadinessState>,
    pub rendering: Rendering,
    /// Ends all waits.
    stop: CancellationToken,
    history: Mutex<ReportHistory>,
}

/// A report that differs from the previous one.
#[derive(Clone, Debug)]
pub struct ReportVersion {
    /// Differs from the tags of all other versions, also of other processes.
    pub tag: Arc<str>,
    pub report: ReplicaReport,
}

impl Reports {
    pub fn new(monitor: Monitor, state: Arc<ReadinessState>, stop: CancellationToken) -> Self {
        let rendering = Rendering::default();
        Self { monitor, state, rendering, stop, history: Mutex::new(ReportHistory::new()) }
    }

    /// The report at once, or as soon as its tag differs from `unless`. `None`: it stayed the same for a while.
    pub async fn next(&self, unless: Option<&str>) -> Option<ReportVersion> {
        let Some(unless) = unless else { return Some(self.rendering.run(|| self.latest(ReportScope::All)).await) };
        let until = Instant::now() + LONGEST_WAIT;
        let (mut configurations, mut reports) = (self.state.configurations(), self.monitor.reports());
        sleep(GATHERED_FOR).await;
        loop {
            configurations.mark_unchanged();
            reports.mark_unchanged();
            let version = self.rendering.run(|| self.latest(ReportScope::Changes)).await;
            if *version.tag != *unless {
                return Some(version);
            }
            tokio::select! {
                Ok(()) = configurations.changed() => {}
                Ok(()) = reports.changed() => {}
                () = sleep(RESYNC_PERIOD) => {}
                () = sleep_until(until) => return None,
                () = self.stop.cancelled() => return None,
            }
        }
    }

    /// The difference between the version with the tag `base` and a later one. `None`: the base is not known any more.
    pub fn changes(&self, base: &str, version: &ReportVersion) -> Option<ReportChanges> {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let base = history.versions.iter().find(|version| *version.tag == *base)?;
        Some(ReportChanges::between(&base.report, &version.report))
    }

    /// The current report, or the previous one while a new configuration is being applied.
    fn latest(&self, scope: ReportScope) -> ReportVersion {
        // Read in this order, so that no change is missed, and the view is never older than the configuration.
        let changes = self.monitor.changes().total();
        let configuration = self.state.configuration();
        let view = self.monitor.view();
        // A panic of another reader has been logged, and the previous report is still valid.
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        if view.report.generation >= configuration.generation {
            let input = ReportInput { configuration, view, changes };
            let changes = self.monitor.changes();
            history.update(input, changes, &self.monitor.draining(), scope);
        }
        history.latest.clone()
    }
}

/// The load balancers whose state is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReportScope {
    All,
    /// Changed load balancers, and all of them when a complete report is due.
    Changes,
}

/// The latest report, and earlier ones.
#[derive(Debug)]
struct ReportHistory {
    /// The first part of all tags.
    process: u64,
    count: u64,
    latest: ReportVersion,
    /// The latest version is the last one.
    versions: VecDeque<ReportVersion>,
    /// The input of the latest report.
    input: ReportInput,
    /// The time at which all load balancers have to be read again. `None`: at once.
    due: Option<Instant>,
}

impl ReportHistory {
    fn new() -> Self {
        let latest = ReportVersion { tag: "".into(), report: ReplicaReport::default() };
        let (process, input) = (fastrand::u64(..), ReportInput::default());
        let mut history = Self { process, count: 0, latest, versions: VecDeque::new(), input, due: None };
        history.publish(ReplicaReport::default());
        history
    }

    fn publish(&mut self, report: ReplicaReport) {
        self.count += 1;
        let tag = format!("{:016x}{:x}", self.process, self.count).into();
        self.latest = ReportVersion { tag, report };
        if self.versions.len() >= MAX_VERSIONS {
            self.versions.pop_front();
        }
        self.versions.push_back(self.latest.clone());
    }

    fn update(&mut self, input: ReportInput, changes: &ChangeLog, draining: &[Draining], scope: ReportScope) {
        let started = Instant::now();
        let changed = match scope {
            ReportScope::Changes if self.due.is_some_and(|due| started < due) => input.changed(&self.input, changes),
            ReportScope::Changes | ReportScope::All => None,
        };
        let served = ServedStates { input: &input, draining: by_object(draining), before: &self.latest.report };
        let report = match changed {
            Some(objects) => served.revised(&objects, &self.input),
            None => {
                let report = served.all();
                self.due = Some(started + RESYNC_PERIOD.max(started.elapsed() * FULL_REPORT_PAUSE_FACTOR));
                report
            }
        };
        self.input = input;
        if report != self.latest.report {
            self.publish(report);
        }
    }
}

/// The input of a report, apart from the states of endpoints and connections.
#[derive(Debug, Default)]
struct ReportInput {
    configuration: Arc<Configuration>,
    view: Arc<View>,
    /// The number of changes of upstreams before the endpoints are read.
    changes: u64,
}

impl ReportInput {
    /// The objects whose input has changed. `None`: all.
    fn changed(&self, before: &Self, log: &ChangeLog) -> Option<BTreeSet<ObjectKey>> {
        let (old, new) = (&*before.view, &*self.view);
        if !Arc::ptr_eq(&old.upstreams, &new.upstreams) || !Arc::ptr_eq(&old.report.listeners, &new.report.listeners) {
            return None;
        }
        let verdicts = changes(&before.configuration.verdicts, &self.configuration.verdicts);
        let listeners = changes(&old.snapshot.listeners, &new.snapshot.listeners);
        let upstreams = changes(&old.snapshot.upstreams, &new.snapshot.upstreams);
        let of_snapshots = listeners.map(|(key, ..)| &key.object).chain(upstreams.map(|(key, ..)| &key.object));
        let (_, revised) = log.since(before.changes);
        let revised = revised?;
        let revised = revised.iter().map(|key| &key.object);
        let (old, new) = (&old.report.loops, &new.report.loops);
        let loops = old.keys().chain(new.keys()).filter(|key| old.get(*key) != new.get(*key)).map(|key| &key.object);
        let verdicts = verdicts.map(|(object, ..)| object);
        Some(verdicts.chain(of_snapshots).chain(revised).chain(loops).cloned().collect())
    }

    fn upstream(&self, object: &ObjectKey) -> Option<&Upstream> {
        let upstreams = &self.view.upstreams;
        let index = upstreams.binary_search_by(|(key, _)| key.object.cmp(object)).ok()?;
        Some(&upstreams.get(index)?.1)
    }
}

/// The drains in progress of each object.
type DrainingOf<'a> = BTreeMap<&'a ObjectKey, Vec<&'a Draining>>;

fn by_object(draining: &[Draining]) -> DrainingOf<'_> {
    let mut of = DrainingOf::new();
    for draining in draining {
        of.entry(&draining.object).or_default().push(draining);
    }
    of
}

/// Reads the states of the load balancers that have a uid from an API server.
struct ServedStates<'a> {
    input: &'a ReportInput,
    draining: DrainingOf<'a>,
    before: &'a ReplicaReport,
}

impl ServedStates<'_> {
    fn all(&self) -> ReplicaReport {
        let load_balancers = self.input.configuration.verdicts.iter();
        let served = load_balancers.filter_map(|(object, verdict)| self.served(object, verdict));
        ReplicaReport { load_balancers: revised(&self.before.load_balancers, served.collect()) }
    }

    /// The report before, with the new states of these objects.
    fn revised(&self, objects: &BTreeSet<ObjectKey>, before: &ReportInput) -> ReplicaReport {
        let mut load_balancers = self.before.load_balancers.clone();
        let known = objects.iter().filter_map(|object| before.configuration.verdicts.get(object)?.identity.as_ref());
        for identity in known {
            load_balancers.remove(&identity.uid);
        }
        for object in objects {
            let verdict = self.input.configuration.verdicts.get(object);
            let served = verdict.and_then(|verdict| self.served(object, verdict));
            load_balancers.extend(served);
        }
        ReplicaReport { load_balancers }
    }

    /// `None`: it has no uid.
    fn served(&self, object: &ObjectKey, verdict: &Verdict) -> Option<(Arc<str>, Arc<Served>)> {
        let (identity, view, upstream) = (verdict.identity.as_ref()?, &*self.input.view, self.input.upstream(object));
        let before = self.before.load_balancers.get(&identity.uid);
        let draining = self.draining.get(object).map_or(&[][..], Vec::as_slice);
        let config = view.snapshot.upstreams.get(&UpstreamKey { object: object.clone() });
        let served = Served {
            generation: identity.generation,
            whole: if verdict.refuses() { before.and_then(|before| before.whole) } else { Some(identity.generation) },
            listeners: listeners(object, view),
            backends: upstream.map(|upstream| backends(upstream, config, draining)).unwrap_or_default(),
            here: here(object, verdict, view),
            failed_over: upstream.map(|upstream| failed_over(object, upstream, view)).unwrap_or_default(),
            certificates: certificates(object, view),
            certificates_for_backends: certificates_for_backends(object, view),
        };
        let served = before.filter(|before| ***before == served).cloned().unwrap_or_else(|| Arc::new(served));
        Some((identity.uid.clone(), served))
    }
}

fn here(object: &ObjectKey, verdict: &Verdict, view: &View) -> BTreeSet<String> {
    let problems = verdict.problems.iter().filter(|problem| problem.reason == Reason::UnknownPlace);
    problems.map(ToString::to_string).chain(view.report.left_out_of(object)).collect()
}

fn listeners(object: &ObjectKey, view: &View) -> BTreeMap<u16, ListenerOutcome> {
    let outcome = |state: &BindState| match state {
        BindState::Bound(address) => ListenerOutcome::Bound(address.port()),
        BindState::Failed(sentence) => ListenerOutcome::Failed(sentence.to_string()),
    };
    let listeners = view.report.listeners.range(object.listeners());
    listeners.map(|(key, state)| (key.port, outcome(state))).collect()
}

/// The failovers of each route, and of listeners without routes.
fn failed_over(object: &ObjectKey, upstream: &Upstream, view: &View) -> BTreeSet<FailedOver> {
    let everywhere = None;
    let listeners = view.snapshot.listeners.range(object.listeners());
    let led_to = listeners.flat_map(|(_, listener)| match &listener.tls {
        Some(tls) => tls.routes.iter().map(|route| &route.backends).collect(),
        None => vec![&everywhere],
    });
    let served = led_to.filter_map(|names| {
        let priority = upstream.failed_over(&Backends::named(names))?;
        let backends = names.iter().flat_map(|names| names.iter()).map(ToString::to_string).collect();
        Some(FailedOver { backends, priority: priority.0 })
    });
    served.collect()
}

fn certificates(object: &ObjectKey, view: &View) -> BTreeMap<String, jiff::Timestamp> {
    let listeners = view.snapshot.listeners.range(object.listeners());
    expiries(listeners.filter_map(|(_, listener)| listener.tls.as_ref()).flat_map(|tls| &tls.certificates))
}

fn certificates_for_backends(object: &ObjectKey, view: &View) -> BTreeMap<String, jiff::Timestamp> {
    let upstream = view.snapshot.upstreams.get(&UpstreamKey { object: object.clone() });
    let backends = upstream.into_iter().flat_map(|upstream| upstream.backends.values());
    expiries(backends.filter_map(|backend| backend.shown_certificate()))
}

fn expiries<'a>(certificates: impl Iterator<Item = &'a Arc<Certificate>>) -> BTreeMap<String, jiff::Timestamp> {
    certificates.map(|certificate| (certificate.source.to_string(), certificate.not_after)).collect()
}

fn backends(
    upstream: &Upstream,
    config: Option<&Arc<UpstreamConfig>>,
    departing: &[&Draining],
) -> BTreeMap<String, BackendHealth> {
    let mut backends: BTreeMap<String, BackendHealth> = BTreeMap::new();
    let endpoints = upstream.endpoints();
    for of_backend in endpoints.chunk_by(|one, next| one.key().backend == next.key().backend) {
        let health = backends.entry(of_backend[0].key().backend.to_string()).or_default();
        of_backend.iter().for_each(|endpoint| count(endpoint, health));
    }
    let declared = config.into_iter().flat_map(|config| &config.backends);
    for (name, backend) in declared.filter(|(_, backend)| backend.drained > 0) {
        backends.entry(name.to_string()).or_default().drained = backend.drained;
    }
    for endpoint in endpoints_of(departing) {
        backends.entry(endpoint.key().backend.to_string()).or_default().draining += endpoint.active();
    }
    backends
}

/// The endpoints with connections that are being drained. Each occurs once, for any number of drain causes.
fn endpoints_of<'a>(departing: &[&'a Draining]) -> impl Iterator<Item = &'a Arc<Endpoint>> {
    let endpoints = departing.iter().filter_map(|departing| match &departing.resource {
        DrainingResource::Endpoint { endpoint, .. } => Some((endpoint.id(), endpoint)),
        DrainingResource::Listener(_) => None,
    });
    let with_connections = endpoints.filter(|(_, endpoint)| endpoint.active() > 0);
    with_connections.collect::<BTreeMap<_, _>>().into_values()
}

fn count(endpoint: &Endpoint, health: &mut BackendHealth) {
    health.endpoints += 1;
    health.usable += u32::from(endpoint.usable());
    health.standby += u32::from(endpoint.usable() && !endpoint.in_service());
    health.failing += u32::from(endpoint.usable() && endpoint.is_failing());
    health.unchecked += u32::from(!endpoint.usable() && endpoint.pending_first_check());
    let Some(failure) = endpoint.last_failure() else { return };
    if health.last_failure.as_ref().is_none_or(|latest| latest.time < failure.at) {
        let (endpoint, reason) = (endpoint.address().to_string(), printable(&failure.reason, MAX_REASON).into_owned());
        health.last_failure = Some(Box::new(EndpointFailure { endpoint, reason, time: failure.at }));
    }
}
