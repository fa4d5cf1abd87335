//! The conditions that Helm, Flux, Argo CD and `kubectl wait` read.

use super::*;
use crate::api::crd;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KStatus {
    Terminating,
    InProgress,
    Failed,
    Current,
}

/// The rules of kstatus for kinds that it does not know: `Compute` of sigs.k8s.io/cli-utils/pkg/kstatus/status.
fn kstatus(object: &Value) -> KStatus {
    let (metadata, status) = (&object["metadata"], &object["status"]);
    if metadata["deletionTimestamp"].is_string() {
        return KStatus::Terminating;
    }
    if status["observedGeneration"].is_i64() && status["observedGeneration"] != metadata["generation"] {
        return KStatus::InProgress;
    }
    for condition in conditions(status) {
        match (condition["type"].as_str(), condition["status"].as_str()) {
            (Some("Reconciling"), Some("True")) => return KStatus::InProgress,
            (Some("Stalled"), Some("True")) => return KStatus::Failed,
            _ => {}
        }
    }
    let ready = conditions(status).iter().find(|condition| condition["type"] == "Ready");
    match ready.and_then(|ready| ready["status"].as_str()) {
        Some("False" | "Unknown") => KStatus::InProgress,
        _ => KStatus::Current,
    }
}

/// The rules of `kubectl wait --for=condition=Ready`: k8s.io/kubectl/pkg/cmd/wait.
fn kubectl_wait_ends(object: &Value) -> bool {
    let (generation, status) = (&object["metadata"]["generation"], &object["status"]);
    let ready = conditions(status).iter().find(|condition| condition["type"] == "Ready");
    ready.is_some_and(|ready| {
        let own = Some(&ready["observedGeneration"]).filter(|observed| observed.is_i64());
        let observed = own.unwrap_or(&status["observedGeneration"]).as_i64();
        observed.is_none_or(|observed| observed >= generation.as_i64().unwrap()) && ready["status"] == "True"
    })
}

fn conditions(status: &Value) -> &[Value] {
    status["conditions"].as_array().map_or(&[], Vec::as_slice)
}

fn object(generation: i64, status: &TcpLoadBalancerStatus) -> Value {
    json!({"metadata": {"generation": generation}, "status": status})
}

#[test]
fn a_new_object_is_in_progress_before_a_controller_has_seen_it() {
    let crd = serde_json::to_value(crd()).unwrap();
    let status = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"];
    let new = json!({"metadata": {"generation": 1}, "status": status["default"]});
    assert_eq!(kstatus(&new), KStatus::InProgress);
    assert!(!kubectl_wait_ends(&new));
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
        assert_eq!(state_of(&status.conditions, "Ready").0, ready);
        let (now, changed) = (object(GENERATION, &status), object(GENERATION + 1, &status));
        assert_eq!(kstatus(&now), expected, "{ready}");
        assert_eq!(kubectl_wait_ends(&now), expected == KStatus::Current, "{ready}");
        assert_eq!(kstatus(&changed), KStatus::InProgress, "{ready}, and changed since");
        assert!(!kubectl_wait_ends(&changed), "{ready}, and changed since");
        let mut deleted = now.clone();
        deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert_eq!(kstatus(&deleted), KStatus::Terminating, "{ready}, and deleted");
        let mut reversed = now.clone();
        reversed["status"]["conditions"].as_array_mut().unwrap().reverse();
        assert_eq!(kstatus(&reversed), expected, "{ready}: the order of the conditions has no effect");
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
        assert_eq!(state_of(&status.conditions, "Ready").0.starts_with("True"), ready);
        assert_eq!(status.summary.unwrap().status.as_deref() == Some("Programmed"), ready);
    }
}
