//! The document of `kubectl tcplb status -o json|yaml`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Serialize;

use super::gather::StatusFacts;
use crate::{
    api::{Address, BackendStatus, ConditionState, EndpointRef, ListenerStatus, Placement, Summary, TcpLoadBalancer},
    kubectl::{
        admin_pages::{PageError, ReplicaPages},
        output::Tone,
        runbook,
    },
    model::{DrainView, EndpointView, FormerEndpointView, FormerState, ListenerOutcome, Served, StatePicture},
};

/// The page with a section for each reason of a condition that is not as desired.
const RUNBOOKS: &str = "docs/conditions.md";
/// The problem of a replica whose snapshot has no former endpoints.
const OMITS_FORMER_ENDPOINTS: &str =
    "connections kept by drained endpoints are not shown: this replica has an older version";

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusDocument {
    /// In the order of their namespaces and names.
    pub load_balancers: Vec<LoadBalancerDetails>,
    /// Missing facts, as sentences.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A load balancer: its status, and its state in each replica.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerDetails {
    pub namespace: String,
    pub name: String,
    pub class: String,
    pub placement: Placement,
    pub generation: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    pub addresses: Vec<Address>,
    pub listeners: Vec<ListenerStatus>,
    pub backends: Vec<BackendStatus>,
    /// The declared endpoints that get no new connections. `backends` has the numbers of endpoints that match.
    pub drained_endpoints: Vec<EndpointRef>,
    pub conditions: Vec<ConditionDetails>,
    /// The replicas that serve its class, placement and namespace.
    pub replicas: Vec<ReplicaDetails>,
    /// The certificates that replicas present, with their earliest expiry.
    pub certificates: Vec<CertificateDetails>,
}

/// A condition, and the section about its reason.
#[derive(Debug, Serialize)]
pub struct ConditionDetails {
    #[serde(flatten)]
    pub condition: Condition,
    /// Absent if the condition is as desired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runbook: Option<String>,
}

/// The state of a load balancer in a replica.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaDetails {
    pub namespace: String,
    pub pod: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    pub ready: bool,
    /// True if it serves the latest generation completely.
    pub current: bool,
    /// The generation that it has processed. Absent: it does not know the load balancer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Problems of this replica, as sentences.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    pub listeners: Vec<ListenerDetails>,
    pub endpoints: Vec<EndpointDetails>,
}

/// The connections of a listener in a replica.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerDetails {
    pub port: u16,
    /// Open connections.
    pub open: u64,
    /// Connections since the replica serves the listener.
    pub accepted: u64,
    /// Connections that were refused or failed, by close reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub failures: BTreeMap<String, u64>,
}

/// An endpoint as a replica sees it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointDetails {
    pub backend: String,
    pub address: String,
    pub state: EndpointCondition,
    /// The reason why it is unusable, or the latest failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The effective share of its weight, in percent.
    pub share: u32,
    /// Open connections.
    pub connections: u32,
    /// Connections since the replica knows the endpoint.
    pub total_connections: u64,
    pub preconnected: usize,
    /// True if locality prefers it.
    pub near: bool,
    /// Passed and failed probes. Absent: no active check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probes: Option<(u64, u64)>,
    /// The reason for which its open connections are being closed. Absent: none is being closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draining: Option<String>,
    /// The time at which the last one is due. `maxPerSecond` can delay it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draining_until: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum EndpointCondition {
    Usable,
    /// Usable, but another priority is active.
    Standby,
    /// Unhealthy, ejected, or before its first check.
    Unusable,
    /// Drained, with open connections.
    Drained,
    /// Its pod is terminating, with open connections.
    Terminating,
    /// Its pod is not ready, with open connections.
    NotReady,
    /// No longer listed, with open connections.
    Removed,
}

impl EndpointCondition {
    /// True if the endpoint gets new connections, or gets them after a change of its health or of the active priority.
    pub fn is_served(self) -> bool {
        match self {
            Self::Usable | Self::Standby | Self::Unusable => true,
            Self::Drained | Self::Terminating | Self::NotReady | Self::Removed => false,
        }
    }
}

