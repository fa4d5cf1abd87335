use std::collections::BTreeMap;

use imbl::OrdMap;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::{
    controller::{Replica, services},
    model::{ReplicaReport, Served},
    shared::first_mut,
    translate::{Part, Problem, Severity, Verdicts},
    world::{Allocation, Declared, World},
};

fn db() -> ObjectKey {
    ObjectKey::new("shop", "db")
}

/// A cluster with one load balancer, `shop/db`, whose listener 1 has port 20001, 2 has 20002 and so on.
struct Fixture {
    observed: Observed,
    allocations: Allocations,
    replicas: Replicas,
    gone: BTreeMap<(ObjectKey, Arc<str>), Replacement>,
    start: Instant,
    memory: PlanMemory,
}

impl Fixture {
    fn new(listeners: &[u16], service: Value) -> Self {
        let mut fixture = Self {
            observed: Observed::default(),
            allocations: Allocations::default(),
            replicas: Replicas::new(),
            gone: BTreeMap::new(),
            start: Instant::now(),
            memory: PlanMemory::default(),
        };
        fixture.declare("u1", listeners, service);
        fixture
    }

    fn declare(&mut self, uid: &str, listeners: &[u16], service: Value) {
        let listeners: Vec<Value> =
            listeners.iter().map(|port| json!({"name": format!("l{port}"), "port": port})).collect();
        let spec = json!({"listeners": listeners, "service": service, "backends": []});
        let identity = ObjectIdentity { created: Timestamp::UNIX_EPOCH, uid: uid.into(), generation: 1 };
        let declared = Declared {
            spec: Some(Arc::new(serde_json::from_value(spec).unwrap())),
            problems: vec![],
            without_value: Vec::new(),
            origin: "cluster".into(),
            folder: Default::default(),
            identity: Some(identity),
            status: None,
        };
        self.world(|world| world.load_balancers = OrdMap::unit(db(), declared));
        self.observed.verdicts = Arc::new(Verdicts::unit(db(), Verdict::default()));
        for port in 1..10 {
            let allocation = Allocation { uid: uid.into(), port, object: "shop/db".into(), freed: None };
            self.allocations.0.insert(20000 + port, allocation);
        }
    }

    fn world(&mut self, change: impl FnOnce(&mut World)) {
        let mut world = World::clone(&self.observed.world);
        change(&mut world);
        self.observed.world = Arc::new(world);
    }

    fn refused(mut self, reason: Reason, part: Part) -> Self {
        let (field, message) = (part.to_string(), String::new());
        let problem = Problem { severity: Severity::Refused, reason, part, field, message };
        let verdict = Verdict { problems: vec![problem], ..Verdict::default() };
        self.observed.verdicts = Arc::new(Verdicts::unit(db(), verdict));
        self
    }

    /// A replica with the allocated ports of these listeners bound. `None`: the replica has not answered.
    fn replica(mut self, pod: &str, bound: Option<&[u16]>) -> Self {
        let report = bound.map(|bound| {
            let listeners = bound.iter().map(|port| (*port, ListenerOutcome::Bound(20000 + port))).collect();
            let served = Served { listeners, ..Served::default() };
            Arc::new(ReplicaReport { load_balancers: OrdMap::unit("u1".into(), served.into()) })
        });
        self.replicas.insert(pod.into(), Replica { address: "127.0.0.1:1".parse().unwrap(), report });
        self
    }

    /// Adds the up-to-date Service for `listeners` and `service`.
    fn with_service(mut self, uid: &str, listeners: &[u16], service: Value) -> Self {
        let all: Vec<Value> = listeners.iter().map(|port| json!({"name": format!("l{port}"), "port": port})).collect();
        let spec = serde_json::from_value(json!({"listeners": all, "service": service, "backends": []})).unwrap();
        let ports = listeners.iter().map(|port| (*port, 20000 + port)).collect();
        let service = services::wanted(
            &ExposedLoadBalancer { key: &db(), uid, spec: &spec },
            &ports,
            &[],
            &Settings::of_a_gateway(),
        );
        let key = ObjectKey::new("lb", service.metadata.name.as_deref().unwrap());
        self.world(|world| world.services = OrdMap::unit(key, service.into()));
        self
    }

    fn edited(mut self, edit: impl FnOnce(&mut Service)) -> Self {
        self.world(|world| edit(Arc::make_mut(&mut *first_mut(&mut world.services))));
        self
    }

    fn without_object(mut self) -> Self {
        self.world(|world| world.load_balancers.clear());
        self
    }

    fn gone(mut self, uid: &str, replacement: Replacement) -> Self {
        self.gone.insert((db(), uid.into()), replacement);
        self
    }

