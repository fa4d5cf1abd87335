//! Whether clients are served at every port, by every replica.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::Service;

use super::{
    addresses,
    finding::{Finding, Holds, lines},
    reason::ConditionReason,
    situation::{Situation, Telling, Topic},
    types::PROGRAMMED,
};
use crate::{
    api::{Address, Listener, ListenerStatus, Placement},
    controller::observed::Problem,
    model::ListenerOutcome,
    translate::Severity,
};

/// How many pods a message names.
const MOST_NAMED: usize = 3;

const SERVED: &str = "all ready replicas serve it";

/// What is found of a declared listener.
pub struct Found<'a> {
    listener: &'a Listener,
    finding: Finding,
    bound_port: Option<u16>,
}

/// Only who looks into the application's pods knows.
pub fn in_pods() -> Finding {
    Finding::unknown(
        ConditionReason::ServedInPods,
        "it is served by sidecars in the application's pods: their logs and admin pages say more",
    )
}

pub fn listeners<'a>(situation: &Situation<'a>) -> Vec<Found<'a>> {
    let behind = behind(situation);
    let found = |(index, listener): (usize, &'a Listener)| {
        let outcomes = outcomes(listener.port, situation);
        let finding = without_port(listener.port, situation)
            .or_else(|| behind.clone())
            .unwrap_or_else(|| of_listener(index, listener.port, &outcomes, situation));
        let bound_port = outcomes.iter().find_map(|(_, outcome)| match outcome {
            Some(ListenerOutcome::Bound(port)) => Some(*port),
            Some(ListenerOutcome::Failed(_)) | None => None,
        });
        Found { listener, finding, bound_port }
    };
    situation.listeners().into_iter().map(found).collect()
}

pub fn programmed(situation: &Situation, listeners: &[Found], addresses: &[Address]) -> Finding {
    if let Some(Problem::ServiceNotWritten(sentence)) = situation.problem {
        return Finding::no(ConditionReason::ServiceNotWritten, sentence);
    }
    if let Some(finding) = of_listeners(listeners) {
        return finding;
    }
    if listeners.is_empty() {
        return behind(situation).unwrap_or_else(|| not_served(situation));
    }
    address_missing(situation, addresses).unwrap_or_else(|| Finding::yes(ConditionReason::Programmed, SERVED))
}

pub fn statuses(situation: &Situation, found: Vec<Found>) -> Vec<ListenerStatus> {
    let node_ports = node_ports(situation);
    let status = |Found { listener, finding, bound_port }: Found| ListenerStatus {
        port: listener.port,
        name: listener.name.as_ref().map(|name| name.0.clone()),
        bound_port,
        node_port: node_ports.get(&listener.port).copied(),
        conditions: vec![finding.condition(PROGRAMMED, situation)],
    };
    found.into_iter().map(status).collect()
}

fn node_ports(situation: &Situation) -> BTreeMap<u16, u16> {
    let spec = situation.service.and_then(|kept| kept.service.spec.as_ref());
    let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    ports.iter().filter_map(|port| Some((port.port.try_into().ok()?, port.node_port?.try_into().ok()?))).collect()
}

/// Why a listener has no port of the proxies'.
fn without_port(listener: u16, situation: &Situation) -> Option<Finding> {
    let (listeners, reason, sentence) = match situation.problem? {
        Problem::NoFreePort { listeners, sentence } => (listeners, ConditionReason::NoFreePort, sentence),
        Problem::AllocationFailed { listeners, sentence } => (listeners, ConditionReason::AllocationFailed, sentence),
        Problem::ServiceNotWritten(_) => return None,
    };
    listeners.contains(&listener).then(|| Finding::no(reason, sentence))
}

/// Why it is not known yet what becomes of this generation.
fn behind(situation: &Situation) -> Option<Finding> {
    if situation.replicas.is_empty() && situation.replicas_are_unknown {
        return Some(Finding::unknown(ConditionReason::ReplicasUnknown, situation.settings.replicas_unknown()));
    }
    if situation.replicas.is_empty() {
        return Some(Finding::no(ConditionReason::Pending, "no replica is ready to serve it"));
    }
    let generation = situation.identity.generation;
    let late = situation.replicas.iter().filter_map(|(pod, telling)| match telling {
        Telling::Silent => Some(format!("pod {pod} does not report")),
        Telling::Unaware => Some(format!("pod {pod} does not serve it yet")),
        Telling::Serves(served) if served.generation < generation => {
            Some(format!("pod {pod} serves generation {} still", served.generation))
        }
        Telling::Serves(_) => None,
    });
    let late: Vec<String> = late.collect();
    (!late.is_empty()).then(|| Finding::no(ConditionReason::Pending, named(late)))
}

type Outcomes<'a> = Vec<(&'a Arc<str>, Option<&'a ListenerOutcome>)>;