/// A certificate that replicas present.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateDetails {
    pub source: String,
    /// `clients` or `backends`: the peers that it is presented to.
    pub presented_to: &'static str,
    pub expires: Timestamp,
    /// The full days until it expires. Negative: it has expired.
    pub remaining_days: i64,
}

impl StatusDocument {
    pub fn new(facts: &StatusFacts, now: Timestamp) -> Self {
        let mut load_balancers: Vec<_> =
            facts.load_balancers.iter().map(|object| LoadBalancerDetails::new(object, facts, now)).collect();
        load_balancers.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Self { load_balancers, notes: facts.notes.clone() }
    }
}

impl LoadBalancerDetails {
    fn new(object: &TcpLoadBalancer, facts: &StatusFacts, now: Timestamp) -> Self {
        let status = object.status.clone().unwrap_or_default();
        let serving = facts.replicas.iter().filter(|(replica, _)| replica.serves(object));
        let replicas = serving.clone().map(|(replica, pages)| ReplicaDetails {
            namespace: replica.key.namespace.to_string(),
            pod: replica.key.name.to_string(),
            node: replica.node.clone(),
            ready: replica.ready,
            ..ReplicaDetails::new(object, pages)
        });
        let replicas = replicas.collect();
        let served = serving.filter_map(|(_, pages)| served(object, pages.as_ref().ok()?));
        Self {
            namespace: object.metadata.namespace.clone().unwrap_or_default(),
            name: object.metadata.name.clone().unwrap_or_default(),
            class: object.spec.class().to_owned(),
            placement: object.spec.placement.unwrap_or_default(),
            generation: object.metadata.generation.unwrap_or_default(),
            observed_generation: status.observed_generation,
            summary: status.summary,
            addresses: status.addresses,
            listeners: status.listeners,
            backends: status.backends,
            drained_endpoints: object.spec.drained_endpoints.clone(),
            conditions: status.conditions.into_iter().map(ConditionDetails::new).collect(),
            replicas,
            certificates: certificates(served, now),
        }
    }

    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        self.conditions.iter().map(|details| &details.condition).find(|condition| condition.type_ == type_)
    }

    /// The number of replicas that serve the latest generation completely.
    pub fn current_replicas(&self) -> usize {
        self.replicas.iter().filter(|replica| replica.current).count()
    }
}

impl ConditionDetails {
    fn new(condition: Condition) -> Self {
        let is_desired = tone(&condition) == Tone::Good;
        let runbook = (!is_desired).then(|| runbook::address(RUNBOOKS, &condition.reason));
        Self { condition, runbook }
    }
}

/// The meaning of a condition.
pub fn tone(condition: &Condition) -> Tone {
    match ConditionState::of(condition) {
        ConditionState::AsDesired => Tone::Good,
        ConditionState::Warning => Tone::Warning,
        ConditionState::Fault => Tone::Bad,
    }
}

fn served<'a>(object: &TcpLoadBalancer, pages: &'a ReplicaPages) -> Option<&'a Served> {
    pages.report.load_balancers.get(object.metadata.uid.as_deref()?).map(|served| &**served)
}

impl ReplicaDetails {
    /// The state that its pages show.
    fn new(object: &TcpLoadBalancer, pages: &Result<ReplicaPages, PageError>) -> Self {
        let pages = match pages {
            Ok(pages) => pages,
            Err(error) => return Self { problems: vec![error.to_string()], ..Self::default() },
        };
        let Some(served) = served(object, pages) else {
            return Self { problems: vec!["it does not know this load balancer".into()], ..Self::default() };
        };
        let failed = served.listeners.iter().filter_map(|(port, outcome)| match outcome {
            ListenerOutcome::Bound(_) => None,
            ListenerOutcome::Failed(sentence) => Some(format!("listener {port}: {sentence}")),
        });
        let mut problems: Vec<String> = failed.chain(served.here.iter().cloned()).collect();
        let current = problems.is_empty() && served.whole == object.metadata.generation;
        if omits_former_endpoints(object, &pages.picture) {
            problems.push(OMITS_FORMER_ENDPOINTS.into());
        }
        Self {
            current,
            generation: Some(served.generation),
            problems,
            listeners: listeners(object, &pages.picture),
            endpoints: endpoints(object, &pages.picture),
            ..Self::default()
        }
    }
}

