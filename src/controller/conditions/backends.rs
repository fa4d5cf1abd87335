//! The condition BackendsHealthy, and the status of each backend.

use std::collections::BTreeSet;

use super::{
    finding::{Finding, lines},
    input::{StatusInput, Topic},
    reason::ConditionReason,
};
use crate::{
    api::{Backend, BackendStatus, LastFailure},
    model::{BackendHealth, EndpointFailure, FailedOver, Served},
    translate::Severity,
};

/// One entry for each backend, in the declared order.
pub fn backends(input: &StatusInput) -> Vec<BackendStatus> {
    let reported = input.served().flat_map(|(_, served)| served.backends.keys());
    let names: Vec<&str> = match input.spec {
        Some(spec) => spec.backends.iter().map(Backend::name).collect(),
        None => reported.map(String::as_str).collect(),
    };
    let mut seen = BTreeSet::new();
    names.into_iter().filter(|name| seen.insert(*name)).map(|name| backend(name, input)).collect()
}

/// An endpoint counts as healthy when every replica can use it and connections reach it; replicas report counts, so the
/// smallest one is used.
fn backend(name: &str, input: &StatusInput) -> BackendStatus {
    let none = BackendHealth::default();
    let of_replica = |(_, served): (_, &Served)| served.backends.get(name).cloned().unwrap_or(none.clone());
    let health: Vec<BackendHealth> = input.served().map(of_replica).collect();
    let last_failure =
        health.iter().filter_map(|health| health.last_failure.as_deref()).max_by_key(|failure| failure.time);
    BackendStatus {
        name: name.to_owned(),
        endpoints: health.iter().map(|health| health.endpoints).max().unwrap_or(0),
        healthy: health.iter().map(|health| health.usable.saturating_sub(health.failing)).min().unwrap_or(0),
        failing: health.iter().map(|health| health.failing).max().filter(|failing| *failing > 0),
        standby: health.iter().map(|health| health.standby).max().filter(|standby| *standby > 0),
        drained: health.iter().map(|health| health.drained).max().filter(|drained| *drained > 0),
        draining: Some(health.iter().map(|health| health.draining).sum()).filter(|draining| *draining > 0),
        last_failure: last_failure.map(failure_status),
    }
}

fn failure_status(EndpointFailure { endpoint, reason, time }: &EndpointFailure) -> LastFailure {
    LastFailure { endpoint: endpoint.clone(), reason: reason.clone(), time: format!("{time:.0}") }
}

pub fn healthy(input: &StatusInput, backends: &[BackendStatus]) -> Finding {
    if input.served().next().is_none() {
        return Finding::unknown(ConditionReason::Pending, "no replica has reported on it yet");
    }
    let endpoints: u32 = backends.iter().map(|backend| backend.endpoints).sum();
    let healthy: u32 = backends.iter().map(|backend| backend.healthy).sum();
    let warnings = [Severity::Refused, Severity::Warning].map(|severity| input.problems(Topic::Backends, severity));
    let warnings = warnings.into_iter().flatten().map(ToString::to_string);
    let counts = format!("{healthy} of {endpoints} endpoints are healthy");
    let failed_over = failed_over(input);
    let failing: u32 = backends.iter().filter_map(|backend| backend.failing).sum();
    let failing = (failing > 0).then(|| format!("connections to {failing} of them fail"));
    match (endpoints, healthy) {
        (0, _) => Finding::no_or_pending(
            input.endpoints_deferred_until(),
            ConditionReason::NoEndpoints,
            lines(["there are no endpoints: connections are refused".to_owned()].into_iter().chain(warnings)),
        ),
        (_, 0) if failing.is_none() && is_being_checked(input) => {
            Finding::unknown(ConditionReason::Pending, format!("waiting for the first check of {endpoints} endpoints"))
        }
        (_, 0) => {
            let failures = backends.iter().filter_map(|backend| backend.last_failure.as_ref());
            let latest = failures.max_by_key(|failure| &failure.time);
            let latest = latest.map(|failure| format!("{}: {}", failure.endpoint, failure.reason));
            // Failed connections are reported at once.
            let until = if failing.is_some() { None } else { input.endpoints_deferred_until() };
            let (reason, counts) = match (refusing(input), failing) {
                (Some(pods), _) => (ConditionReason::Unhealthy, format!("{counts}: connections are refused{pods}")),
                (None, Some(failing)) => {
                    let advice = "check that the backend listens on this port, and that targetPort names it";
                    (ConditionReason::ConnectionsFail, format!("{counts}: {failing}; {advice}"))
                }
                (None, None) => {
                    let counts =
                        format!("none of {endpoints} endpoints is healthy on all pods: each pod uses different ones");
                    (ConditionReason::Unhealthy, counts)
                }
            };
            let sentences = lines([counts].into_iter().chain(failed_over).chain(latest).chain(warnings));
            Finding::no_or_pending(until, reason, sentences)
        }
        _ => {
            let without = backends.iter().filter(|backend| backend.endpoints > 0 && backend.healthy == 0);
            let without = without.map(|backend| format!("backend `{}` has no healthy endpoint", backend.name));
            let reason = if failed_over.is_empty() { ConditionReason::Healthy } else { ConditionReason::FailedOver };
            Finding::yes(
                reason,
                lines([counts].into_iter().chain(failing).chain(failed_over).chain(without).chain(warnings)),
            )
        }
    }
}

/// Failovers to endpoints of a higher priority number, a sentence for each route.
fn failed_over(input: &StatusInput) -> Vec<String> {
    let sentence = |(FailedOver { backends, priority }, pods): (&FailedOver, String)| {
        let backends: Vec<String> = backends.iter().map(|name| format!("`{name}`")).collect();
        let route = if backends.is_empty() { String::new() } else { format!(" to {}", backends.join(", ")) };
        format!("failed over{pods}: connections{route} go to backends of priority {priority}")
    };
    input.reported_by_pods(|served| &served.failed_over).map(sentence).collect()
}

/// True if replicas without a usable endpoint are only waiting for the first checks.
fn is_being_checked(input: &StatusInput) -> bool {
    let has =
        |served: &Served, count: fn(&BackendHealth) -> u32| served.backends.values().any(|health| count(health) > 0);
    let mut unusable = input.served().filter(|(_, served)| !has(served, |health| health.usable)).peekable();
    unusable.peek().is_some() && unusable.all(|(_, served)| has(served, |health| health.unchecked))
}

/// The backends without a usable endpoint. `None`: there are none.
fn refusing(input: &StatusInput) -> Option<String> {
    let refuses = |served: &Served| served.backends.values().all(|health| health.usable == 0);
    let refusing: Vec<&str> = input.served().filter(|(_, served)| refuses(served)).map(|(pod, _)| &**pod).collect();
    (!refusing.is_empty()).then(|| input.on_pods(&refusing))
}
