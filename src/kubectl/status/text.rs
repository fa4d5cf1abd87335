//! The status as tables.

use super::document::{
    CertificateDetails, ConditionDetails, EndpointCondition, EndpointDetails, LoadBalancerDetails, ReplicaDetails,
    StatusDocument, tone,
};
use crate::{
    api::Placement,
    kubectl::{
        output::{Cell, TextTable, Tone},
        runbook,
    },
};

/// Certificates with fewer days are marked.
const EXPIRES_SOON: i64 = 14;

/// The columns of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Columns {
    Usual,
    All,
}

/// A line for each load balancer, and its problem.
pub fn list(document: &StatusDocument, columns: Columns, with_namespaces: bool) -> String {
    if document.load_balancers.is_empty() {
        return "no TcpLoadBalancer was found\n".into();
    }
    let mut header = vec!["NAME", "PORTS", "ADDRESS", "READY", "REPLICAS", "CONNECTIONS", "STATUS"];
    if with_namespaces {
        header.insert(0, "NAMESPACE");
    }
    if columns == Columns::All {
        header.extend(["CLASS", "PLACEMENT", "CERTIFICATE DAYS"]);
    }
    header.push("MESSAGE");
    let mut table = TextTable::new(&header);
    for object in &document.load_balancers {
        table.push(line(object, columns, with_namespaces));
    }
    table.to_string() + &notes(document)
}

fn line(object: &LoadBalancerDetails, columns: Columns, with_namespaces: bool) -> Vec<Cell> {
    let summary = object.summary.clone().unwrap_or_default();
    let ready = object.condition("Ready");
    let tone = ready.map_or(Tone::Warning, tone);
    let (current, all) = (object.current_replicas(), object.replicas.len());
    let mut row: Vec<Cell> = Vec::new();
    if with_namespaces {
        row.push(Cell::plain(&object.namespace));
    }
    row.extend([
        Cell::plain(&object.name),
        Cell::plain(summary.ports.unwrap_or_default()),
        Cell::plain(summary.address.unwrap_or_default()),
        Cell::plain(summary.ready.unwrap_or_default()),
        Cell::toned(format!("{current}/{all}"), if current < all { Tone::Warning } else { Tone::Plain }),
        Cell::plain(connections(&object.replicas)),
        Cell::toned(summary.status.unwrap_or_else(|| "Unknown".into()), tone),
    ]);
    if columns == Columns::All {
        let days = object.certificates.iter().map(|certificate| certificate.remaining_days).min();
        row.push(Cell::plain(&object.class));
        row.push(Cell::plain(placement(object.placement)));
        row.push(days.map_or_else(Cell::default, |days| Cell::toned(days, days_tone(days))));
    }
    let message = match ready {
        Some(ready) if tone != Tone::Good => ready.message.as_str(),
        Some(_) => "",
        None => "no status has been written yet: see `kubectl tcplb doctor`",
    };
    row.push(Cell::plain(message));
    row
}

fn connections(replicas: &[ReplicaDetails]) -> u64 {
    replicas.iter().flat_map(|replica| &replica.endpoints).map(|endpoint| u64::from(endpoint.connections)).sum()
}

/// Everything about one load balancer.
pub fn details(object: &LoadBalancerDetails, document: &StatusDocument, columns: Columns) -> String {
    let mut text = format!("{}\n\n{}", overview(object), conditions(object));
    for section in [replicas(object), listeners(object), endpoints(object, columns), certificates(&object.certificates)]
    {
        if !section.is_empty() {
            text = text + "\n" + &section;
        }
    }
    text + &notes(document)
}

fn overview(object: &LoadBalancerDetails) -> String {
    let listeners = object.listeners.iter().map(|listener| {
        let name = listener.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
        let proxy = listener.bound_port.map(|port| format!(" (proxy port {port})")).unwrap_or_default();
        let node = listener.node_port.map(|port| format!(" (node port {port})")).unwrap_or_default();
        format!("{}{name}{proxy}{node}", listener.port)
    });
    let addresses: Vec<&str> = object.addresses.iter().map(|address| address.value.as_str()).collect();
    let generation = match object.observed_generation {
        Some(observed) if observed == object.generation => object.generation.to_string(),
        Some(observed) => format!("{} (the status is about generation {observed})", object.generation),
        None => format!("{} (there is no status yet)", object.generation),
    };
    let lines = [
        ("Name", format!("{}/{}", object.namespace, object.name)),
        ("Class", object.class.clone()),
        ("Placement", placement(object.placement).to_owned()),
        ("Generation", generation),
        ("Addresses", addresses.join(", ")),
        ("Listeners", listeners.collect::<Vec<_>>().join(", ")),
        ("Drained", drained(object)),
    ];
    let lines = lines.into_iter().filter(|(_, value)| !value.is_empty());
    let lines: Vec<_> =
        lines.map(|(name, value)| format!("{:<13}{}", format!("{name}:"), Cell::plain(value))).collect();
    lines.join("\n")
}

