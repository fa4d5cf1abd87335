mod deferral;
mod ready;
mod reasons;
mod transients;

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::{
    api::core::v1::Service,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use serde_json::{Value, json};

use super::{
    super::{AdminToken, Observed, Replica, Replicas, observed},
    finding::LONGEST_MESSAGE,
    *,
};
use crate::{
    model::{BackendHealth, EndpointFailure, FailedOver, ListenerOutcome, ReplicaReport, Served},
    translate::{Part, Problem, Reason, Severity, Verdict},
    world::{Declared, ObjectIdentity, World, managed_service},
};

const NOW: Timestamp = Timestamp::constant(1_767_225_600, 0);
const UID: &str = "uid";
/// The generation of the declaration.
const GENERATION: i64 = 4;
const TARGET: u16 = 20001;

/// The load balancer `shop/db`, served by two replicas at port 5432 without faults.
#[derive(Clone)]
struct Case {
    placement: Placement,
    spec: Option<Value>,
    problems: Vec<Problem>,
    served: Vec<(&'static str, Option<Served>)>,
    service: Option<Value>,
    problem: Option<observed::ProvisioningProblem>,
    /// True if the Service of the replicas exists.
    replicas_are_listed: bool,
    before: Option<TcpLoadBalancerStatus>,
    now: Timestamp,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            placement: Placement::Gateway,
            spec: Some(json!({
                "listeners": [{"name": "sql", "port": 5432}],
                "backends": [{"service": {"name": "postgres", "port": 5432}}],
            })),
            problems: Vec::new(),
            served: vec![("a", Some(served())), ("b", Some(served()))],
            service: Some(service(json!({"type": "ClusterIP", "clusterIPs": ["10.96.0.7"]}))),
            problem: None,
            replicas_are_listed: true,
            before: None,
            now: NOW,
        }
    }
}

fn served() -> Served {
    Served {
        generation: GENERATION,
        whole: Some(GENERATION),
        listeners: BTreeMap::from([(5432, ListenerOutcome::Bound(TARGET))]),
        backends: BTreeMap::from([("postgres".into(), health(3, 3))]),
        here: BTreeSet::new(),
        failed_over: BTreeSet::new(),
        certificates: BTreeMap::new(),
        certificates_for_backends: BTreeMap::new(),
    }
}

fn health(endpoints: u32, usable: u32) -> BackendHealth {
    BackendHealth { endpoints, usable, ..BackendHealth::default() }
}

