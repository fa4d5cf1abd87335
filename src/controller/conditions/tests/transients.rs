//! Transient states, which the controller or the cluster is about to leave.

use kube::runtime::events::EventType;
use proptest::prelude::*;

use super::*;
use crate::controller::events::transitions;

/// A report of a replica about a valid object that it does not serve fully yet. `None`: the replica has not answered
/// yet.
fn on_the_way() -> impl Strategy<Value = Option<Served>> {
    let unopened = || Served { listeners: BTreeMap::new(), ..served() };
    let older = || Served { generation: GENERATION - 1, ..served() };
    let unchecked = || BackendHealth { unchecked: 2, ..health(3, 0) };
    prop_oneof![
        Just(None),
        Just(Some(Served::default())),
        Just(Some(older())),
        Just(Some(unopened())),
        Just(Some(Served { backends: BTreeMap::from([("postgres".into(), unchecked())]), ..served() })),
        Just(Some(Served { backends: BTreeMap::new(), ..served() })),
        Just(Some(served())),
    ]
}

/// References that do not exist yet just after the object was created.
fn missing() -> impl Strategy<Value = Vec<Problem>> {
    let references = [Reason::RefNotFound, Reason::InvalidCertificateRef];
    let endpoints = [Reason::NoEndpoints, Reason::EndpointsPending, Reason::EndpointsNotReady];
    let references = references.map(|reason| problem(Severity::Refused, reason, "spec.x", "it does not exist"));
    let endpoints = endpoints.map(|reason| problem(Severity::Warning, reason, "spec.backends[0]", "it has none"));
    proptest::sample::subsequence([references.as_slice(), endpoints.as_slice()].concat(), 0..=5)
}

fn kept_on_the_way() -> impl Strategy<Value = Option<Value>> {
    let with = |spec: Value| service(json!({"type": "ClusterIP", "clusterIPs": ["10.96.0.7"]}).merged(spec));
    let mut balancer = with(json!({"type": "LoadBalancer"}));
    balancer["metadata"]["creationTimestamp"] = "2025-12-31T23:59:00Z".into();
    let mut terminating = with(json!({}));
    terminating["metadata"]["deletionTimestamp"] = "2025-12-31T23:59:00Z".into();
    prop_oneof![
        Just(None),
        Just(Some(with(json!({"ports": []})))),
        Just(Some(with(json!({"ports": [{"port": 5432, "targetPort": TARGET + 1}]})))),
        Just(Some(terminating)),
        Just(Some(balancer)),
        Just(Some(with(json!({})))),
    ]
}

trait Merged {
    fn merged(self, other: Value) -> Value;
}

impl Merged for Value {
    fn merged(mut self, other: Value) -> Value {
        self.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
        self
    }
}

proptest! {
    #[test]
    fn a_valid_object_gets_no_warning_on_its_way_to_being_served(
        reports in proptest::collection::vec(on_the_way(), 0..4),
        service in kept_on_the_way(),
        problems in missing(),
    ) {
        let pods = ["a", "b", "c"];
        let served = pods.into_iter().zip(reports).collect();
        let status = Case { served, service, problems, ..Case::default() }.first_status();
        let events = transitions(&[], &status.conditions);
        let warnings = events.iter().filter(|event| matches!(event.type_, EventType::Warning));
        let warnings: Vec<_> = warnings.map(|event| (&event.reason, &event.note)).collect();
        prop_assert!(warnings.is_empty(), "{warnings:?}");
        let stalled = status.conditions.iter().any(|condition| condition.type_ == "Stalled");
        prop_assert!(!stalled);
    }
}

#[test]
fn a_port_that_one_replica_has_yet_to_open_is_pending_and_a_failed_one_is_a_fault() {
    let unopened = Served { listeners: BTreeMap::new(), ..served() };
    let mut case = Case { served: vec![("a", Some(served())), ("b", Some(unopened))], ..Case::default() };
    case.expect(PROGRAMMED, "False/Pending", "pod b has not opened its port yet");
    case.problems = vec![problem(Severity::Refused, Reason::Invalid, "spec.listeners[0]", "it is wrong")];
    case.expect(PROGRAMMED, "False/PartiallyBound", "pod b does not serve it");
}

#[test]
fn a_service_being_deleted_is_reported_with_its_finalizers() {
    let mut leaving = Case::default();
    let service = leaving.service.as_mut().unwrap();
    service["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    leaving.expect(PROGRAMMED, "False/ServiceTerminating", "is being deleted; a new one is created once it is gone");
    leaving.service.as_mut().unwrap()["metadata"]["finalizers"] =
        json!(["service.kubernetes.io/load-balancer-cleanup"]);
    let part = "blocked by its finalizers: service.kubernetes.io/load-balancer-cleanup";
    leaving.expect(PROGRAMMED, "False/ServiceTerminating", part);
    let status = leaving.status();
    assert!(status.addresses.is_empty(), "those of the Service end with it: {:?}", status.addresses);
    assert_eq!(state_of(&status.listeners[0].conditions, PROGRAMMED).0, "False/ServiceTerminating");
}

#[test]
fn an_external_address_may_take_two_minutes_also_where_the_type_changes() {
    let balancer = || Some(service(json!({"type": "LoadBalancer"})));
    for before in [None, Some(Case::default().status())] {
        let mut case = Case { service: balancer(), before, ..Case::default() };
        case.service.as_mut().unwrap()["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z".into();
        for (second, expected) in [(0, "False/Pending"), (119, "False/Pending"), (120, "False/AddressNotAssigned")] {
            case.now = NOW + jiff::SignedDuration::from_secs(second);
            let status = case.first_status();
            assert_eq!(state_of(&status.conditions, PROGRAMMED).0, expected, "after {second} s");
            case.before = Some(status);
        }
    }
}

#[test]
fn first_checks_are_waited_for() {
    let with = |unchecked, usable| with_health(BackendHealth { unchecked, ..health(3, usable) });
    for (on_a, on_b, expected) in [
        (with(3, 0), with(0, 3), "Unknown/Pending"),
        (with(3, 0), with(1, 0), "Unknown/Pending"),
        (with(3, 0), with(0, 0), "False/Unhealthy"),
        (with(2, 1), with(2, 1), "True/Healthy"),
    ] {
        let case = Case { served: vec![("a", on_a), ("b", on_b)], ..Case::default() };
        case.expect(BACKENDS_HEALTHY, expected, "");
    }
}

#[test]
fn endpoints_that_connections_fail_to_reach_are_not_healthy() {
    let with = |failing| with_health(BackendHealth { failing, ..health(3, 3) });
    let status = |on_a, on_b| Case { served: vec![("a", with(on_a)), ("b", with(on_b))], ..Case::default() };
    let all = status(3, 0);
    all.expect(
        BACKENDS_HEALTHY,
        "False/ConnectionsFail",
        "0 of 3 endpoints are healthy: connections to 3 of them fail",
    );
    let summary = all.status().summary.unwrap();
    assert_eq!((summary.ready.as_deref(), summary.status.as_deref()), (Some("0/3"), Some("ConnectionsFail")));
    assert_eq!(all.status().backends[0].failing, Some(3));
    let one = status(0, 1);
    one.expect(BACKENDS_HEALTHY, "True/Healthy", "2 of 3 endpoints are healthy\nconnections to 1 of them fail");
    status(0, 0).expect(BACKENDS_HEALTHY, "True/Healthy", "3 of 3 endpoints are healthy");
}
