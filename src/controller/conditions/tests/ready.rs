//! What Helm, Flux, Argo CD and `kubectl wait` read.

use super::*;
use crate::api::crd;

#[derive(Debug, PartialEq, Eq)]
enum KStatus {
    Current,
    InProgress,
    Failed,
}

/// The rules of kstatus (sigs.k8s.io/cli-utils) for kinds that it does not know.
fn kstatus(generation: i64, status: &TcpLoadBalancerStatus) -> KStatus {
    let is = |type_: &str, value: &str| {
        status.conditions.iter().any(|condition| condition.type_ == type_ && condition.status == value)
    };
    if status.observed_generation.is_some_and(|observed| observed != generation) || is("Reconciling", "True") {
        return KStatus::InProgress;
    }
    if is("Stalled", "True") {
        return KStatus::Failed;
    }
    let not_ready = ["False", "Unknown"].iter().any(|value| is("Ready", value));
    if not_ready { KStatus::InProgress } else { KStatus::Current }
}

#[test]
fn a_new_object_is_in_progress_before_a_controller_has_seen_it() {
    let crd = serde_json::to_value(crd()).unwrap();
    let status = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"];
    let new: TcpLoadBalancerStatus = serde_json::from_value(status["default"].clone()).unwrap();
    assert_eq!(kstatus(1, &new), KStatus::InProgress);
}

#[test]
fn kstatus_and_ready_follow_the_other_conditions() {
    let refused = |reason| Case {
        problems: vec![problem(Severity::Refused, reason, "spec.x", "it is wrong")],
        ..Case::default()
    };
    let mut sidecar = Case { served: Vec::new(), service: None, ..Case::default() };
    sidecar.spec.as_mut().unwrap()["placement"] = "Sidecar".into();
    let unhealthy = Case { served: vec![("a", with_health(health(3, 0)))], ..Case::default() };
    let behind = Case { served: vec![("a", Some(Served { generation: 3, ..served() }))], ..Case::default() };
    for (case, ready, expected) in [
        (Case::default(), "True/Ready", KStatus::Current),
        (sidecar, "True/ServedInPods", KStatus::Current),
        (refused(Reason::Invalid), "False/Invalid", KStatus::Failed),
        (refused(Reason::NotPermitted), "False/NotPermitted", KStatus::Failed),
        (refused(Reason::PortConflict), "False/PortConflict", KStatus::InProgress),
        (refused(Reason::RefNotFound), "False/RefNotFound", KStatus::InProgress),
        (behind, "False/Pending", KStatus::InProgress),
        (unhealthy, "False/Unhealthy", KStatus::InProgress),
    ] {
        let status = case.status();
        assert_eq!(said(&status.conditions, "Ready").0, ready);
        assert_eq!(kstatus(GENERATION, &status), expected, "{ready}");
        assert_eq!(kstatus(GENERATION + 1, &status), KStatus::InProgress, "{ready}, and changed since");
    }
}

#[test]
fn ready_repeats_the_first_fault_with_its_condition() {
    let case = Case { served: vec![("a", with_health(health(3, 0)))], ..Case::default() };
    case.expect("Ready", "False/Unhealthy", "BackendsHealthy: 0 of 3 endpoints are healthy");
    assert!(!case.has("Reconciling") && !case.has("Stalled"), "present only while they are true");
    let waiting = Case { service: None, ..Case::default() };
    waiting.expect("Reconciling", "True/Pending", "Programmed: its Service does not exist yet");
    let invalid = vec![problem(Severity::Refused, Reason::Invalid, "spec.x", "it is wrong")];
    Case { problems: invalid, ..Case::default() }.expect("Stalled", "True/Invalid", "Accepted: spec.x: it is wrong");
}

#[test]
fn status_is_programmed_exactly_while_it_is_ready() {
    let cluster = Some(service(json!({"type": "NodePort", "externalTrafficPolicy": "Cluster"})));
    for (case, ready) in
        [(Case { service: cluster, ..Case::default() }, true), (Case { service: None, ..Case::default() }, false)]
    {
        let status = case.status();
        assert_eq!(said(&status.conditions, "Ready").0.starts_with("True"), ready);
        assert_eq!(status.summary.unwrap().status.as_deref() == Some("Programmed"), ready);
    }
}