/// The managed Service, with its port and these fields of its spec.
fn service(spec: Value) -> Value {
    let object = ObjectKey::new("shop", "db");
    let mut service = json!({
        "metadata": {
            "name": managed_service::name(&object),
            "namespace": "tcplb",
            "labels": {"app.kubernetes.io/managed-by": "tcplb", "tcplb.io/class": "tcplb"},
            "annotations": {"tcplb.io/owner": object.to_string(), "tcplb.io/uid": UID},
        },
        "spec": {"ports": [{"name": "sql", "port": 5432, "targetPort": TARGET}]},
    });
    service["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    service
}

/// A problem whose part does not matter.
fn problem(severity: Severity, reason: Reason, field: &str, message: &str) -> Problem {
    Problem { severity, reason, part: Part::Connect, field: field.into(), message: message.into() }
}

impl Case {
    fn settings(&self) -> Settings {
        Settings {
            class: "tcplb".into(),
            placement: self.placement,
            namespace: "tcplb".into(),
            pod: "a".into(),
            replicas: ObjectKey::new("tcplb", "replicas"),
            lease: "tcplb".into(),
            allocations: "ports".into(),
            anchor: None,
            workload: None,
            selector: BTreeMap::new(),
            ports: 20000..=24999,
            cluster_domain: "cluster.local".into(),
            admin_token: AdminToken::default(),
            instruments: Arc::default(),
        }
    }

    fn observed(&self, object: &ObjectKey) -> Observed {
        let identity = ObjectIdentity { created: Timestamp::UNIX_EPOCH, uid: UID.into(), generation: GENERATION };
        let declared = Declared {
            spec: self.spec.clone().map(|spec| Arc::new(serde_json::from_value(spec).unwrap())),
            problems: Vec::new(),
            without_value: Vec::new(),
            origin: "cluster".into(),
            folder: "".into(),
            identity: Some(identity.clone()),
            status: self.before.clone().map(Arc::new),
        };
        let mut world = World::default();
        if self.replicas_are_listed {
            world.services.insert(self.settings().replicas, Service::default().into());
        }
        world.load_balancers.insert(object.clone(), declared);
        if let Some(service) = &self.service {
            let key = ObjectKey::new("tcplb", &managed_service::name(object));
            world.services.insert(key, serde_json::from_value::<Service>(service.clone()).unwrap().into());
        }
        let verdict = Verdict { origin: "cluster".into(), identity: Some(identity), problems: self.problems.clone() };
        Observed {
            world: Arc::new(world),
            verdicts: Arc::new(crate::translate::Verdicts::unit(object.clone(), verdict)),
        }
    }

    fn replicas(&self) -> Replicas {
        let replica = |(index, (pod, served)): (usize, &(&str, Option<Served>))| {
            let report = served.clone().map(|served| {
                // A replica that reports and does not know the load balancer yet.
                let is_reported = served != Served::default();
                let load_balancers = is_reported.then_some((UID, served)).into_iter().collect();
                Arc::new(ReplicaReport { load_balancers })
            });
            let address = format!("10.99.0.{}:9900", index + 2).parse().unwrap();
            (Arc::from(*pod), Replica { address, report })
        };
        self.served.iter().enumerate().map(replica).collect()
    }

    fn statuses(&self) -> Statuses {
        let object = ObjectKey::new("shop", "db");
        let problems = self.problem.clone().map(|problem| (object.clone(), problem)).into_iter().collect();
        let (observed, replicas, problems) = (self.observed(&object), Arc::new(self.replicas()), Arc::new(problems));
        let mut statuses = Statuses::default();
        statuses.update(StatusSources { observed, replicas, problems }, &self.settings(), self.now);
        statuses
    }

    /// The status of a new object, or of an object with the status `before`.
    fn first_status(&self) -> TcpLoadBalancerStatus {
        let statuses = self.statuses();
        let status = statuses.all().values().next().expect("it has a status");
        steady((***status).clone(), self.before.as_ref())
    }

    /// The status of an object that has been in this state for an hour, unless it has a status `before`.
    fn status(&self) -> TcpLoadBalancerStatus {
        let before = self.before.clone().unwrap_or_else(|| {
            let hour = jiff::SignedDuration::from_hours(1);
            Self { now: self.now - hour, ..self.clone() }.first_status()
        });
        Self { before: Some(before), ..self.clone() }.first_status()
    }

    /// `status/reason` of a condition, and its message.
    fn condition(&self, type_: &str) -> (String, String) {
        state_of(&self.status().conditions, type_)
    }

    fn has(&self, type_: &str) -> bool {
        self.status().conditions.iter().any(|condition| condition.type_ == type_)
    }

    #[track_caller]
    fn expect(&self, type_: &str, expected: &str, part: &str) {
        let (said, message) = self.condition(type_);
        assert_eq!(said, expected, "{message}");
        assert!(message.contains(part), "{message}");
    }
}

fn state_of(conditions: &[Condition], type_: &str) -> (String, String) {
    let condition = conditions.iter().find(|condition| condition.type_ == type_).expect("it is said");
    (format!("{}/{}", condition.status, condition.reason), condition.message.clone())
}

#[test]
fn a_served_object_has_good_conditions() {
    let status = Case::default().status();
    let conditions: Vec<String> = status
        .conditions
        .iter()
        .map(|condition| format!("{} {}/{}", condition.type_, condition.status, condition.reason))
        .collect();
    assert_eq!(
        conditions,
        [
            "Ready True/Ready",
            "Accepted True/Accepted",
            "ResolvedRefs True/ResolvedRefs",
            "Programmed True/Programmed",
            "BackendsHealthy True/Healthy",
            "ClientAddressPreserved True/DirectConnections",
        ]
    );
    assert!(status.conditions.iter().all(|condition| condition.observed_generation == Some(GENERATION)));
    assert_eq!(status.observed_generation, Some(GENERATION));
    let summary = Summary {
        ports: Some("5432".into()),
        address: Some("10.96.0.7".into()),
        ready: Some("3/3".into()),
        status: Some("Programmed".into()),
    };
    assert_eq!(status.summary, Some(summary));
    let addresses: Vec<&str> = status.addresses.iter().map(|address| &*address.value).collect();
    let name = managed_service::name(&ObjectKey::new("shop", "db"));
    assert_eq!(addresses, ["10.96.0.7", &format!("{name}.tcplb.svc.cluster.local")]);
    let listener = &status.listeners[0];
    assert_eq!((listener.port, listener.name.as_deref(), listener.bound_port), (5432, Some("sql"), Some(TARGET)));
    assert_eq!(state_of(&listener.conditions, PROGRAMMED).0, "True/Programmed");
}

#[test]
fn a_refused_declaration_names_the_last_fully_applied_generation() {
    let refused = |reason, field: &str| vec![problem(Severity::Refused, reason, field, "it is wrong")];
    for (reason, expected) in [
        (Reason::Invalid, "False/Invalid"),
        (Reason::NotPermitted, "False/NotPermitted"),
        (Reason::PortConflict, "False/PortConflict"),
    ] {
        let case = Case { problems: refused(reason, "spec.x"), ..Case::default() };
        case.expect(ACCEPTED, expected, "spec.x: it is wrong");
        case.expect(RESOLVED_REFS, "True/ResolvedRefs", "");
        assert_eq!(case.status().summary.unwrap().status.as_deref(), expected.strip_prefix("False/"));
    }
    let older = Served { whole: Some(3), ..served() };
    let mut case = Case { problems: refused(Reason::Invalid, ""), ..Case::default() };
    case.served = vec![("a", Some(older.clone())), ("b", Some(older))];
    case.expect(ACCEPTED, "False/Invalid", "last fully applied generation: 3");
    case.served[0].1 = Some(Served { whole: None, ..served() });
    assert!(!case.condition(ACCEPTED).1.contains("generation"), "one replica has started since");
}

#[test]
fn problems_of_references_are_separate_from_others() {
    for (reason, expected) in
        [(Reason::RefNotFound, "False/RefNotFound"), (Reason::InvalidCertificateRef, "False/InvalidCertificateRef")]
    {
        let problems = vec![problem(Severity::Refused, reason, "spec.x", "it does not exist")];
        let case = Case { problems, ..Case::default() };
        case.expect(RESOLVED_REFS, expected, "spec.x: it does not exist");
        case.expect(ACCEPTED, "True/Accepted", "");
    }
    let problems = vec![problem(Severity::Warning, Reason::NameNotResolved, "spec.x", "`db` cannot be resolved")];
    Case { problems, ..Case::default() }.expect(RESOLVED_REFS, "True/ResolvedRefs", "`db` cannot be resolved");
}

#[test]
fn programmed_waits_for_every_ready_replica() {
    let older = Served { generation: 3, ..served() };
    let newer = Served { generation: 5, ..served() };
    for (other, expected, part) in [
        (None, "False/Pending", "pod b does not report"),
        (Some(Served::default()), "False/Pending", "pod b does not serve it yet"),
        (Some(older), "False/Pending", "pod b still serves generation 3"),
        (Some(newer), "True/Programmed", ""),
    ] {
        let case = Case { served: vec![("a", Some(served())), ("b", other)], ..Case::default() };
        case.expect(PROGRAMMED, expected, part);
    }
    Case { served: Vec::new(), ..Case::default() }.expect(PROGRAMMED, "False/Pending", "no replica is ready");
}

#[test]
fn without_the_service_of_the_replicas_they_are_unknown_and_it_is_named() {
    let case = Case { served: Vec::new(), replicas_are_listed: false, ..Case::default() };
    case.expect(PROGRAMMED, "Unknown/ReplicasUnknown", "Service tcplb/replicas does not exist");
    // Replicas that were known before are still queried.
    Case { replicas_are_listed: false, ..Case::default() }.expect(PROGRAMMED, "True/Programmed", "");
}

#[test]
fn a_listener_that_is_not_bound_everywhere_says_where_and_why() {
    let failed = || {
        let sentence = "port 20001 is in use on :: by another process".to_owned();
        Served { listeners: BTreeMap::from([(5432, ListenerOutcome::Failed(sentence))]), ..served() }
    };
    let case = Case { served: vec![("a", Some(served())), ("b", Some(failed()))], ..Case::default() };
    case.expect(PROGRAMMED, "False/PartiallyBound", "pod b: port 20001 is in use");
    assert_eq!(state_of(&case.status().listeners[0].conditions, PROGRAMMED).0, "False/PartiallyBound");
    assert_eq!(case.status().summary.unwrap().status.as_deref(), Some("PartiallyBound"));
    let case = Case { served: vec![("a", Some(failed())), ("b", Some(failed()))], ..Case::default() };
    case.expect(PROGRAMMED, "False/PortUnavailable", "pod a: port 20001 is in use");

    let unserved = || Some(Served { listeners: BTreeMap::new(), ..served() });
    let mut case = Case { served: vec![("a", unserved()), ("b", unserved())], ..Case::default() };
    case.expect(PROGRAMMED, "False/Pending", "pod a has not opened its port yet");
    let unallocated = problem(Severity::Warning, Reason::Pending, "spec.listeners[0].port", "waiting for a proxy port");
    case.problems = vec![Problem { part: Part::Listener(0), ..unallocated }];
    case.expect(PROGRAMMED, "False/Pending", "waiting for a proxy port");
    case.problems = vec![problem(Severity::Refused, Reason::Invalid, "spec.listeners[0]", "it is wrong")];
    case.expect(PROGRAMMED, "False/Invalid", "see the conditions Accepted and ResolvedRefs");
}

#[test]
fn one_wrong_listener_of_two_is_named() {
    let mut case = Case::default();
    case.spec.as_mut().unwrap()["listeners"] = json!([{"name": "sql", "port": 5432}, {"name": "admin", "port": 9}]);
    case.problems = vec![problem(Severity::Refused, Reason::Invalid, "spec.listeners[1]", "it is wrong")];
    case.expect(PROGRAMMED, "False/Invalid", "listener 9: it is not served");
    let status = case.status();
    assert_eq!(state_of(&status.listeners[0].conditions, PROGRAMMED).0, "True/Programmed");
    assert_eq!(status.summary.unwrap().ports.as_deref(), Some("5432,9"));
}

#[test]
fn the_service_must_send_connections_to_where_they_are_served() {
    let mut case = Case { service: None, ..Case::default() };
    case.expect(PROGRAMMED, "False/Pending", "its Service does not exist yet");
    let refused = problem(Severity::Refused, Reason::NotPermitted, "spec.service.type", "it is not allowed");
    case.problems = vec![Problem { part: Part::Service, ..refused }];
    case.expect(PROGRAMMED, "False/Invalid", "see the condition Accepted");

    let ports = |ports: Value| service(json!({"type": "ClusterIP", "clusterIPs": ["10.96.0.7"], "ports": ports}));
    let case = Case { service: Some(ports(json!([{"port": 1, "targetPort": 20000}]))), ..Case::default() };
    case.expect(PROGRAMMED, "False/Pending", "does not have the port yet");
    let case = Case { service: Some(ports(json!([{"port": 5432, "targetPort": 20002}]))), ..Case::default() };
    case.expect(PROGRAMMED, "False/Pending", "pod a does not serve port 20002");
    let problem = observed::ProvisioningProblem::ServiceNotWritten("Service tcplb/x cannot be written: quota".into());
    let case = Case { problem: Some(problem), ..Case::default() };
    case.expect(PROGRAMMED, "False/ServiceNotWritten", "quota");
}

#[test]
fn a_listener_without_a_port_takes_nothing_from_the_others() {
    let (listeners, sentence) = (BTreeSet::from([9]), "there is none".to_owned());
    let problems = [
        (
            observed::ProvisioningProblem::NoFreePort { listeners: listeners.clone(), sentence: sentence.clone() },
            "NoFreePort",
        ),
        (observed::ProvisioningProblem::AllocationFailed { listeners, sentence }, "AllocationFailed"),
    ];
    for (problem, reason) in problems {
        let mut case = Case { problem: Some(problem), ..Case::default() };
        case.spec.as_mut().unwrap()["listeners"] = json!([{"name": "sql", "port": 5432}, {"name": "admin", "port": 9}]);
        let expected = format!("False/{reason}");
        case.expect(PROGRAMMED, &expected, "listener 9: there is none");
        let status = case.status();
        assert_eq!(state_of(&status.listeners[0].conditions, PROGRAMMED).0, "True/Programmed");
        assert_eq!(state_of(&status.listeners[1].conditions, PROGRAMMED).0, expected);

        // Without a replica that serves the load balancer, the reason is still reported.
        case.served = Vec::new();
        case.expect(PROGRAMMED, &expected, "there is none");
    }
}

#[test]
fn external_addresses_come_first_and_are_waited_for() {
    let balancer = |spec: Value, ingress: Value| {
        let mut service = service(json!({"type": "LoadBalancer", "clusterIPs": ["10.96.0.7", "fd00::7"]}));
        service["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        service["status"] = json!({"loadBalancer": {"ingress": ingress}});
        service
    };
    let case = Case { service: Some(balancer(json!({}), json!([]))), ..Case::default() };
    case.expect(PROGRAMMED, "False/AddressNotAssigned", "no external address yet");
    let ports = json!({"ports": [{"port": 5432, "targetPort": TARGET, "nodePort": 31234}]});
    let ingress = json!([{"ip": "203.0.113.9"}, {"hostname": "lb.example.com"}]);
    let case = Case { service: Some(balancer(ports, ingress)), ..Case::default() };
    case.expect(PROGRAMMED, "True/Programmed", "");
    let status = case.status();
    let addresses: Vec<_> = status.addresses.iter().map(|address| (address.type_, &*address.value)).collect();
    let expected = [
        (crate::api::AddressType::IpAddress, "203.0.113.9"),
        (crate::api::AddressType::Hostname, "lb.example.com"),
        (crate::api::AddressType::IpAddress, "10.96.0.7"),
        (crate::api::AddressType::IpAddress, "fd00::7"),
    ];
    assert_eq!(addresses[..4], expected);
    assert_eq!(status.listeners[0].node_port, Some(31234));
    let summary = status.summary.unwrap();
    assert_eq!((summary.ports.as_deref(), summary.address.as_deref()), (Some("5432:31234"), Some("203.0.113.9")));
}

#[test]
fn endpoints_count_as_healthy_when_every_replica_can_use_them() {
    let with = |endpoints, usable| with_health(health(endpoints, usable));
    for (one, other, expected, part, ready) in [
        (with(5, 3), with(5, 4), "True/Healthy", "3 of 5 endpoints are healthy", "3/5"),
        (with(5, 0), with(5, 4), "False/Unhealthy", "0 of 5", "0/5"),
        (with(4, 4), with(5, 5), "True/Healthy", "4 of 5", "4/5"),
    ] {
        let case = Case { served: vec![("a", one), ("b", other), ("silent", None)], ..Case::default() };
        case.expect(BACKENDS_HEALTHY, expected, part);
        assert_eq!(case.status().summary.unwrap().ready.as_deref(), Some(ready));
    }
    let none = || Some(Served { backends: BTreeMap::new(), ..served() });
    let problems = vec![problem(
        Severity::Warning,
        Reason::NoEndpoints,
        "spec.backends[0]",
        "Service shop/postgres has no ready endpoint",
    )];
    let case = Case { served: vec![("a", none()), ("b", none())], problems, ..Case::default() };
    case.expect(BACKENDS_HEALTHY, "False/NoEndpoints", "Service shop/postgres has no ready endpoint");
    assert_eq!(case.status().backends[0].name, "postgres");
    Case { served: vec![("a", None)], ..Case::default() }.expect(BACKENDS_HEALTHY, "Unknown/Pending", "no replica");
}

#[test]
fn a_problem_of_one_replica_names_its_pod() {
    let lost = || Some(Served { here: ["has no effect".to_owned()].into(), ..served() });
    for (on_a, on_b, sentence) in [
        (Some(served()), Some(served()), "the declaration is valid"),
        (Some(served()), lost(), "on pod b: has no effect"),
        (lost(), lost(), "has no effect"),
    ] {
        // A problem of the leader's own place is reported with its report as a replica.
        let problems = vec![problem(Severity::Warning, Reason::UnknownPlace, "spec.x", "has no effect here")];
        let case = Case { served: vec![("a", on_a), ("b", on_b)], problems, ..Case::default() };
        assert_eq!(case.condition(ACCEPTED), ("True/Accepted".into(), sentence.into()));
    }
}

#[test]
fn failover_to_another_priority_is_reported_with_its_pods() {
    let failed_over = |backends: &[&str], priority| {
        let backends = backends.iter().map(ToString::to_string).collect();
        Some(Served { failed_over: [FailedOver { backends, priority }].into(), ..served() })
    };
    let (all, route) = (failed_over(&[], 3), failed_over(&["eu", "spare"], 1));
    let well = Some(served());
    for (on_a, on_b, expected, part) in [
        (&well, &well, "True/Healthy", "3 of 3 endpoints are healthy"),
        (&all, &all, "True/FailedOver", "failed over: connections go to backends of priority 3"),
        (&well, &all, "True/FailedOver", "failed over on pod b: connections go to backends of priority 3"),
        (&route, &route, "True/FailedOver", "failed over: connections to `eu`, `spare` go to backends of priority 1"),
        (&all, &route, "True/FailedOver", "failed over on pod a: connections go to backends of priority 3"),
        (&all, &route, "True/FailedOver", "failed over on pod b: connections to `eu`, `spare` go to"),
    ] {
        let served = vec![("a", on_a.clone()), ("b", on_b.clone()), ("silent", None)];
        Case { served, ..Case::default() }.expect(BACKENDS_HEALTHY, expected, part);
    }
}

#[test]
fn connections_are_refused_only_where_no_endpoint_is_usable() {
    let with = |main, spare| {
        let backends = BTreeMap::from([("main".into(), health(1, main)), ("spare".into(), health(1, spare))]);
        Some(Served { backends, ..served() })
    };
    let spec = json!({"listeners": [{"name": "sql", "port": 5432}], "backends": [{"name": "main"}, {"name": "spare"}]});
    for (on_a, on_b, sentence) in [
        (with(0, 0), with(0, 0), "0 of 2 endpoints are healthy: connections are refused"),
        (with(0, 0), with(0, 1), "0 of 2 endpoints are healthy: connections are refused on pod a"),
        (with(1, 0), with(0, 1), "none of 2 endpoints is healthy on all pods: each pod uses different ones"),
    ] {
        let case = Case { spec: Some(spec.clone()), served: vec![("a", on_a), ("b", on_b)], ..Case::default() };
        let (said, message) = case.condition(BACKENDS_HEALTHY);
        assert_eq!((&*said, &*message), ("False/Unhealthy", sentence));
    }
}

/// The state in a replica whose only backend has this health.
fn with_health(health: BackendHealth) -> Option<Served> {
    Some(Served { backends: BTreeMap::from([("postgres".into(), health)]), ..served() })
}

#[test]
fn standby_endpoints_are_counted() {
    let with = |standby| with_health(BackendHealth { standby, ..health(3, 3) });
    for (standby, expected) in [([0, 0], None), ([0, 2], Some(2))] {
        let served = vec![("a", with(standby[0])), ("b", with(standby[1]))];
        assert_eq!(Case { served, ..Case::default() }.status().backends[0].standby, expected);
    }
}

#[test]
fn draining_connections_are_summed_up() {
    let with = |draining| with_health(BackendHealth { draining, ..health(3, 3) });
    for (draining, expected) in [([0, 0], None), ([3, 2], Some(5))] {
        let served = vec![("a", with(draining[0])), ("b", with(draining[1]))];
        assert_eq!(Case { served, ..Case::default() }.status().backends[0].draining, expected);
    }
}

#[test]
fn the_latest_failure_of_all_replicas_is_reported() {
    let with = |second, reason: &str| {
        let time = Timestamp::from_second(second).unwrap();
        let failure = EndpointFailure { endpoint: "10.1.2.3:5432".into(), reason: reason.into(), time };
        let health = BackendHealth { last_failure: Some(failure.into()), ..health(1, 0) };
        with_health(health)
    };
    let case = Case { served: vec![("a", with(20, "refused")), ("b", with(10, "timed out"))], ..Case::default() };
    let failure = case.status().backends[0].last_failure.clone().unwrap();
    assert_eq!((&*failure.reason, &*failure.time), ("refused", "1970-01-01T00:00:20Z"));
    case.expect(BACKENDS_HEALTHY, "False/Unhealthy", "10.1.2.3:5432: refused");
}

#[test]
fn the_certificate_that_expires_first_is_reported() {
    let mut tls = Case::default();
    tls.spec.as_mut().unwrap()["listeners"][0]["tls"] = json!({"certificateRefs": [{"name": "pg-tls"}]});
    let presenting = |days: i64| {
        let until = NOW + jiff::SignedDuration::from_hours(days * 24);
        let certificates = BTreeMap::from([("Secret shop/pg-tls".to_owned(), until)]);
        Some(Served { certificates, ..served() })
    };
    for (days, expected, part) in [
        (100, "True/Valid", "the certificate of Secret shop/pg-tls is valid until 2026-04-11T00:00:00Z"),
        (13, "True/ExpiresSoon", "replace it before then"),
        (-1, "False/CertificateExpired", "expired on 2025-12-31"),
    ] {
        tls.served = vec![("a", presenting(days)), ("b", presenting(200))];
        tls.expect(CERTIFICATES_VALID, expected, part);
    }
    tls.served = vec![("a", Some(served())), ("b", Some(Served::default()))];
    tls.expect(CERTIFICATES_VALID, "Unknown/Pending", "");
    tls.served = vec![("a", Some(served()))];
    assert!(!tls.has(CERTIFICATES_VALID), "every replica knows of it, and none presents one");
    tls.problems =
        vec![problem(Severity::Refused, Reason::InvalidCertificateRef, "spec.listeners[0].tls", "there is none")];
    tls.expect(CERTIFICATES_VALID, "False/InvalidCertificateRef", "there is none");
    let mut passthrough = Case::default();
    passthrough.spec.as_mut().unwrap()["listeners"][0]["tls"] =
        json!({"mode": "Passthrough", "certificateRefs": [{"name": "pg-tls"}]});
    for mut without in [Case::default(), passthrough] {
        without.served.push(("b", Some(Served::default())));
        assert!(!without.has(CERTIFICATES_VALID));
    }
}

#[test]
fn certificates_presented_to_backends_are_reported() {
    let mut case = Case::default();
    case.spec.as_mut().unwrap()["backends"][0]["tls"] = json!({"certificateRef": {"name": "proxy"}});
    case.served.push(("c", Some(Served::default())));
    case.expect(CERTIFICATES_VALID, "Unknown/Pending", "");
    let shown = |days: i64| {
        let until = NOW + jiff::SignedDuration::from_hours(days * 24);
        let certificates_for_backends = BTreeMap::from([("Secret shop/proxy".to_owned(), until)]);
        Some(Served { certificates_for_backends, ..served() })
    };
    for (days, expected, part) in [
        (13, "True/ExpiresSoon", "the certificate of Secret shop/proxy, presented to backends, is valid until"),
        (-1, "False/CertificateExpired", "the certificate of Secret shop/proxy, presented to backends, expired on"),
    ] {
        case.served = vec![("a", shown(days)), ("b", shown(200))];
        case.expect(CERTIFICATES_VALID, expected, part);
    }
    case.problems = vec![problem(
        Severity::Warning,
        Reason::CertificateExpired,
        "spec.backends[0].tls.certificateRef",
        "it expired",
    )];
    case.expect(CERTIFICATES_VALID, "False/CertificateExpired", "spec.backends[0].tls.certificateRef: it expired");
    case.served = vec![("a", Some(served()))];
    case.expect(CERTIFICATES_VALID, "False/CertificateExpired", "it expired");
}

#[test]
fn an_expired_authority_is_reported_and_does_not_affect_ready() {
    let field = "spec.listeners[0].tls.clientValidation.caRefs[0]";
    let expired = problem(Severity::Warning, Reason::AuthorityExpired, field, "the authority CN=old expired");
    let case = Case { problems: vec![expired], ..Case::default() };
    case.expect(RESOLVED_REFS, "True/ResolvedRefs", "the authority CN=old expired");
    case.expect(super::types::READY, "True/Ready", "");
    assert!(!case.has(CERTIFICATES_VALID));
}

#[test]
fn the_client_address_depends_on_the_path_of_clients() {
    let through = |type_: &str, policy: &str| Some(service(json!({"type": type_, "externalTrafficPolicy": policy})));
    let asked = |type_: &str| Some(json!({"listeners": [{"port": 5432}], "backends": [], "service": {"type": type_}}));
    let preserved = |case: Case| case.condition(CLIENT_ADDRESS_PRESERVED).0;
    for (service, expected) in [
        (through("NodePort", "Cluster"), "False/ClusterTrafficPolicy"),
        (through("NodePort", "Local"), "True/LocalTrafficPolicy"),
        (through("LoadBalancer", "Local"), "True/LocalTrafficPolicy"),
        (through("LoadBalancer", "Cluster"), "False/ClusterTrafficPolicy"),
    ] {
        assert_eq!(preserved(Case { service, ..Case::default() }), expected);
    }
    for (type_, expected) in [
        ("NodePort", "False/ClusterTrafficPolicy"),
        ("LoadBalancer", "True/LocalTrafficPolicy"),
        ("ClusterIP", "True/DirectConnections"),
    ] {
        assert_eq!(preserved(Case { service: None, spec: asked(type_), ..Case::default() }), expected);
    }
    let mut proxied = Case { service: through("NodePort", "Cluster"), ..Case::default() };
    proxied.spec.as_mut().unwrap()["listeners"][0]["proxyProtocol"] =
        json!({"mode": "Required", "trustedNetworks": ["10.0.0.0/8"]});
    assert_eq!(preserved(proxied), "True/ProxyProtocol");
    let case = Case::default().status();
    assert_eq!(case.summary.unwrap().status.as_deref(), Some("Programmed"), "nothing of it is wrong");
}

#[test]
fn placement_host_has_no_service_and_the_addresses_of_the_nodes() {
    let mut case = Case { placement: Placement::Host, service: None, ..Case::default() };
    case.spec.as_mut().unwrap()["placement"] = "Host".into();
    case.expect(PROGRAMMED, "True/Programmed", "");
    let addresses: Vec<String> = case.status().addresses.into_iter().map(|address| address.value).collect();
    assert_eq!(addresses, ["10.99.0.2", "10.99.0.3"]);
}

#[test]
fn the_status_of_sidecars_has_only_what_is_known_here() {
    let mut case = Case { served: Vec::new(), service: None, ..Case::default() };
    case.spec.as_mut().unwrap()["placement"] = "Sidecar".into();
    let status = case.status();
    let types: Vec<&str> = status.conditions.iter().map(|condition| &*condition.type_).collect();
    assert_eq!(types, ["Ready", ACCEPTED, RESOLVED_REFS, PROGRAMMED]);
    case.expect("Ready", "True/ServedInPods", "");
    case.expect(PROGRAMMED, "Unknown/ServedInPods", "");
    assert!(status.listeners.is_empty() && status.backends.is_empty());
    let summary = status.summary.unwrap();
    assert_eq!(
        (summary.ports.as_deref(), summary.status.as_deref(), summary.ready),
        (Some("5432"), Some("ServedInPods"), None)
    );
}

#[test]
fn objects_of_other_classes_and_placements_get_no_status() {
    let object = ObjectKey::new("shop", "db");
    let none = |case: &Case, observed: &Observed| {
        let sources = StatusSources { observed: observed.clone(), ..StatusSources::default() };
        let mut statuses = Statuses::default();
        statuses.update(sources, &case.settings(), NOW);
        statuses.all().is_empty()
    };
    for (field, value) in [("className", "another"), ("placement", "Host")] {
        let mut case = Case::default();
        case.spec.as_mut().unwrap()[field] = value.into();
        assert!(none(&case, &case.observed(&object)), "{field}");
    }
}

#[test]
fn an_object_that_was_never_readable_is_reported() {
    let problems = vec![problem(Severity::Refused, Reason::Invalid, "", "spec.listeners: missing; it is not served")];
    let nothing = || Some(Served { listeners: BTreeMap::new(), backends: BTreeMap::new(), ..served() });
    let case = Case { spec: None, service: None, problems, served: vec![("a", nothing())], ..Case::default() };
    case.expect(ACCEPTED, "False/Invalid", "spec.listeners: missing");
    case.expect(PROGRAMMED, "False/Invalid", "");
}

#[test]
fn conditions_keep_their_time_while_their_status_is_the_same() {
    let mut before = Case::default().status();
    let earlier = Time(Timestamp::from_second(1_000).unwrap());
    for condition in before.conditions.iter_mut().chain(&mut before.listeners[0].conditions) {
        condition.last_transition_time = earlier.clone();
        condition.observed_generation = Some(1);
    }
    let mut case = Case { before: Some(before), ..Case::default() };
    case.served[1].1 = None;
    let status = case.status();
    for condition in status.conditions.iter().chain(&status.listeners[0].conditions) {
        let kept = condition.last_transition_time == earlier;
        let changed = [PROGRAMMED, "Ready", "Reconciling"].contains(&&*condition.type_);
        assert_eq!(kept, !changed, "{condition:?}");
        assert_eq!(condition.observed_generation, Some(GENERATION));
    }
}

#[test]
fn a_desired_status_that_the_object_has_takes_no_memory() {
    let object = ObjectKey::new("shop", "db");
    let case = Case { before: Some(Case::default().status()), ..Case::default() };
    let (observed, replicas) = (case.observed(&object), Arc::new(case.replicas()));
    let present = observed.world.load_balancers[&object].status.clone().unwrap();
    let mut statuses = Statuses::default();
    statuses.update(StatusSources { observed, replicas, ..StatusSources::default() }, &case.settings(), case.now);
    assert!(Arc::ptr_eq(&statuses.all()[&object], &present));
}

#[test]
fn a_lasting_failure_is_updated_seldom() {
    let with = |minute: i64, usable| {
        let time = Timestamp::from_second(minute * 60).unwrap();
        let failure = EndpointFailure { endpoint: "10.1.2.3:5432".into(), reason: format!("at {minute}"), time };
        let health = BackendHealth { last_failure: Some(failure.into()), ..health(2, usable) };
        with_health(health)
    };
    let reason = |case: &Case| case.status().backends[0].last_failure.clone().unwrap().reason;
    let mut case = Case { served: vec![("a", with(10, 1))], ..Case::default() };
    case.before = Some(case.status());
    for (minute, usable, expected) in [(11, 1, "at 10"), (16, 1, "at 16"), (11, 2, "at 11")] {
        case.served = vec![("a", with(minute, usable))];
        assert_eq!(reason(&case), expected);
    }
}

#[test]
fn long_messages_are_cut_between_characters() {
    let long = "ä".repeat(40_000);
    let named = |number: usize| problem(Severity::Refused, Reason::Invalid, "", &format!("{number}{long}"));
    let problems = (0..20).map(named).collect();
    let message = Case { problems, ..Case::default() }.condition(ACCEPTED).1;
    assert!(message.len() <= LONGEST_MESSAGE && message.contains("ä…ä"), "{}", message.len());
}

#[test]
fn external_text_is_escaped_and_bounded_in_conditions() {
    let forged = "a\nAll is well\x1b[2J\u{202e}";
    let foreign =
        problem(Severity::Refused, Reason::Invalid, "spec.a\nb", &format!("{forged}{}; kept", "x".repeat(1 << 20)));
    let message = Case { problems: vec![foreign], ..Case::default() }.condition(ACCEPTED).1;
    assert!(message.starts_with("spec.a\\nb: a\\nAll is well\\u{1b}[2J\\u{202e}xxx"), "{message}");
    assert!(message.ends_with("xxx; kept") && message.len() < 10_000 && !message.contains('\n'), "{}", message.len());
}