/// The declared drained endpoints, and the number of endpoints that they match in each backend.
fn drained(object: &LoadBalancerDetails) -> String {
    let declared: Vec<String> = object.drained_endpoints.iter().map(ToString::to_string).collect();
    if declared.is_empty() {
        return String::new();
    }
    let counts = object.backends.iter().filter_map(|backend| Some(format!("{} {}", backend.name, backend.drained?)));
    match counts.collect::<Vec<_>>().join(", ").as_str() {
        "" => declared.join(", "),
        counts => format!("{} (endpoints by backend: {counts})", declared.join(", ")),
    }
}

fn placement(placement: Placement) -> &'static str {
    match placement {
        Placement::Gateway => "Gateway",
        Placement::Host => "Host",
        Placement::Sidecar => "Sidecar",
    }
}

fn conditions(object: &LoadBalancerDetails) -> String {
    let mut table = TextTable::new(&["CONDITION", "STATUS", "REASON", "MESSAGE"]);
    for ConditionDetails { condition, .. } in &object.conditions {
        let tone = tone(condition);
        table.push(vec![
            Cell::toned(format!("{} {}", tone.sign(), condition.type_), tone),
            Cell::plain(&condition.status),
            Cell::plain(&condition.reason),
            Cell::plain(&condition.message),
        ]);
    }
    if table.is_empty() {
        "no status has been written yet: see `kubectl tcplb doctor`\n".into()
    } else {
        table.to_string() + &runbooks(object)
    }
}

/// The sections about the conditions that are not as desired. Several conditions can have the same reason.
fn runbooks(object: &LoadBalancerDetails) -> String {
    let mut references: Vec<String> = Vec::new();
    for ConditionDetails { condition, runbook } in &object.conditions {
        let Some(address) = runbook else { continue };
        let reference = runbook::reference(address, &condition.reason);
        if !references.contains(&reference) {
            references.push(reference);
        }
    }
    references.iter().map(|reference| format!("{}\n", Cell::toned(reference, Tone::Faint))).collect()
}

/// The replicas with problems, or those whose state is not current.
fn replicas(object: &LoadBalancerDetails) -> String {
    let mut table = TextTable::new(&["REPLICA", "NODE", "READY", "GENERATION", "PROBLEM"]);
    for replica in &object.replicas {
        let (mark, ready) = if replica.ready { (Tone::Plain, "yes") } else { (Tone::Bad, "no") };
        let generation = replica.generation.map(|generation| generation.to_string()).unwrap_or_default();
        let current = if replica.current { Tone::Plain } else { Tone::Warning };
        let mut problems = replica.problems.iter();
        table.push(vec![
            Cell::plain(&replica.pod),
            Cell::plain(replica.node.as_deref().unwrap_or_default()),
            Cell::toned(ready, mark),
            Cell::toned(generation, current),
            problems.next().map_or_else(Cell::default, |problem| Cell::toned(problem, Tone::Bad)),
        ]);
        for problem in problems {
            let indent = || Cell::default();
            table.push(vec![indent(), indent(), indent(), indent(), Cell::toned(problem, Tone::Bad)]);
        }
    }
    if table.is_empty() { String::new() } else { table.to_string() }
}

/// The connections of each listener. Its refusals have no condition.
fn listeners(object: &LoadBalancerDetails) -> String {
    let mut table = TextTable::new(&["REPLICA", "LISTENER", "OPEN", "ACCEPTED", "REFUSED OR FAILED"]);
    for replica in &object.replicas {
        for listener in &replica.listeners {
            let failures = listener.failures.iter().map(|(reason, count)| format!("{reason} {count}"));
            table.push(vec![
                Cell::plain(&replica.pod),
                Cell::plain(listener.port),
                Cell::plain(listener.open),
                Cell::plain(listener.accepted),
                Cell::plain(failures.collect::<Vec<_>>().join(", ")),
            ]);
        }
    }
    if table.is_empty() { String::new() } else { table.to_string() }
}

