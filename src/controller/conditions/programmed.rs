//! The condition Programmed: every replica serves every port.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::Service;

use super::{
    addresses,
    finding::{Finding, Holds, lines},
    input::{ReplicaView, StatusInput, Topic},
    reason::ConditionReason,
    types::PROGRAMMED,
};
use crate::{
    api::{Address, Listener, ListenerStatus, Placement},
    controller::observed::ProvisioningProblem,
    model::ListenerOutcome,
    translate::Severity,
};

/// The number of pods that a message names.
const MOST_NAMED: usize = 3;

const SERVED: &str = "all ready replicas serve it";

/// The state of a declared listener.
pub struct ListenerFinding<'a> {
    listener: &'a Listener,
    finding: Finding,
    bound_port: Option<u16>,
}

/// Sidecars write no status: only their pods know the state.
pub fn in_pods() -> Finding {
    Finding::unknown(
        ConditionReason::ServedInPods,
        "sidecars in application pods serve it: see their logs and admin pages",
    )
}

pub fn listeners<'a>(input: &StatusInput<'a>) -> Vec<ListenerFinding<'a>> {
    let behind = behind(input);
    let found = |(index, listener): (usize, &'a Listener)| {
        let outcomes = outcomes(listener.port, input);
        let finding = without_port(listener.port, input)
            .or_else(|| behind.clone())
            .unwrap_or_else(|| of_listener(index, listener.port, &outcomes, input));
        let bound_port = outcomes.iter().find_map(|(_, outcome)| match outcome {
            Some(ListenerOutcome::Bound(port)) => Some(*port),
            Some(ListenerOutcome::Failed(_)) | None => None,
        });
        ListenerFinding { listener, finding, bound_port }
    };
    input.listeners().into_iter().map(found).collect()
}

pub fn programmed(input: &StatusInput, listeners: &[ListenerFinding], addresses: &[Address]) -> Finding {
    if let Some(ProvisioningProblem::ServiceNotWritten(sentence)) = input.problem {
        return Finding::no(ConditionReason::ServiceNotWritten, sentence);
    }
    if let Some(finding) = of_listeners(listeners) {
        return finding;
    }
    if listeners.is_empty() {
        return behind(input).unwrap_or_else(|| not_served(input));
    }
    address_missing(input, addresses).unwrap_or_else(|| Finding::yes(ConditionReason::Programmed, SERVED))
}

pub fn statuses(input: &StatusInput, found: Vec<ListenerFinding>) -> Vec<ListenerStatus> {
    let node_ports = node_ports(input);
    let status = |ListenerFinding { listener, finding, bound_port }: ListenerFinding| ListenerStatus {
        port: listener.port,
        name: listener.name.as_ref().map(|name| name.0.clone()),
        bound_port,
        node_port: node_ports.get(&listener.port).copied(),
        conditions: vec![finding.condition(PROGRAMMED, input)],
    };
    found.into_iter().map(status).collect()
}

fn node_ports(input: &StatusInput) -> BTreeMap<u16, u16> {
    let spec = input.service.and_then(|managed| managed.service.spec.as_ref());
    let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    ports.iter().filter_map(|port| Some((port.port.try_into().ok()?, port.node_port?.try_into().ok()?))).collect()
}

/// The reason why a listener has no proxy port.
fn without_port(listener: u16, input: &StatusInput) -> Option<Finding> {
    let (listeners, reason, sentence) = match input.problem? {
        ProvisioningProblem::NoFreePort { listeners, sentence } => (listeners, ConditionReason::NoFreePort, sentence),
        ProvisioningProblem::AllocationFailed { listeners, sentence } => {
            (listeners, ConditionReason::AllocationFailed, sentence)
        }
        ProvisioningProblem::ServiceNotWritten(_) => return None,
    };
    listeners.contains(&listener).then(|| Finding::no(reason, sentence))
}

/// The reason why the state of this generation is not known yet.
fn behind(input: &StatusInput) -> Option<Finding> {
    if input.replicas.is_empty() && input.replicas_are_unknown {
        return Some(Finding::unknown(ConditionReason::ReplicasUnknown, input.settings.replicas_unknown()));
    }
    if input.replicas.is_empty() {
        return Some(Finding::no(ConditionReason::Pending, "no replica is ready to serve it"));
    }
    let generation = input.identity.generation;
    let late = input.replicas.iter().filter_map(|(pod, view)| match view {
        ReplicaView::Silent => Some(format!("pod {pod} does not report")),
        ReplicaView::Unaware => Some(format!("pod {pod} does not serve it yet")),
        ReplicaView::Serves(served) if served.generation < generation => {
            Some(format!("pod {pod} still serves generation {}", served.generation))
        }
        ReplicaView::Serves(_) => None,
    });
    let late: Vec<String> = late.collect();
    (!late.is_empty()).then(|| Finding::no(ConditionReason::Pending, named(late)))
}

type Outcomes<'a> = Vec<(&'a Arc<str>, Option<&'a ListenerOutcome>)>;

/// The outcome of a listener in each replica.
fn outcomes<'a>(port: u16, input: &StatusInput<'a>) -> Outcomes<'a> {
    input.served().map(|(pod, served)| (pod, served.listeners.get(&port))).collect()
}