/// What became of a listener in each replica.
fn outcomes<'a>(port: u16, situation: &Situation<'a>) -> Outcomes<'a> {
    situation.served().map(|(pod, served)| (pod, served.listeners.get(&port))).collect()
}

fn of_listener(index: usize, port: u16, outcomes: &Outcomes, situation: &Situation) -> Finding {
    let bound = |outcome: &Option<&ListenerOutcome>| matches!(outcome, Some(ListenerOutcome::Bound(_)));
    let failed = outcomes.iter().any(|(_, outcome)| matches!(outcome, Some(ListenerOutcome::Failed(_))));
    // All replicas decide alike: one that has not opened a port that nothing speaks against is about to.
    let opening = !failed && !situation.verdict.refuses();
    let without = outcomes.iter().filter(|(_, outcome)| !bound(outcome)).map(|(pod, outcome)| match outcome {
        Some(ListenerOutcome::Failed(sentence)) => format!("pod {pod}: {sentence}"),
        Some(ListenerOutcome::Bound(_)) | None if opening => format!("pod {pod} has not opened its port yet"),
        Some(ListenerOutcome::Bound(_)) | None => format!("pod {pod} does not serve it"),
    });
    let without: Vec<String> = without.collect();
    match (without.len(), outcomes.len()) {
        (0, _) => in_service(port, outcomes, situation),
        (some, all) if some < all && !opening => {
            let until = situation.references_deferred_until().filter(|_| !failed && situation.waits_for_references());
            Finding::no_or_pending(until, ConditionReason::PartiallyBound, named(without))
        }
        _ if failed => Finding::no(ConditionReason::PortUnavailable, named(without)),
        _ if opening => {
            waiting(index, situation).unwrap_or_else(|| Finding::no(ConditionReason::Pending, named(without)))
        }
        _ => waiting(index, situation).unwrap_or_else(|| not_served(situation)),
    }
}

/// What a listener waits for that nobody serves.
fn waiting(index: usize, situation: &Situation) -> Option<Finding> {
    let field = format!("spec.listeners[{index}].");
    let mut waits =
        situation.problems(Topic::Ports, Severity::Warning).filter(|problem| problem.field.starts_with(&field));
    waits.next().map(|problem| Finding::no(ConditionReason::Pending, &*problem.message))
}

fn not_served(situation: &Situation) -> Finding {
    let until = situation.references_deferred_until().filter(|_| situation.waits_for_references());
    let message = "it is not served: the conditions Accepted and ResolvedRefs say why";
    Finding::no_or_pending(until, ConditionReason::Invalid, message)
}

/// Whether the Service sends connections to where the listener is bound.
fn in_service(port: u16, outcomes: &Outcomes, situation: &Situation) -> Finding {
    if situation.placement() != Placement::Gateway {
        return Finding::yes(ConditionReason::Programmed, SERVED);
    }
    let Some(kept) = situation.service else {
        return match situation.verdict.refuses_service() {
            true => Finding::no(ConditionReason::Invalid, "it has no Service: the condition Accepted says why"),
            false => Finding::no(ConditionReason::Pending, "its Service does not exist yet"),
        };
    };
    if kept.is_leaving() {
        return Finding::no(ConditionReason::ServiceTerminating, terminating(kept.service));
    }
    let Some(target) = kept.ports().get(&port).copied() else {
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
        if finalizers.is_empty() { String::new() } else { format!(", which its finalizers hold up: {finalizers}") };
    format!("its Service {name} is being deleted{cause}; a new one is created once it is gone")
}

/// What is wrong with some of the listeners. What has to be looked at comes before what has to be waited for.
fn of_listeners(listeners: &[Found]) -> Option<Finding> {
    let wrong = || listeners.iter().filter(|found| found.finding.holds != Holds::True);
    let lasts = |found: &&Found| !found.finding.reason.is_waiting();
    let worst = wrong().find(lasts).or_else(|| wrong().next())?;
    let first = &wrong().next()?.finding;
    let message = match wrong().count() == listeners.len() && wrong().all(|found| found.finding == *first) {
        true => first.message.clone(),
        false => lines(wrong().map(|found| format!("listener {}: {}", found.listener.port, found.finding.message))),
    };
    Some(Finding { message, ..worst.finding.clone() })
}

fn address_missing(situation: &Situation, known: &[Address]) -> Option<Finding> {
    let service = situation.service.map(|kept| kept.service);
    let type_ = service.and_then(|service| service.spec.as_ref()?.type_.as_deref());
    match service {
        Some(service) if type_ == Some("LoadBalancer") && addresses::external(service).is_empty() => {
            let message =
                "its Service has no external address yet: the cluster's load balancers give one, if there are any";
            let until = situation.address_deferred_until();
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