/// `NAMESPACE/NAME`, the name of a load balancer in a picture.
fn shown_name(object: &TcpLoadBalancer) -> String {
    let (namespace, name) = (&object.metadata.namespace, &object.metadata.name);
    format!("{}/{}", namespace.as_deref().unwrap_or_default(), name.as_deref().unwrap_or_default())
}

fn listeners(object: &TcpLoadBalancer, picture: &StatePicture) -> Vec<ListenerDetails> {
    let key = shown_name(object);
    let shown = picture.load_balancers.iter().filter(|shown| shown.name == key);
    let details = shown.flat_map(|shown| &shown.listeners).map(|view| ListenerDetails {
        port: view.port,
        open: view.active,
        accepted: view.accepted,
        failures: view.failures.iter().map(|(reason, count)| (reason.to_string(), *count)).collect(),
    });
    details.collect()
}

/// True if the replica does not report the connections that former endpoints keep.
fn omits_former_endpoints(object: &TcpLoadBalancer, picture: &StatePicture) -> bool {
    let key = shown_name(object);
    picture.load_balancers.iter().any(|shown| shown.name == key && shown.former_endpoints.is_none())
}

/// The endpoints of a load balancer, and former ones that still have connections.
fn endpoints(object: &TcpLoadBalancer, picture: &StatePicture) -> Vec<EndpointDetails> {
    let key = shown_name(object);
    let shown = picture.load_balancers.iter().filter(|shown| shown.name == key);
    let served = shown.clone().flat_map(|shown| &shown.endpoints);
    let served = served.map(|view| (EndpointId::new(view.id, &view.address), EndpointDetails::from(view)));
    let former = shown.flat_map(|shown| shown.former_endpoints.iter().flatten()).filter(|view| view.active > 0);
    let former = former.map(|view| (EndpointId::new(view.id, &view.address), EndpointDetails::from(view)));
    let drains = endpoint_drains(&key, picture);
    let mut unmatched = drains.clone();
    let mut endpoints = Vec::new();
    for (id, mut endpoint) in served.chain(former) {
        unmatched.remove(&id);
        if let Some(drain) = drains.get(&id) {
            endpoint.set_drain(drain);
        }
        endpoints.push(endpoint);
    }
    // Those of a previous object of this name, and in documents of older versions those of all former endpoints.
    endpoints.extend(unmatched.into_values().map(EndpointDetails::from));
    endpoints
}

/// The identity of an endpoint in a document of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum EndpointId<'a> {
    Id(u64),
    /// An older version wrote the document. Several endpoints may have the address.
    Address(&'a str),
}

impl<'a> EndpointId<'a> {
    fn new(id: Option<u64>, address: &'a str) -> Self {
        id.map_or(Self::Address(address), Self::Id)
    }
}

/// The drains of the endpoints of a load balancer that have open connections: the earliest one of each endpoint.
fn endpoint_drains<'a>(load_balancer: &str, picture: &'a StatePicture) -> BTreeMap<EndpointId<'a>, &'a DrainView> {
    let of_object = picture.draining.iter().filter(|drain| drain.load_balancer == load_balancer && drain.active > 0);
    let mut drains: BTreeMap<EndpointId, &DrainView> = BTreeMap::new();
    // Listeners are named NAMESPACE/NAME:PORT.
    for drain in of_object.filter(|drain| !drain.what.contains('/')) {
        let first = drains.entry(EndpointId::new(drain.id, &drain.what)).or_insert(drain);
        if drain.until.is_some_and(|until| first.until.is_none_or(|earliest| until < earliest)) {
            *first = drain;
        }
    }
    drains
}