    fn plan_after(&mut self, seconds: u64) -> ServicePlan {
        let settings = Settings::of_a_gateway();
        let input = PlanInput {
            objects: &objects(&self.observed, &settings),
            managed: &services::managed(&self.observed.world, &settings),
            replicas: &self.replicas,
            allocations: &self.allocations,
            gone: &self.gone,
            owners: &[],
            settings: &settings,
            now: self.start + Duration::from_secs(seconds),
        };
        plan(&input, &mut self.memory)
    }

    fn plan(mut self) -> ServicePlan {
        self.plan_after(0)
    }

    /// The desired ports of the Service. `None`: nothing is written.
    fn ports_after(&mut self, seconds: u64) -> Option<Vec<i32>> {
        let plan = self.plan_after(seconds);
        assert!(plan.remove.is_empty());
        let service = plan.apply.into_values().next()?;
        Some(service.spec?.ports?.iter().map(|port| port.port).collect())
    }

    fn ports(mut self) -> Option<Vec<i32>> {
        self.ports_after(0)
    }
}

fn removal() -> ServicePlan {
    ServicePlan { remove: BTreeSet::from([db()]), ..ServicePlan::default() }
}

#[test]
fn a_port_is_admitted_once_every_ready_replica_has_bound_it() {
    let fixture = || Fixture::new(&[1, 2], json!({}));
    assert_eq!(fixture().ports(), None, "nobody is ready");
    assert_eq!(fixture().replica("a", Some(&[1])).ports(), Some(vec![1]));
    assert_eq!(fixture().replica("a", Some(&[1, 2])).replica("b", Some(&[2])).ports(), Some(vec![2]));
    assert_eq!(fixture().replica("a", Some(&[1, 2])).replica("b", None).ports(), None, "one has not answered");
}

#[test]
fn a_port_bound_anywhere_is_admitted_after_five_seconds() {
    let mut fixture = Fixture::new(&[1, 2], json!({})).replica("a", Some(&[1])).replica("b", Some(&[]));
    let plan = fixture.plan_after(0);
    assert_eq!(plan.wake, Some(fixture.start + NEW_PORT_TIMEOUT));
    assert_eq!(fixture.ports_after(4), None);
    assert_eq!(fixture.ports_after(5), Some(vec![1]), "the other is bound nowhere");
    assert_eq!(fixture.plan_after(6).wake, None);
}

#[test]
fn a_port_bound_elsewhere_than_allocated_is_not_admitted() {
    let mut fixture = Fixture::new(&[1], json!({})).replica("a", Some(&[1]));
    fixture.allocations = Allocations::default();
    let allocation = Allocation { uid: "u1".into(), port: 1, object: "shop/db".into(), freed: None };
    fixture.allocations.0.insert(20009, allocation);
    assert_eq!(fixture.ports_after(60), None);
}

#[test]
fn a_port_stays_while_it_is_declared_and_leaves_when_it_is_not() {
    let fixture = Fixture::new(&[1, 2], json!({})).with_service("u1", &[1, 2], json!({}));
    assert_eq!(fixture.plan(), ServicePlan::default(), "no replica binds its port, and yet it stays");
    let fixture = Fixture::new(&[2], json!({})).with_service("u1", &[1, 2], json!({}));
    assert_eq!(fixture.ports(), Some(vec![2]));
    let mut fixture = Fixture::new(&[3], json!({})).with_service("u1", &[1], json!({}));
    assert_eq!(fixture.ports_after(0), None, "the old one stays until the new one is there");
    assert_eq!(fixture.replica("a", Some(&[3])).ports(), Some(vec![3]));
}

#[test]
fn a_service_is_removed_only_once_its_object_is_known_to_be_gone() {
    let fixture = || Fixture::new(&[1], json!({})).with_service("u1", &[1], json!({})).without_object();
    assert_eq!(fixture().plan(), ServicePlan::default());
    assert_eq!(fixture().gone("u1", Replacement::Another).plan(), ServicePlan::default(), "who will adopt it");
    assert_eq!(fixture().gone("u1", Replacement::Absent).plan(), removal());
    assert_eq!(fixture().gone("u0", Replacement::Absent).plan(), ServicePlan::default(), "that was an older one");
    let leaving = |service: &mut Service| {
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH);
        service.metadata.deletion_timestamp = Some(now);
    };
    assert_eq!(fixture().gone("u1", Replacement::Absent).edited(leaving).plan(), ServicePlan::default(), "it is going");
}