fn of_listener(index: usize, port: u16, outcomes: &Outcomes, input: &StatusInput) -> Finding {
    let bound = |outcome: &Option<&ListenerOutcome>| matches!(outcome, Some(ListenerOutcome::Bound(_)));
    let failed = outcomes.iter().any(|(_, outcome)| matches!(outcome, Some(ListenerOutcome::Failed(_))));
    // All replicas decide alike: a replica without the port opens it shortly, unless there is a reason against it.
    let opening = !failed && !input.verdict.refuses();
    let without = outcomes.iter().filter(|(_, outcome)| !bound(outcome)).map(|(pod, outcome)| match outcome {
        Some(ListenerOutcome::Failed(sentence)) => format!("pod {pod}: {sentence}"),
        Some(ListenerOutcome::Bound(_)) | None if opening => format!("pod {pod} has not opened its port yet"),
        Some(ListenerOutcome::Bound(_)) | None => format!("pod {pod} does not serve it"),
    });
    let without: Vec<String> = without.collect();
    match (without.len(), outcomes.len()) {
        (0, _) => in_service(port, outcomes, input),
        (some, all) if some < all && !opening => {
            let until = input.references_deferred_until().filter(|_| !failed && input.waits_for_references());
            Finding::no_or_pending(until, ConditionReason::PartiallyBound, named(without))
        }
        _ if failed => Finding::no(ConditionReason::PortUnavailable, named(without)),
        _ if opening => waiting(index, input).unwrap_or_else(|| Finding::no(ConditionReason::Pending, named(without))),
        _ => waiting(index, input).unwrap_or_else(|| not_served(input)),
    }
}

/// The warning of a listener that no replica serves and that waits for its port.
fn waiting(index: usize, input: &StatusInput) -> Option<Finding> {
    let warnings = input.problems(Topic::Ports, Severity::Warning);
    let mut waits = warnings.filter(|problem| problem.part.listener() == Some(index));
    waits.next().map(|problem| Finding::no(ConditionReason::Pending, &*problem.message))
}

fn not_served(input: &StatusInput) -> Finding {
    let until = input.references_deferred_until().filter(|_| input.waits_for_references());
    let message = "it is not served: see the conditions Accepted and ResolvedRefs";
    Finding::no_or_pending(until, ConditionReason::Invalid, message)
}

/// Checks that the Service sends connections to the port at which the listener is bound.
fn in_service(port: u16, outcomes: &Outcomes, input: &StatusInput) -> Finding {
    if input.placement() != Placement::Gateway {
        return Finding::yes(ConditionReason::Programmed, SERVED);
    }
    let Some(managed) = input.service else {
        return match input.verdict.refuses_service() {
            true => Finding::no(ConditionReason::Invalid, "it has no Service: see the condition Accepted"),
            false => Finding::no(ConditionReason::Pending, "its Service does not exist yet"),
        };
    };
    if managed.is_leaving() {
        return Finding::no(ConditionReason::ServiceTerminating, terminating(managed.service));
    }
    let Some(target) = managed.ports().get(&port).copied() else {
        return Finding::no(ConditionReason::Pending, "its Service does not have the port yet");
    };
    let elsewhere = outcomes.iter().filter(|(_, outcome)| *outcome != Some(&ListenerOutcome::Bound(target)));
    let elsewhere: Vec<String> = elsewhere.map(|(pod, _)| format!("pod {pod} does not serve port {target}")).collect();
    match elsewhere.is_empty() {
        true => Finding::yes(ConditionReason::Programmed, SERVED),
        false => Finding::no(
            ConditionReason::Pending,
            format!("its Service sends connections to port {target}: {}", named(elsewhere)),
        ),
    }
}

fn terminating(service: &Service) -> String {
    let metadata = &service.metadata;
    let name = metadata.name.as_deref().unwrap_or_default();
    let finalizers = metadata.finalizers.as_deref().unwrap_or_default().join(", ");
    let cause =
        if finalizers.is_empty() { String::new() } else { format!(", blocked by its finalizers: {finalizers}") };
    format!("its Service {name} is being deleted{cause}; a new one is created once it is gone")
}

/// The faults of listeners. Faults that need a change come before those that resolve themselves.
fn of_listeners(listeners: &[ListenerFinding]) -> Option<Finding> {
    let wrong = || listeners.iter().filter(|found| found.finding.holds != Holds::True);
    let lasts = |found: &&ListenerFinding| !found.finding.reason.is_waiting();
    let worst = wrong().find(lasts).or_else(|| wrong().next())?;
    let first = &wrong().next()?.finding;
    let message = match wrong().count() == listeners.len() && wrong().all(|found| found.finding == *first) {
        true => first.message.clone(),
        false => lines(wrong().map(|found| format!("listener {}: {}", found.listener.port, found.finding.message))),
    };
    Some(Finding { message, ..worst.finding.clone() })
}

fn address_missing(input: &StatusInput, known: &[Address]) -> Option<Finding> {
    let service = input.service.map(|managed| managed.service);
    let type_ = service.and_then(|service| service.spec.as_ref()?.type_.as_deref());
    match service {
        Some(service) if type_ == Some("LoadBalancer") && addresses::external(service).is_empty() => {
            let message = "its Service has no external address yet: a load balancer implementation of the cluster has \
                           to assign one";
            let until = input.address_deferred_until();
            Some(Finding::no_or_pending(until, ConditionReason::AddressNotAssigned, message))
        }
        _ if known.is_empty() => Some(Finding::no(ConditionReason::AddressNotAssigned, "it has no address yet")),
        _ => None,
    }
}

fn named(mut sentences: Vec<String>) -> String {
    let more = sentences.len().saturating_sub(MOST_NAMED);
    sentences.truncate(MOST_NAMED);
    if more > 0 {
        sentences.push(format!("and {more} more"));
    }
    sentences.join("; ")
}
