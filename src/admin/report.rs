//! What this proxy serves of each load balancer, for whoever sums up all replicas. Nothing secret is in it.

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
        BackendHealth, BindState, Certificate, FailedOver, Failure, ListenerOutcome, ObjectKey, ReplicaReport, Served,
        UpstreamKey,
    },
    printable::printable,
    proxy::{Draining, DrainingResource, Monitor, View},
    state::{Configuration, State},
    translate::{Reason, Verdict},
    upstream::{Backends, Endpoint, Upstream},
};

/// How long one who waits for another report is kept waiting. Well below the time after which visitors that say nothing
/// are closed.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Who waits is not answered sooner, so that what changes together is told together.
const GATHERED_FOR: Duration = Duration::from_millis(200);
/// Failures of endpoints that stay usable wake nobody: they are looked for this often.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The longest reason of a failure: part of it is what a backend says.
const MAX_REASON: usize = 1024;

/// Tells what is served, and whether that has changed.
#[derive(Debug)]
pub struct Reports {
    monitor: Monitor,
    state: Arc<State>,
    rendering: Rendering,
    /// Nobody is kept waiting any more.
    stop: CancellationToken,
    last: Mutex<Last>,
}

/// A report as it is sent.
#[derive(Debug)]
pub struct Told {
    /// Equal for equal reports.
    pub tag: String,
    pub text: String,
}

#[derive(Debug)]
struct Last {
    told: Arc<Told>,
    /// By uid, the latest generation that was served whole.
    whole: BTreeMap<Arc<str>, i64>,
}

impl Reports {
    pub fn new(monitor: Monitor, state: Arc<State>, rendering: Rendering, stop: CancellationToken) -> Self {
        let last = Last { told: Arc::new(Told::new(&ReplicaReport::default())), whole: BTreeMap::new() };
        Self { monitor, state, rendering, stop, last: Mutex::new(last) }
    }

    /// The report: at once, or as soon as its tag is another one. `None`: it is still the same after a while.
    pub async fn next(&self, unless: Option<&str>) -> Option<Arc<Told>> {
        let Some(unless) = unless else { return Some(self.rendered().await) };
        let until = Instant::now() + LONGEST_WAIT;
        let (mut configurations, mut reports) = (self.state.configurations(), self.monitor.reports());
        sleep(GATHERED_FOR).await;
        loop {
            configurations.mark_unchanged();
            reports.mark_unchanged();
            let told = self.rendered().await;
            if told.tag != unless {
                return Some(told);
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

    async fn rendered(&self) -> Arc<Told> {
        self.rendering.run(|| self.latest()).await
    }

    /// The report as it is now; while a new configuration is about to be applied, as it was before.
    fn latest(&self) -> Arc<Told> {
        // In this order, so that what is applied is never older than what is said of it.
        let configuration = self.state.configuration();
        let view = self.monitor.view();
        // A reader that panicked has been reported, and left what was told before.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if view.report.generation >= configuration.generation {
            last.whole = whole(&configuration, &last.whole);
            last.told = Arc::new(Told::new(&of(&configuration, &view, &self.monitor.draining(), &last.whole)));
        }
        last.told.clone()
    }
}

impl Told {
    fn new(report: &ReplicaReport) -> Self {
        // Strings, numbers and maps with simple keys: nothing in it can fail to be JSON.
        let text = serde_json::to_string(report).unwrap_or_default();
        Self { tag: format!("{:016x}", xxh3_64(text.as_bytes())), text }
    }
}

/// What is known of generations that were served whole, after this configuration.
fn whole(configuration: &Configuration, before: &BTreeMap<Arc<str>, i64>) -> BTreeMap<Arc<str>, i64> {
    let identified = configuration.verdicts.values().filter_map(|verdict| Some((verdict, verdict.identity.as_ref()?)));
    identified
        .filter_map(|(verdict, identity)| {
            let generation = if verdict.refuses() { *before.get(&identity.uid)? } else { identity.generation };
            Some((identity.uid.clone(), generation))
        })
        .collect()
}

/// Only those load balancers that an API server knows.
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

/// Of each route, and of listeners that have none.
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

/// Each once, for however many reasons it is drained.
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
        health.last_failure = Some(Failure { endpoint, reason, time: failure.at });
    }
}