fn endpoints(object: &LoadBalancerDetails, columns: Columns) -> String {
    let mut header = vec!["REPLICA", "BACKEND", "ENDPOINT", "STATE", "SHARE", "CONNECTIONS", "DRAINING"];
    if columns == Columns::All {
        header.extend(["TOTAL", "PRECONNECTED", "NEAR", "PROBES PASSED/FAILED"]);
    }
    header.push("REASON");
    let mut table = TextTable::new(&header);
    for replica in &object.replicas {
        for endpoint in &replica.endpoints {
            table.push(endpoint_row(&replica.pod, endpoint, columns));
        }
    }
    if table.is_empty() { String::new() } else { table.to_string() }
}

fn endpoint_row(pod: &str, endpoint: &EndpointDetails, columns: Columns) -> Vec<Cell> {
    let (state, tone) = match endpoint.state {
        EndpointCondition::Usable => ("usable", Tone::Good),
        EndpointCondition::Standby => ("standby", Tone::Faint),
        EndpointCondition::Unusable => ("unusable", Tone::Bad),
        EndpointCondition::Drained => ("drained", Tone::Warning),
        EndpointCondition::Terminating => ("terminating", Tone::Warning),
        EndpointCondition::NotReady => ("not ready", Tone::Warning),
        EndpointCondition::Removed => ("removed", Tone::Warning),
    };
    let share = match endpoint.state {
        EndpointCondition::Usable | EndpointCondition::Standby => format!("{}%", endpoint.share),
        EndpointCondition::Unusable
        | EndpointCondition::Drained
        | EndpointCondition::Terminating
        | EndpointCondition::NotReady
        | EndpointCondition::Removed => "-".into(),
    };
    let mut row = vec![
        Cell::plain(pod),
        Cell::plain(&endpoint.backend),
        Cell::plain(&endpoint.address),
        Cell::toned(state, tone),
        Cell::plain(share),
        Cell::plain(endpoint.connections),
        Cell::plain(draining(endpoint)),
    ];
    if columns == Columns::All {
        let probes = endpoint.probes.map_or_else(|| "-".into(), |(passed, failed)| format!("{passed}/{failed}"));
        row.extend([
            Cell::plain(endpoint.total_connections),
            Cell::plain(endpoint.preconnected),
            Cell::plain(if endpoint.near { "yes" } else { "no" }),
            Cell::plain(probes),
        ]);
    }
    let failed = if tone == Tone::Good { Tone::Faint } else { Tone::Plain };
    row.push(Cell::toned(endpoint.reason.as_deref().unwrap_or_default(), failed));
    row
}

/// The reason for which open connections are being closed, and the time of the last close.
fn draining(endpoint: &EndpointDetails) -> String {
    match (&endpoint.draining, endpoint.draining_until) {
        (Some(reason), Some(until)) => format!("{reason} until {until:.0}"),
        (Some(reason), None) => reason.clone(),
        (None, _) if endpoint.state.is_served() => "-".into(),
        (None, _) => "kept".into(),
    }
}

fn certificates(certificates: &[CertificateDetails]) -> String {
    let mut table = TextTable::new(&["CERTIFICATE", "PRESENTED TO", "EXPIRES", "DAYS"]);
    for certificate in certificates {
        table.push(vec![
            Cell::plain(&certificate.source),
            Cell::plain(certificate.presented_to),
            Cell::plain(format!("{:.0}", certificate.expires)),
            Cell::toned(certificate.remaining_days, days_tone(certificate.remaining_days)),
        ]);
    }
    if table.is_empty() { String::new() } else { table.to_string() }
}

fn days_tone(days: i64) -> Tone {
    match days {
        ..0 => Tone::Bad,
        0..EXPIRES_SOON => Tone::Warning,
        _ => Tone::Good,
    }
}

fn notes(document: &StatusDocument) -> String {
    let notes = document.notes.iter().map(|note| format!("\n{}\n", Cell::toned(note, Tone::Warning)));
    notes.collect()
}
