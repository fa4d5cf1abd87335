//! What is applied, as JSON. Nothing secret is in it.

use serde::Serialize;

use crate::{
    model::{Algorithm, Listener, ListenerKey, ListenerState, ProxyMode, Report, TlsVersion, UpstreamKey},
    proxy::Monitor,
    state::State,
    translate::Severity,
    upstream::{Endpoint, Upstream},
};

/// The whole picture.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Picture {
    pub generation: u64,
    pub load_balancers: Vec<LoadBalancer>,
    pub problems: Vec<String>,
}

/// One load balancer: what is said of it and what is served for it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancer {
    pub name: String,
    pub origin: String,
    pub problems: Vec<Problem>,
    pub listeners: Vec<Port>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balancing: Option<&'static str>,
    pub endpoints: Vec<Member>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    pub severity: &'static str,
    pub sentence: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    pub name: String,
    pub port: u16,
    /// Where it is bound; absent: it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<&'static str>,
    pub active: u64,
    pub accepted: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    pub min_version: &'static str,
    pub alpn: Vec<String>,
    pub certificates: Vec<Certificate>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    pub source: String,
    pub names: Vec<String>,
    pub not_after: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    pub backend: String,
    pub address: String,
    pub usable: bool,
    pub healthy: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejected_until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
    pub active: u32,
    pub connections: u64,
    pub preconnected: usize,
}

/// The picture at this moment.
pub fn of(monitor: &Monitor, state: &State) -> Picture {
    let view = monitor.view();
    let configuration = state.configuration();
    let load_balancers = configuration.verdicts.iter().map(|(object, verdict)| {
        let key = UpstreamKey { object: object.clone() };
        let upstream = view.upstreams.iter().find(|(other, _)| *other == key).map(|(_, upstream)| upstream);
        let listeners = view.snapshot.listeners.iter().filter(|(listener, _)| listener.object == *object);
        LoadBalancer {
            name: object.to_string(),
            origin: verdict.origin.to_string(),
            problems: verdict
                .problems
                .iter()
                .map(|problem| Problem {
                    severity: match problem.severity {
                        Severity::Refused => "refused",
                        Severity::Warning => "warning",
                    },
                    sentence: problem.to_string(),
                })
                .collect(),
            listeners: listeners.map(|(key, listener)| port(key, listener, &view.report, monitor)).collect(),
            balancing: view.snapshot.upstreams.get(&key).map(|upstream| algorithm(upstream.balancing.algorithm)),
            endpoints: upstream.map(|upstream| members(upstream)).unwrap_or_default(),
        }
    });
    Picture {
        generation: view.snapshot.generation,
        load_balancers: load_balancers.collect(),
        problems: configuration.problems.clone(),
    }
}

fn port(key: &ListenerKey, listener: &Listener, report: &Report, monitor: &Monitor) -> Port {
    let (bound, failure) = match report.listeners.get(key) {
        Some(ListenerState::Bound(address)) => (Some(address.to_string()), None),
        Some(ListenerState::Failed(sentence)) => (None, Some(sentence.to_string())),
        None => (None, None),
    };
    let view = monitor.view();
    let live = view.listeners.iter().find(|live| live.key == *key);
    let totals = live.map(|live| live.counters.totals()).unwrap_or_default();
    Port {
        name: listener.name.to_string(),
        port: key.port,
        bound,
        failure,
        tls: listener.tls.as_ref().map(|tls| Tls {
            min_version: match tls.min_version {
                TlsVersion::V1_2 => "TLS1.2",
                TlsVersion::V1_3 => "TLS1.3",
            },
            alpn: tls.alpn.iter().map(ToString::to_string).collect(),
            certificates: tls
                .certificates
                .iter()
                .map(|certificate| Certificate {
                    source: certificate.source.to_string(),
                    names: certificate.names.iter().map(ToString::to_string).collect(),
                    not_after: certificate.not_after.to_string(),
                })
                .collect(),
        }),
        proxy_protocol: listener.proxy_protocol.as_ref().map(|expected| match expected.mode {
            ProxyMode::Optional => "Optional",
            ProxyMode::Required => "Required",
        }),
        active: totals.active(),
        accepted: totals.accepted,
    }
}

fn members(upstream: &Upstream) -> Vec<Member> {
    upstream.endpoints().iter().map(|endpoint| member(endpoint)).collect()
}

fn member(endpoint: &Endpoint) -> Member {
    let state = endpoint.state();
    Member {
        backend: endpoint.key().backend.to_string(),
        address: endpoint.address().to_string(),
        usable: endpoint.usable(),
        healthy: state.healthy,
        ejected_until: state.ejected_until.map(|until| format!("{until:.0}")),
        last_failure: state.last_failure.map(|failure| format!("{:.0}: {}", failure.at, failure.reason)),
        active: endpoint.active(),
        connections: endpoint.connections(),
        preconnected: endpoint.pool_figures().idle,
    }
}

fn algorithm(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::RoundRobin => "RoundRobin",
        Algorithm::LeastConnections => "LeastConnections",
        Algorithm::PowerOfTwo => "PowerOfTwo",
        Algorithm::Random => "Random",
        Algorithm::Maglev => "Maglev",
    }
}
