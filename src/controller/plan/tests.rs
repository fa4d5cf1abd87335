use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::{
    controller::Replica,
    model::{ReplicaReport, Served},
    translate::{Problem, Severity, Verdicts},
    world::{Allocation, Declared, World},
};

fn db() -> ObjectKey {
    ObjectKey::new("shop", "db")
}

/// A cluster with one load balancer, `shop/db`, whose listener 1 has port 20001, 2 has 20002 and so on.
struct Scene {
    observed: Observed,
    allocations: Allocations,
    replicas: Replicas,
    gone: BTreeMap<(ObjectKey, Arc<str>), Successor>,
    start: Instant,
    waiting: Waiting,
}

impl Scene {
    fn new(listeners: &[u16], service: Value) -> Self {
        let mut scene = Self {
            observed: Observed::default(),
            allocations: Allocations::default(),
            replicas: Replicas::new(),
            gone: BTreeMap::new(),
            start: Instant::now(),
            waiting: Waiting::new(),
        };
        scene.declare("u1", listeners, service);
        scene
    }

    fn declare(&mut self, uid: &str, listeners: &[u16], service: Value) {
        let listeners: Vec<Value> =
            listeners.iter().map(|port| json!({"name": format!("l{port}"), "port": port})).collect();
        let spec = json!({"listeners": listeners, "service": service, "backends": []});
        let identity = Identity { created: Timestamp::UNIX_EPOCH, uid: uid.into(), generation: 1 };
        let declared = Declared {
            spec: Some(Arc::new(serde_json::from_value(spec).unwrap())),
            problems: vec![],
            origin: "cluster".into(),
            folder: Default::default(),
            identity: Some(identity),
            status: None,
        };
        self.world(|world| world.load_balancers = BTreeMap::from([(db(), declared)]));
        self.observed.verdicts = Arc::new(Verdicts::from([(db(), Verdict::default())]));
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

    fn refused(mut self, reason: Reason, field: &str) -> Self {
        let problem = Problem { severity: Severity::Refused, reason, field: field.into(), message: String::new() };
        let verdict = Verdict { problems: vec![problem], ..Verdict::default() };
        self.observed.verdicts = Arc::new(Verdicts::from([(db(), verdict)]));
        self
    }

    /// A replica that has these listeners bound where they are allocated. `None`: it has not answered.
    fn replica(mut self, pod: &str, bound: Option<&[u16]>) -> Self {
        let report = bound.map(|bound| {
            let listeners = bound.iter().map(|port| (*port, ListenerOutcome::Bound(20000 + port))).collect();
            let served = Served { listeners, ..Served::default() };
            Arc::new(ReplicaReport { load_balancers: BTreeMap::from([("u1".into(), served)]) })
        });
        self.replicas.insert(pod.into(), Replica { address: "127.0.0.1:1".parse().unwrap(), report });
        self
    }

    /// The Service is there, as it is wanted of `listeners` made of `service`.
    fn with_service(mut self, uid: &str, listeners: &[u16], service: Value) -> Self {
        let all: Vec<Value> = listeners.iter().map(|port| json!({"name": format!("l{port}"), "port": port})).collect();
        let spec = serde_json::from_value(json!({"listeners": all, "service": service, "backends": []})).unwrap();
        let ports = listeners.iter().map(|port| (*port, 20000 + port)).collect();
        let service = services::wanted(&db(), uid, &spec, &ports, &[], &Settings::of_a_gateway());
        let key = ObjectKey::new("lb", service.metadata.name.as_deref().unwrap());
        self.world(|world| world.services = BTreeMap::from([(key, Arc::new(service))]));
        self
    }

    fn edited(mut self, edit: impl FnOnce(&mut Service)) -> Self {
        self.world(|world| edit(Arc::make_mut(world.services.values_mut().next().unwrap())));
        self
    }

    fn without_object(mut self) -> Self {
        self.world(|world| world.load_balancers.clear());
        self
    }

    fn gone(mut self, uid: &str, successor: Successor) -> Self {
        self.gone.insert((db(), uid.into()), successor);
        self
    }

    fn plan_after(&mut self, seconds: u64) -> Plan {
        let settings = Settings::of_a_gateway();
        let situation = Situation {
            objects: &objects(&self.observed, &settings),
            kept: &services::kept(&self.observed.world, &settings),
            replicas: &self.replicas,
            allocations: &self.allocations,
            gone: &self.gone,
            owners: &[],
            settings: &settings,
            now: self.start + Duration::from_secs(seconds),
        };
        plan(&situation, &mut self.waiting)
    }

    fn plan(mut self) -> Plan {
        self.plan_after(0)
    }

    /// The ports that its Service is to have. `None`: nothing is to be written.
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

fn removal() -> Plan {
    Plan { remove: BTreeSet::from([db()]), ..Plan::default() }
}

#[test]
fn a_port_enters_when_every_ready_replica_has_it_bound() {
    let scene = || Scene::new(&[1, 2], json!({}));
    assert_eq!(scene().ports(), None, "nobody is ready");
    assert_eq!(scene().replica("a", Some(&[1])).ports(), Some(vec![1]));
    assert_eq!(scene().replica("a", Some(&[1, 2])).replica("b", Some(&[2])).ports(), Some(vec![2]));
    assert_eq!(scene().replica("a", Some(&[1, 2])).replica("b", None).ports(), None, "one has not answered");
}

#[test]
fn after_five_seconds_a_port_enters_that_is_bound_anywhere() {
    let mut scene = Scene::new(&[1, 2], json!({})).replica("a", Some(&[1])).replica("b", Some(&[]));
    let plan = scene.plan_after(0);
    assert_eq!(plan.wake, Some(scene.start + PATIENCE));
    assert_eq!(scene.ports_after(4), None);
    assert_eq!(scene.ports_after(5), Some(vec![1]), "the other is bound nowhere");
    assert_eq!(scene.plan_after(6).wake, None);
}

#[test]
fn a_port_that_is_bound_elsewhere_than_allocated_does_not_enter() {
    let mut scene = Scene::new(&[1], json!({})).replica("a", Some(&[1]));
    scene.allocations = Allocations::default();
    let allocation = Allocation { uid: "u1".into(), port: 1, object: "shop/db".into(), freed: None };
    scene.allocations.0.insert(20009, allocation);
    assert_eq!(scene.ports_after(60), None);
}

#[test]
fn a_port_stays_while_it_is_declared_and_leaves_when_it_is_not() {
    let scene = Scene::new(&[1, 2], json!({})).with_service("u1", &[1, 2], json!({}));
    assert_eq!(scene.plan(), Plan::default(), "bound by nobody, and yet it stays");
    let scene = Scene::new(&[2], json!({})).with_service("u1", &[1, 2], json!({}));
    assert_eq!(scene.ports(), Some(vec![2]));
    let mut scene = Scene::new(&[3], json!({})).with_service("u1", &[1], json!({}));
    assert_eq!(scene.ports_after(0), None, "the old one stays until the new one is there");
    assert_eq!(scene.replica("a", Some(&[3])).ports(), Some(vec![3]));
}

#[test]
fn a_service_goes_only_when_it_is_known_that_its_object_is_gone() {
    let scene = || Scene::new(&[1], json!({})).with_service("u1", &[1], json!({})).without_object();
    assert_eq!(scene().plan(), Plan::default());
    assert_eq!(scene().gone("u1", Successor::Another).plan(), Plan::default(), "who will adopt it");
    assert_eq!(scene().gone("u1", Successor::Nobody).plan(), removal());
    assert_eq!(scene().gone("u0", Successor::Nobody).plan(), Plan::default(), "that was an older one");
    let leaving = |service: &mut Service| {
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH);
        service.metadata.deletion_timestamp = Some(now);
    };
    assert_eq!(scene().gone("u1", Successor::Nobody).edited(leaving).plan(), Plan::default(), "it is going");
}

#[test]
fn a_recreated_object_adopts_the_service_with_its_own_ports() {
    let mut scene = Scene::new(&[1], json!({})).with_service("u1", &[1], json!({}));
    scene.allocations = Allocations::default();
    scene.declare("u2", &[1], json!({}));
    let service = scene.plan_after(0).apply.remove(&db()).unwrap();
    assert_eq!(service.metadata.annotations.unwrap()["tcplb.io/uid"], "u2");
}

#[test]
fn who_may_not_have_what_it_wants_keeps_what_it_had_itself() {
    for (reason, field) in [
        (Reason::NotPermitted, "spec.service.type"),
        (Reason::NotPermitted, "spec.service.annotations"),
        (Reason::NotPermitted, "spec.listeners[0].nodePort"),
        (Reason::Invalid, "spec.service.labels"),
    ] {
        let wanted = json!({"type": "LoadBalancer"});
        let scene = || Scene::new(&[1, 2], wanted.clone()).replica("a", Some(&[1, 2])).refused(reason, field);
        assert_eq!(scene().plan(), Plan::default(), "{field}: it gets none");
        assert_eq!(scene().with_service("u1", &[1], json!({})).plan(), Plan::default(), "{field}");
        let inherited = || scene().with_service("u0", &[1], wanted.clone());
        assert_eq!(inherited().plan(), Plan::default(), "{field}: not known yet");
        assert_eq!(inherited().gone("u0", Successor::Another).plan(), removal(), "{field}: not its own");
    }
    let elsewhere = Scene::new(&[1], json!({})).replica("a", Some(&[1]));
    assert_eq!(elsewhere.refused(Reason::NotPermitted, "spec.backends[0]").ports(), Some(vec![1]));
}

#[test]
fn other_clients_are_let_in_only_with_rules_that_hold_for_them() {
    let scene = |field| {
        let scene = Scene::new(&[1, 2], json!({"type": "NodePort"})).replica("a", Some(&[1, 2]));
        scene.refused(Reason::Invalid, field)
    };
    let about_clients = [
        "spec.listeners[0].access.allow[3]",
        "spec.listeners[0].limits.maxConnectionsPerSource",
        "spec.loadBalancing.algorithm",
    ];
    for field in about_clients {
        assert_eq!(scene(field).with_service("u1", &[1], json!({})).plan(), Plan::default(), "{field}");
        assert_eq!(scene(field).with_service("u1", &[1], json!({"type": "NodePort"})).ports(), Some(vec![1, 2]));
    }
    for field in ["spec.listeners[0].tls", "spec.listeners[0].limits.maxConnections"] {
        assert_eq!(scene(field).with_service("u1", &[1], json!({})).ports(), Some(vec![1, 2]), "{field}");
    }
}

#[test]
fn what_cannot_be_read_is_left_as_it_is() {
    let mut scene = Scene::new(&[1], json!({})).with_service("u0", &[1], json!({})).gone("u0", Successor::Another);
    scene.world(|world| world.load_balancers.get_mut(&db()).unwrap().spec = None);
    assert_eq!(scene.plan(), Plan::default());
}

#[test]
fn a_service_that_cannot_be_changed_is_made_anew() {
    let class = |name: &str| json!({"type": "LoadBalancer", "loadBalancerClass": name});
    let scene = Scene::new(&[1], class("a.example/x")).with_service("u1", &[1], class("b.example/x"));
    assert_eq!(scene.plan(), removal());
}

#[test]
fn what_is_beyond_a_cap_gets_no_port() {
    let barred = |reason, field| {
        let scene = Scene::new(&[7, 8, 9], json!({})).refused(reason, field);
        Vec::from_iter(objects(&scene.observed, &Settings::of_a_gateway())[0].claim().barred)
    };
    assert_eq!(barred(Reason::NotPermitted, ""), [7, 8, 9]);
    assert_eq!(barred(Reason::NotPermitted, "spec.listeners[1]"), [8]);
    for (reason, field) in [
        (Reason::NotPermitted, "spec.service.type"),
        (Reason::NotPermitted, "spec.listeners[0].nodePort"),
        (Reason::NotPermitted, "spec.backends[0].addresses[0]"),
        (Reason::Invalid, ""),
    ] {
        assert!(barred(reason, field).is_empty(), "{field}");
    }
}

#[test]
fn objects_of_another_class_or_placement_are_nobodys_business() {
    let mut scene = Scene::new(&[1], json!({})).replica("a", Some(&[1]));
    for change in [json!({"className": "other"}), json!({"placement": "Host"})] {
        let mut spec = json!({"listeners": [{"port": 1}], "backends": []});
        spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let spec = Some(Arc::new(serde_json::from_value(spec).unwrap()));
        scene.world(|world| world.load_balancers.get_mut(&db()).unwrap().spec = spec);
        assert_eq!(scene.plan_after(0), Plan::default());
    }
}