#[test]
fn a_recreated_object_adopts_the_service_with_its_own_ports() {
    let mut fixture = Fixture::new(&[1], json!({})).with_service("u1", &[1], json!({}));
    fixture.allocations = Allocations::default();
    fixture.declare("u2", &[1], json!({}));
    let service = fixture.plan_after(0).apply.remove(&db()).unwrap();
    assert_eq!(service.metadata.annotations.unwrap()["tcplb.io/uid"], "u2");
}

#[test]
fn a_refused_service_change_keeps_the_present_service() {
    for (reason, part) in [
        (Reason::NotPermitted, Part::Service),
        (Reason::NotPermitted, Part::NodePort(0)),
        (Reason::Invalid, Part::Service),
    ] {
        let wanted = json!({"type": "LoadBalancer"});
        let fixture = || Fixture::new(&[1, 2], wanted.clone()).replica("a", Some(&[1, 2])).refused(reason, part);
        assert_eq!(fixture().plan(), ServicePlan::default(), "{part}: it gets none");
        assert_eq!(fixture().with_service("u1", &[1], json!({})).plan(), ServicePlan::default(), "{part}");
        let inherited = || fixture().with_service("u0", &[1], wanted.clone());
        assert_eq!(inherited().plan(), ServicePlan::default(), "{part}: not known yet");
        assert_eq!(inherited().gone("u0", Replacement::Another).plan(), removal(), "{part}: not its own");
    }
    let elsewhere = Fixture::new(&[1], json!({})).replica("a", Some(&[1]));
    assert_eq!(elsewhere.refused(Reason::NotPermitted, Part::Backend(0)).ports(), Some(vec![1]));
}

#[test]
fn exposure_changes_only_with_valid_rules_about_clients() {
    let fixture = |part| {
        let fixture = Fixture::new(&[1, 2], json!({"type": "NodePort"})).replica("a", Some(&[1, 2]));
        fixture.refused(Reason::Invalid, part)
    };
    for part in [Part::ClientRule(0), Part::LoadBalancing] {
        assert_eq!(fixture(part).with_service("u1", &[1], json!({})).plan(), ServicePlan::default(), "{part}");
        assert_eq!(fixture(part).with_service("u1", &[1], json!({"type": "NodePort"})).ports(), Some(vec![1, 2]));
    }
    for part in [Part::ListenerTls(0), Part::Listener(0)] {
        assert_eq!(fixture(part).with_service("u1", &[1], json!({})).ports(), Some(vec![1, 2]), "{part}");
    }
}

#[test]
fn an_unreadable_object_keeps_its_service() {
    let mut fixture =
        Fixture::new(&[1], json!({})).with_service("u0", &[1], json!({})).gone("u0", Replacement::Another);
    fixture.world(|world| world.load_balancers.get_mut(&db()).unwrap().spec = None);
    assert_eq!(fixture.plan(), ServicePlan::default());
}

#[test]
fn a_service_with_an_immutable_change_is_recreated() {
    let class = |name: &str| json!({"type": "LoadBalancer", "loadBalancerClass": name});
    let fixture = Fixture::new(&[1], class("a.example/x")).with_service("u1", &[1], class("b.example/x"));
    assert_eq!(fixture.plan(), removal());
}

#[test]
fn listeners_beyond_a_quota_get_no_port() {
    let barred = |reason, part| {
        let fixture = Fixture::new(&[7, 8, 9], json!({})).refused(reason, part);
        Vec::from_iter(objects(&fixture.observed, &Settings::of_a_gateway())[0].claim().barred)
    };
    assert_eq!(barred(Reason::NotPermitted, Part::Object), [7, 8, 9]);
    assert_eq!(barred(Reason::NotPermitted, Part::WholeListener(1)), [8]);
    for (reason, part) in [
        (Reason::NotPermitted, Part::Service),
        (Reason::NotPermitted, Part::NodePort(0)),
        (Reason::NotPermitted, Part::Listener(0)),
        (Reason::NotPermitted, Part::Backend(0)),
        (Reason::Invalid, Part::Object),
    ] {
        assert!(barred(reason, part).is_empty(), "{part}");
    }
}

#[test]
fn objects_of_another_class_or_placement_are_ignored() {
    let mut fixture = Fixture::new(&[1], json!({})).replica("a", Some(&[1]));
    for change in [json!({"className": "other"}), json!({"placement": "Host"})] {
        let mut spec = json!({"listeners": [{"port": 1}], "backends": []});
        spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let spec = Some(Arc::new(serde_json::from_value(spec).unwrap()));
        fixture.world(|world| world.load_balancers.get_mut(&db()).unwrap().spec = spec);
        assert_eq!(fixture.plan_after(0), ServicePlan::default());
    }
}
