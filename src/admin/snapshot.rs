//! The applied configuration as JSON. It contains no secrets.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;

use crate::{
    model::{self, BindState, ListenerKey, ObjectKey, UpstreamKey},
    printable::limited,
    proxy::{self, ListenerState, Monitor, View},
    state::ReadinessState,
    translate::{Severity, Verdict},
    upstream::{Endpoint, Upstream},
};

/// The whole document.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Picture {
    pub generation: u64,
    pub load_balancers: Vec<LoadBalancerView>,
    /// Problems that belong to no load balancer.
    pub problems: Vec<String>,
    /// Draining endpoints and listeners, including those of removed load balancers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub draining: Vec<DrainView>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainView {
    pub load_balancer: String,
    /// The endpoint or the listener.
    pub what: String,
    pub reason: &'static str,
    /// The number of open connections.
    pub active: usize,
}

/// A load balancer: its verdict and its served configuration.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerView {
    pub name: String,
    pub origin: String,
    pub problems: Vec<ProblemView>,
    pub listeners: Vec<ListenerView>,
    /// The settings for balancing, checking and connecting to endpoints. Absent: nothing is served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied: Option<Arc<model::UpstreamConfig>>,
    pub endpoints: Vec<EndpointView>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProblemView {
    pub severity: &'static str,
    pub sentence: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerView {
    pub port: u16,
    /// The bound address. Absent: not bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    pub active: u64,
    pub accepted: u64,
    pub applied: Arc<model::Listener>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointView {
    pub backend: String,
    pub address: String,
    pub usable: bool,
    /// False: on standby, because another priority is active.
    pub in_service: bool,
    /// The effective share of its weight, in percent. It is less than 100 during slow start.
    pub share: u32,
    /// True if locality prefers it as near this process.
    pub near: bool,
    pub healthy: bool,
    /// The active check. Absent: no probes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<ProbeCounts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejected_until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
    pub active: u32,
    pub connections: u64,
    pub preconnected: usize,
}

/// The probes of an endpoint.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeCounts {
    #[serde(rename = "type")]
    pub type_: &'static str,
    pub passed: u64,
    pub failed: u64,
}

/// The current document.
pub fn of(monitor: &Monitor, state: &ReadinessState) -> Picture {
    let view = monitor.view();
    let configuration = state.configuration();
    // If several have the same key, the first one is served.
    let live = view.listeners.iter().rev().map(|live| (&live.key, live)).collect();
    Picture {
        generation: view.snapshot.generation,
        load_balancers: configuration
            .verdicts
            .iter()
            .map(|(key, verdict)| load_balancer(key, verdict, &view, &live))
            .collect(),
        problems: configuration.problems.iter().map(bounded).collect(),
        draining: monitor.draining().iter().map(draining).filter(|draining| draining.active > 0).collect(),
    }
}

fn draining(departing: &proxy::Draining) -> DrainView {
    let proxy::Draining { object, reason, resource } = departing;
    DrainView {
        load_balancer: bounded(object),
        what: bounded(resource),
        reason: reason.label(),
        active: resource.open(),
    }
}

type LiveListeners<'a> = BTreeMap<&'a ListenerKey, &'a Arc<ListenerState>>;

fn load_balancer(object: &ObjectKey, verdict: &Verdict, view: &View, live: &LiveListeners) -> LoadBalancerView {
    let key = UpstreamKey { object: object.clone() };
    // The upstreams are sorted.
    let upstream = view.upstreams.binary_search_by(|(other, _)| other.cmp(&key));
    let upstream = upstream.ok().map(|place| &view.upstreams[place].1);
    let left_out = view.report.left_out_of(object).into_iter();
    let left_out = left_out.map(|sentence| ProblemView { severity: label(Severity::Refused), sentence });
    LoadBalancerView {
        name: bounded(object),
        origin: bounded(&verdict.origin),
        problems: verdict.problems.iter().map(problem).chain(left_out).collect(),
        listeners: view.snapshot.listeners_of(object).map(|(key, listener)| port(key, listener, view, live)).collect(),
        applied: view.snapshot.upstreams.get(&key).cloned(),
        endpoints: upstream.map(|upstream| members(upstream)).unwrap_or_default(),
    }
}

fn problem(problem: &crate::translate::Problem) -> ProblemView {
    ProblemView { severity: label(problem.severity), sentence: problem.to_string() }
}

fn label(severity: Severity) -> &'static str {
    match severity {
        Severity::Refused => "refused",
        Severity::Warning => "warning",
    }
}

fn port(key: &ListenerKey, listener: &Arc<model::Listener>, view: &View, live: &LiveListeners) -> ListenerView {
    let (bound, failure) = match view.report.listeners.get(key) {
        Some(BindState::Bound(address)) => (Some(address.to_string()), None),
        Some(BindState::Failed(sentence)) => (None, Some(bounded(sentence))),
        None => (None, None),
    };
    let totals = live.get(key).map(|live| live.counters.totals()).unwrap_or_default();
    ListenerView {
        port: key.port,
        bound,
        failure,
        active: totals.active(),
        accepted: totals.accepted,
        applied: listener.clone(),
    }
}

fn members(upstream: &Upstream) -> Vec<EndpointView> {
    upstream.endpoints().iter().map(|endpoint| member(endpoint)).collect()
}

fn member(endpoint: &Endpoint) -> EndpointView {
    let state = endpoint.state();
    EndpointView {
        backend: endpoint.key().backend.to_string(),
        address: endpoint.address().to_string(),
        usable: endpoint.usable(),
        in_service: endpoint.in_service(),
        share: endpoint.share(),
        near: endpoint.near(),
        healthy: state.healthy,
        check: check(endpoint),
        ejected_until: state.ejected_until.map(|until| format!("{until:.0}")),
        last_failure: state.last_failure.map(|failure| format!("{:.0}: {}", failure.at, bounded(&failure.reason))),
        active: endpoint.active(),
        connections: endpoint.connections(),
        preconnected: endpoint.pool_figures().idle,
    }
}

fn check(endpoint: &Endpoint) -> Option<ProbeCounts> {
    let check = endpoint.backend().active_check.clone()?;
    let (passed, failed) = (endpoint.probes_passed(), endpoint.probes_failed());
    Some(ProbeCounts { type_: check.probe.name(), passed, failed })
}

/// Limits a text from outside, which may have any length. Invisible characters are escaped when the document is
/// written.
fn bounded(text: &(impl ToString + ?Sized)) -> String {
    limited(&text.to_string(), MAX_TEXT).into_owned()
}

/// The maximum length of a text.
const MAX_TEXT: usize = 4096;
