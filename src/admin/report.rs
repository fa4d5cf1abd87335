//! The report of this proxy to the leader: the served state of each load balancer. It contains no secrets.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::xxh3_64;

use super::rendering::Rendering;
use crate::{
    model::{
        BackendHealth, BindState, Certificate, EndpointFailure, FailedOver, ListenerOutcome, ObjectKey, ReplicaReport,
        Served, UpstreamKey,
    },
    printable::printable,
    proxy::{Draining, DrainingResource, Monitor, View},
    state::{Configuration, ReadinessState},
    translate::{Reason, Verdict},
    upstream::{Backends, Endpoint, Upstream},
};

/// The maximum wait of a client for another report. It is well below the idle timeout of admin connections.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// The minimum wait for another report, so that simultaneous changes are reported together.
const GATHERED_FOR: Duration = Duration::from_millis(200);
/// The interval of checks for failures of endpoints that stay usable. Such failures do not wake waiting clients.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The maximum length of the reason of a failure. Part of it may come from a backend.
const MAX_REASON: usize = 1024;

/// The current report, and waiting for its changes.
#[derive(Debug)]
pub struct Reports {
    monitor: Monitor,
    state: Arc<ReadinessState>,
    rendering: Rendering,
    /// Ends all waits.
    stop: CancellationToken,
    last: Mutex<Last>,
}

/// A rendered report.
#[derive(Debug)]
pub struct RenderedReport {
    /// Equal reports have equal tags.
    pub tag: String,
    pub text: String,
}

#[derive(Debug)]
struct Last {
    report: Arc<RenderedReport>,
    /// The latest generation that was served completely, by uid.
    whole: BTreeMap<Arc<str>, i64>,
}

impl Reports {
    pub fn new(monitor: Monitor, state: Arc<ReadinessState>, rendering: Rendering, stop: CancellationToken) -> Self {
        let last = Last { report: Arc::new(RenderedReport::new(&ReplicaReport::default())), whole: BTreeMap::new() };
        Self { monitor, state, rendering, stop, last: Mutex::new(last) }
    }

    /// The report at once, or as soon as its tag differs from `unless`. `None`: it stayed the same for a while.
    pub async fn next(&self, unless: Option<&str>) -> Option<Arc<RenderedReport>> {
        let Some(unless) = unless else { return Some(self.rendered().await) };
        let until = Instant::now() + LONGEST_WAIT;
        let (mut configurations, mut reports) = (self.state.configurations(), self.monitor.reports());
        sleep(GATHERED_FOR).await;
        loop {
            configurations.mark_unchanged();
            reports.mark_unchanged();
            let report = self.rendered().await;
            if report.tag != unless {
                return Some(report);
            }
            tokio::select! {
                Ok(()) = configurations.changed() => {}
                Ok(()) = reports.changed() => {}
                () = sleep(LOOK_AGAIN) => {}
                () = sleep_until(until) => return None,
                () = self.stop.cancelled() => return None,
            }
        }
    }

    async fn rendered(&self) -> Arc<RenderedReport> {
        self.rendering.run(|| self.latest()).await
    }

    /// The current report, or the previous one while a new configuration is being applied.
    fn latest(&self) -> Arc<RenderedReport> {
        // Read in this order, so that the view is never older than the configuration.
        let configuration = self.state.configuration();
        let view = self.monitor.view();
        // A panic of another reader has been logged, and the previous report is still valid.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if view.report.generation >= configuration.generation {
            last.whole = whole(&configuration, &last.whole);
            last.report =
                Arc::new(RenderedReport::new(&of(&configuration, &view, &self.monitor.draining(), &last.whole)));
        }
        last.report.clone()
    }
}

impl RenderedReport {
    fn new(report: &ReplicaReport) -> Self {
        // Strings, numbers and maps with simple keys: the serialization cannot fail.
        let text = serde_json::to_string(report).unwrap_or_default();
        Self { tag: format!("{:016x}", xxh3_64(text.as_bytes())), text }
    }
}

/// The latest completely served generations after this configuration.
fn whole(configuration: &Configuration, before: &BTreeMap<Arc<str>, i64>) -> BTreeMap<Arc<str>, i64> {
    let identified = configuration.verdicts.values().filter_map(|verdict| Some((verdict, verdict.identity.as_ref()?)));
    identified
        .filter_map(|(verdict, identity)| {
            let generation = if verdict.refuses() { *before.get(&identity.uid)? } else { identity.generation };
            Some((identity.uid.clone(), generation))
        })
        .collect()
}

/// The report on the load balancers that have a uid from an API server.
fn of(
    configuration: &Configuration,
    view: &View,
    departing: &[Draining],
    whole: &BTreeMap<Arc<str>, i64>,
) -> ReplicaReport {
    let upstreams: BTreeMap<&ObjectKey, &Upstream> =
        view.upstreams.iter().map(|(key, upstream)| (&key.object, &**upstream)).collect();
    let mut departing_of: BTreeMap<&ObjectKey, Vec<&Draining>> = BTreeMap::new();
    for departing in departing {
        departing_of.entry(&departing.object).or_default().push(departing);
    }
    let load_balancer = |(object, verdict): (&ObjectKey, &Verdict)| {
        let departing = departing_of.get(object).map_or(&[][..], Vec::as_slice);
        let identity = verdict.identity.as_ref()?;
        let served = Served {
            generation: identity.generation,
            whole: whole.get(&identity.uid).copied(),
            listeners: listeners(object, view),
            backends: upstreams.get(object).map(|upstream| backends(upstream, departing)).unwrap_or_default(),
            here: here(object, verdict, view),
            failed_over: upstreams.get(object).map(|upstream| failed_over(object, upstream, view)).unwrap_or_default(),
            certificates: certificates(object, view),
            certificates_for_backends: certificates_for_backends(object, view),
        };
        Some((identity.uid.to_string(), served))
    };
    ReplicaReport { load_balancers: configuration.verdicts.iter().filter_map(load_balancer).collect() }
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

fn backends(upstream: &Upstream, departing: &[&Draining]) -> BTreeMap<String, BackendHealth> {
    let mut backends: BTreeMap<String, BackendHealth> = BTreeMap::new();
    for endpoint in &*upstream.endpoints() {
        count(endpoint, backends.entry(endpoint.key().backend.to_string()).or_default());
    }
    for endpoint in draining(departing) {
        backends.entry(endpoint.key().backend.to_string()).or_default().draining += endpoint.active();
    }
    backends
}

/// The endpoints with connections that are being drained. Each occurs once, for any number of drain causes.
fn draining<'a>(departing: &[&'a Draining]) -> impl Iterator<Item = &'a Arc<Endpoint>> {
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
    let Some(failure) = endpoint.state().last_failure else { return };
    if health.last_failure.as_ref().is_none_or(|latest| latest.time < failure.at) {
        let (endpoint, reason) = (endpoint.address().to_string(), printable(&failure.reason, MAX_REASON).into_owned());
        health.last_failure = Some(EndpointFailure { endpoint, reason, time: failure.at });
    }
}