impl EndpointDetails {
    /// An endpoint that is not served.
    fn former(address: &str, state: EndpointCondition, connections: u32) -> Self {
        Self {
            backend: String::new(),
            address: address.to_owned(),
            state,
            reason: None,
            share: 0,
            connections,
            total_connections: 0,
            preconnected: 0,
            near: false,
            probes: None,
            draining: None,
            draining_until: None,
        }
    }

    fn set_drain(&mut self, drain: &DrainView) {
        self.draining = Some(drain.reason.to_string());
        self.draining_until = drain.until;
    }
}

impl From<FormerState> for EndpointCondition {
    fn from(state: FormerState) -> Self {
        match state {
            FormerState::Drained => Self::Drained,
            FormerState::Terminating => Self::Terminating,
            FormerState::NotReady => Self::NotReady,
            FormerState::Removed => Self::Removed,
        }
    }
}

impl From<&FormerEndpointView> for EndpointDetails {
    fn from(view: &FormerEndpointView) -> Self {
        let endpoint = Self::former(&view.address, view.state.into(), view.active);
        Self { backend: view.backend.clone(), total_connections: view.connections, ..endpoint }
    }
}

/// The endpoint of a drain that has no other view.
impl From<&DrainView> for EndpointDetails {
    fn from(drain: &DrainView) -> Self {
        let state = match (drain.id, &*drain.reason) {
            // Older versions have no views of former endpoints.
            (None, "endpoint_drained") => EndpointCondition::Drained,
            (None, "endpoint_terminating") => EndpointCondition::Terminating,
            _ => EndpointCondition::Removed,
        };
        let mut endpoint = Self::former(&drain.what, state, u32::try_from(drain.active).unwrap_or(u32::MAX));
        endpoint.set_drain(drain);
        endpoint
    }
}

impl From<&EndpointView> for EndpointDetails {
    fn from(view: &EndpointView) -> Self {
        let state = match (view.usable, view.in_service) {
            (true, true) => EndpointCondition::Usable,
            (true, false) => EndpointCondition::Standby,
            (false, _) => EndpointCondition::Unusable,
        };
        let probes = view.check.as_ref().map(|check| (check.passed, check.failed));
        let failure = view.last_failure.clone();
        let ejected = view.ejected_until.as_ref().map(|until| format!("ejected until {until}"));
        let reason = match (ejected, failure) {
            (Some(ejected), Some(failure)) => Some(format!("{ejected}: {failure}")),
            (Some(ejected), None) => Some(ejected),
            (None, None) if !view.healthy && probes == Some((0, 0)) => Some("its first check is pending".into()),
            (None, failure) => failure,
        };
        Self {
            backend: view.backend.clone(),
            address: view.address.clone(),
            state,
            reason,
            share: view.share,
            connections: view.active,
            total_connections: view.connections,
            preconnected: view.preconnected,
            near: view.near,
            probes,
            draining: None,
            draining_until: None,
        }
    }
}

fn certificates<'a>(served: impl Iterator<Item = &'a Served>, now: Timestamp) -> Vec<CertificateDetails> {
    let mut earliest: BTreeMap<(&str, &'static str), Timestamp> = BTreeMap::new();
    for served in served {
        let of_clients = served.certificates.iter().map(|found| (found, "clients"));
        let of_backends = served.certificates_for_backends.iter().map(|found| (found, "backends"));
        for ((source, expires), presented_to) in of_clients.chain(of_backends) {
            let entry = earliest.entry((source, presented_to)).or_insert(*expires);
            *entry = (*entry).min(*expires);
        }
    }
    let details = earliest.into_iter().map(|((source, presented_to), expires)| CertificateDetails {
        source: source.to_owned(),
        presented_to,
        expires,
        remaining_days: expires.duration_since(now).as_secs().div_euclid(24 * 3600),
    });
    details.collect()
}
