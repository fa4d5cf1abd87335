//! Statuses and Events of load balancers.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex},
    time::Duration,
};

use hyper::{Method, Request};
use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use kube::{
    Api, Client, Config, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams},
    client::{Body, ClientBuilder},
};
use serde_json::{Value, json};
use tcplb::{
    api::{Placement, ServiceType, TcpLoadBalancer},
    controller::{AdminToken, Observed, Replica, Replicas, Settings, run_with},
    model::{BackendHealth, ListenerOutcome, ObjectKey, ReplicaReport, Served, Snapshot, UpstreamKey},
    source::{Cluster, Home, Scope},
    translate::{Verdicts, translate},
    world::{ProcessMode, Tenancy},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tower::util::MapRequestLayer;

use crate::harness;

const STATUS_WAIT_LIMIT: Duration = Duration::from_secs(30);
const CLASS: &str = "status";

/// The changes to the reports of load balancers, by name.
type Instead = BTreeMap<&'static str, fn(&mut Served)>;

/// A leader in its own namespace, with one replica that serves everything, unless a test changes its reports.
struct Rig {
    client: Client,
    namespace: &'static str,
    instead: Arc<Mutex<Instead>>,
    writes: Writes,
    stop: CancellationToken,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl Rig {
    async fn start(namespace: &'static str) -> Option<Self> {
        if !harness::has_test_cluster() {
            harness::skip(harness::NO_CLUSTER);
            return None;
        }
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = Client::try_default().await.unwrap();
        let mut crd = serde_json::to_value(tcplb::api::crd()).unwrap();
        (crd["apiVersion"], crd["kind"]) = ("apiextensions.k8s.io/v1".into(), "CustomResourceDefinition".into());
        apply(&client, crd).await;
        apply(&client, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})).await;
        let objects: Api<TcpLoadBalancer> = Api::namespaced(client.clone(), namespace);
        objects.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();

        let instead = Arc::default();
        let (observing, observed) = watch::channel(Observed::default());
        let (reporting, replicas) = watch::channel(Arc::default());
        let watching = follow(client.clone(), namespace, Arc::clone(&instead), observing, reporting);
        let watching = AbortOnDropHandle::new(tokio::spawn(watching));
        observed.clone().changed().await.unwrap();
        let stop = CancellationToken::new();
        let writes = Writes::default();
        let leading =
            run_with(writes.client().await, settings(namespace), observed, move || replicas.clone(), stop.clone());
        let leading = AbortOnDropHandle::new(tokio::spawn(leading));
        Some(Self { client, namespace, instead, writes, stop, _tasks: [watching, leading] })
    }

    fn objects(&self) -> Api<TcpLoadBalancer> {
        Api::namespaced(self.client.clone(), self.namespace)
    }

    async fn declare(&self, name: &str, spec: Value) {
        let mut object = json!({
            "apiVersion": "tcplb.io/v1alpha1",
            "kind": "TcpLoadBalancer",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"className": CLASS},
        });
        object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        apply(&self.client, object).await;
    }

    /// Waits until a condition has this status and reason.
    async fn until(&self, name: &str, type_: &str, expected: &str) -> TcpLoadBalancer {
        self.until_it(name, |object| said(object, type_) == expected).await
    }

    /// Waits until the status is about this generation.
    async fn until_observed(&self, name: &str, generation: i64) {
        let observed = |object: &TcpLoadBalancer| object.status.as_ref().and_then(|status| status.observed_generation);
        self.until_it(name, |object| observed(object) == Some(generation)).await;
    }

    async fn until_it(&self, name: &str, holds: impl Fn(&TcpLoadBalancer) -> bool) -> TcpLoadBalancer {
        let deadline = Instant::now() + STATUS_WAIT_LIMIT;
        loop {
            let object = self.objects().get(name).await.unwrap();
            if holds(&object) {
                return object;
            }
            assert!(Instant::now() < deadline, "{name} is not as expected: {:#?}", object.status);
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Changes a status by hand, and waits until it is corrected: at that time all load balancers have been reconciled.
    /// Returns the other writes since the last time.
    async fn put_right(&self, name: &str) -> Vec<String> {
        let by_hand = json!({"status": {"summary": {"status": "ByHand"}}});
        self.objects().patch_status(name, &PatchParams::default(), &Patch::Merge(&by_hand)).await.unwrap();
        let shown = |object: &TcpLoadBalancer| object.status.clone()?.summary?.status;
        self.until_it(name, |object| shown(object).is_some_and(|shown| shown == "Programmed")).await;
        let own = format!("/{name}/status");
        let (of_it, others): (Vec<_>, Vec<_>) = self.writes.take().into_iter().partition(|write| write.ends_with(&own));
        assert!(!of_it.is_empty(), "what is written is noted");
        others
    }

    async fn end(self) {
        let objects = self.objects();
        objects.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
        self.stop.cancel();
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(self.client.clone());
        let _ = namespaces.delete(self.namespace, &DeleteParams::default()).await;
    }
}

fn said(object: &TcpLoadBalancer, type_: &str) -> String {
    let conditions = object.status.iter().flat_map(|status| &status.conditions);
    let condition = conditions.clone().find(|condition| condition.type_ == type_);
    condition.map(|condition| format!("{}/{}", condition.status, condition.reason)).unwrap_or_default()
}

fn settings(namespace: &str) -> Settings {
    Settings {
        class: CLASS.into(),
        placement: Placement::Gateway,
        namespace: namespace.into(),
        pod: "pod-0".into(),
        replicas: ObjectKey::new(namespace, "replicas"),
        lease: "status".into(),
        allocations: "ports".into(),
        anchor: None,
        workload: None,
        selector: BTreeMap::from([("app".to_owned(), "none".to_owned())]),
        ports: 20000..=24999,
        cluster_domain: "cluster.local".into(),
        admin_token: AdminToken::default(),
        instruments: Arc::default(),
    }
}

async fn apply(client: &Client, object: Value) {
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    let types = object.types.clone().unwrap();
    let (group, version) = types.api_version.split_once('/').unwrap_or(("", &types.api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &types.kind));
    let api: Api<DynamicObject> = match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    api.patch(&object.name_any(), &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.unwrap();
}

/// Watches the cluster as replicas do, and publishes it after each change and every second.
async fn follow(
    client: Client,
    namespace: &str,
    instead: Arc<Mutex<Instead>>,
    observing: watch::Sender<Observed>,
    reporting: watch::Sender<Arc<Replicas>>,
) {
    let scope = Scope {
        class: Some(CLASS.into()),
        placement: Placement::Gateway,
        namespaces: Some([namespace.to_owned()].into()),
        only: None,
        home: Some(Home { namespace: namespace.into(), allocations: Some(("ports".into(), 20000..=24999)) }),
    };
    let tenancy = Tenancy {
        service_types: [ServiceType::ClusterIp].into(),
        backend_networks: ["10.0.0.0/8".parse().unwrap()].into_iter().collect(),
        namespace: namespace.into(),
        ..Tenancy::default()
    };
    let mut cluster =
        Cluster::start(client, scope, ProcessMode::Gateway(Arc::default(), Arc::new(tenancy)), Arc::default());
    cluster.synced(STATUS_WAIT_LIMIT).await;
    let mut last = Snapshot::default();
    loop {
        let world = Arc::new(cluster.world());
        let (snapshot, verdicts) = translate(&world, &last, Timestamp::now());
        last = snapshot;
        let report = report(&last, &verdicts, &instead.lock().unwrap());
        let address = "127.0.0.1:9".parse().unwrap();
        let replicas = BTreeMap::from([(Arc::from("pod-0"), Replica { address, report: Some(Arc::new(report)) })]);
        observing.send_replace(Observed { world, verdicts: Arc::new(verdicts) });
        reporting.send_replace(Arc::new(replicas));
        let _ = timeout(Duration::from_secs(1), cluster.changed()).await;
    }
}

fn report(snapshot: &Snapshot, verdicts: &Verdicts, instead: &Instead) -> ReplicaReport {
    let served = |(object, verdict): (&ObjectKey, &tcplb::translate::Verdict)| {
        let identity = verdict.identity.as_ref()?;
        let listeners = snapshot.listeners.range(object.listeners());
        let listeners = listeners.map(|(key, listener)| (key.port, ListenerOutcome::Bound(listener.bind.port())));
        let upstream = snapshot.upstreams.get(&UpstreamKey { object: object.clone() });
        let endpoints = upstream.map_or(0, |upstream| upstream.endpoints.len() as u32);
        let health = BackendHealth { endpoints, usable: endpoints, ..BackendHealth::default() };
        let mut served = Served {
            generation: identity.generation,
            listeners: listeners.collect(),
            backends: BTreeMap::from([("db".to_owned(), health)]),
            ..Served::default()
        };
        if let Some(change) = instead.get(&*object.name) {
            change(&mut served);
        }
        Some((identity.uid.clone(), served))
    };
    ReplicaReport { load_balancers: verdicts.iter().filter_map(served).collect() }
}

fn spec() -> Value {
    json!({"listeners": [{"port": 5432}], "backends": [{"name": "db", "addresses": ["10.1.2.3:5432", "10.1.2.4:5432"]}]})
}

#[tokio::test]
async fn statuses_are_current_and_events_report_transitions() {
    let Some(rig) = Rig::start("status-truth").await else { return };
    rig.declare("pg", spec()).await;
    rig.declare("other", spec()).await;
    let object = rig.until("pg", "Programmed", "True/Programmed").await;
    let status = object.status.unwrap();
    let summary = status.summary.unwrap();
    assert_eq!((summary.ports.as_deref(), summary.ready.as_deref()), (Some("5432"), Some("2/2")));
    assert!(summary.address.is_some_and(|address| address.parse::<std::net::IpAddr>().is_ok()));
    assert_eq!(status.observed_generation, object.metadata.generation);

    // One replica cannot bind.
    rig.instead.lock().unwrap().insert("pg", |served| {
        served.listeners.insert(5432, ListenerOutcome::Failed("the port is in use".into()));
    });
    let object = rig.until("pg", "Programmed", "False/PortUnavailable").await;
    let conditions = object.status.unwrap().conditions;
    assert!(conditions.iter().any(|condition| condition.message.contains("pod pod-0: the port is in use")));
    rig.instead.lock().unwrap().clear();
    rig.until("pg", "Programmed", "True/Programmed").await;

    // A status from another writer is corrected, and a deleted object does not affect others.
    let by_hand = json!({"status": {"summary": {"status": "ByHand"}}});
    rig.objects().patch_status("pg", &PatchParams::default(), &Patch::Merge(&by_hand)).await.unwrap();
    rig.objects().delete("other", &DeleteParams::default()).await.unwrap();
    let shown = |object: &TcpLoadBalancer| object.status.clone()?.summary?.status;
    rig.until_it("pg", |object| shown(object).is_some_and(|shown| shown == "Programmed")).await;

    let wrong =
        json!({"listeners": [{"port": 5432}], "backends": [{"name": "db", "service": {"name": "gone", "port": 1}}]});
    rig.declare("pg", wrong).await;
    rig.until("pg", "ResolvedRefs", "False/RefNotFound").await;

    let events: Api<Event> = Api::namespaced(rig.client.clone(), rig.namespace);
    let expected = ["Programmed", "PortUnavailable", "RefNotFound"];
    let deadline = Instant::now() + STATUS_WAIT_LIMIT;
    loop {
        let all = events.list(&ListParams::default()).await.unwrap().items;
        let of_object =
            all.iter().filter(|event| event.regarding.as_ref().and_then(|object| object.name.as_deref()) == Some("pg"));
        let reasons: Vec<&str> = of_object.filter_map(|event| event.reason.as_deref()).collect();
        if expected.iter().all(|expected| reasons.contains(expected)) {
            println!("{reasons:?}");
            break;
        }
        assert!(Instant::now() < deadline, "{reasons:?}");
        sleep(Duration::from_millis(50)).await;
    }
    rig.end().await;
}

#[tokio::test]
async fn an_object_that_takes_the_name_of_another_has_a_status_of_its_own() {
    let Some(rig) = Rig::start("status-again").await else { return };
    rig.declare("pg", spec()).await;
    rig.until("pg", "Programmed", "True/Programmed").await;
    let mut changed = spec();
    changed["backends"][0]["weight"] = 2.into();
    rig.declare("pg", changed).await;
    rig.until_observed("pg", 2).await;
    rig.objects().delete("pg", &DeleteParams::default()).await.unwrap();
    rig.declare("pg", spec()).await;
    rig.until_observed("pg", 1).await;
    rig.until("pg", "Programmed", "True/Programmed").await;
    rig.end().await;
}

const IDLE: usize = 50;
/// The number of load balancers whose statuses are corrected while other writes are observed.
const LOOKS: usize = 20;

#[tokio::test]
async fn nothing_is_written_about_load_balancers_that_do_not_change() {
    let Some(rig) = Rig::start("status-idle").await else { return };
    let begun = Instant::now();
    let names: Vec<String> = (0..IDLE).map(|number| format!("idle-{number}")).collect();
    for name in &names {
        rig.declare(name, spec()).await;
    }
    for name in &names {
        rig.until(name, "Programmed", "True/Programmed").await;
    }
    println!("{IDLE} programmed after {:?}", begun.elapsed());

    let mut names = names.iter();
    // A fault that was pending may be reported only now.
    while !rig.put_right(names.next().expect("it comes to rest")).await.is_empty() {}
    for name in names.by_ref().take(LOOKS) {
        assert_eq!(rig.put_right(name).await, Vec::<String>::new(), "while {name} was put right");
    }
    assert!(names.next().is_some(), "it came to rest in time for all looks");
    rig.end().await;
}

/// The writes of a leader, except for its Lease: methods and paths.
#[derive(Clone, Default)]
struct Writes(Arc<Mutex<Vec<String>>>);

impl Writes {
    /// A client whose requests are recorded.
    async fn client(&self) -> Client {
        let writes = self.0.clone();
        let noting = MapRequestLayer::new(move |request: Request<Body>| {
            let (method, path) = (request.method(), request.uri().path());
            if method != Method::GET && !path.contains("/leases") {
                writes.lock().unwrap().push(format!("{method} {path}"));
            }
            request
        });
        let config = Config::infer().await.unwrap();
        ClientBuilder::try_from(config).unwrap().with_layer(&noting).build()
    }

    /// The writes since the last call.
    fn take(&self) -> Vec<String> {
        mem::take(&mut self.0.lock().unwrap())
    }
}
