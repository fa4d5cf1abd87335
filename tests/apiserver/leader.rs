//! The writes of the leader, on a real API server. The replica is simulated: it reports every port as bound.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::TryStreamExt;
use jiff::Timestamp;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{ConfigMap, Namespace, Service},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::watcher,
};
use serde_json::{Value, json};
use tcplb::{
    api::{Placement, ServiceType, TcpLoadBalancer},
    controller::{self, AdminToken, Observed, Replica, Replicas, Settings},
    model::{ListenerOutcome, ObjectKey, ReplicaReport, Served, Snapshot},
    source::{Cluster, Home, Scope},
    translate::translate,
    world::{Allocations, ProcessMode, Tenancy},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::harness;

const LEADER_WAIT_LIMIT: Duration = Duration::from_secs(60);

/// A namespace with load balancers and the objects that are managed for them.
pub struct Cell {
    client: Client,
    name: String,
}

impl Cell {
    pub async fn new() -> Option<Self> {
        if !harness::has_test_cluster() {
            harness::skip(harness::NO_CLUSTER);
            return None;
        }
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = Client::try_default().await.unwrap();
        let crd = tcplb::api::crd();
        let crds =
            Api::<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition>::all(
                client.clone(),
            );
        let apply = PatchParams::apply("tcplb-tests").force();
        crds.patch(&crd.name_any(), &apply, &Patch::Apply(&crd)).await.unwrap();
        let namespace: Namespace =
            serde_json::from_value(json!({"metadata": {"generateName": "tcplb-leader-"}})).unwrap();
        let created = Api::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
        Some(Self { client, name: created.name_any() })
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    pub async fn apply(&self, name: &str, spec: Value) -> TcpLoadBalancer {
        let object = json!({
            "apiVersion": "tcplb.io/v1alpha1", "kind": "TcpLoadBalancer", "metadata": {"name": name}, "spec": spec,
        });
        let apply = PatchParams::apply("test").force();
        self.api().patch(name, &apply, &Patch::Apply(&object)).await.unwrap()
    }

    async fn delete(&self, name: &str) {
        self.api::<TcpLoadBalancer>().delete(name, &DeleteParams::default()).await.unwrap();
    }

    pub async fn service(&self, name: &str) -> Option<Service> {
        let all = self.api::<Service>().list(&Default::default()).await.unwrap();
        all.into_iter().find(|service| service.annotations()["tcplb.io/owner"] == format!("{}/{name}", self.name))
    }

    /// Waits until the Service of a load balancer satisfies a condition.
    pub async fn service_that(&self, what: &str, name: &str, is: impl Fn(&Service) -> bool) -> Service {
        until(what, async || self.service(name).await.filter(|service| is(service))).await
    }

    async fn allocations(&self) -> Allocations {
        let map = self.api::<ConfigMap>().get_opt("tcplb-ports").await.unwrap();
        Allocations::read(&map.and_then(|map| map.data).unwrap_or_default()).0
    }

    async fn holder(&self) -> Option<String> {
        self.holder_of("tcplb").await
    }

    async fn holder_of(&self, lease: &str) -> Option<String> {
        self.api::<Lease>().get_opt(lease).await.unwrap()?.spec?.holder_identity
    }

    /// The whole status of a load balancer as text.
    async fn said_of(&self, name: &str) -> Option<String> {
        let status = self.api::<TcpLoadBalancer>().get(name).await.unwrap().status?;
        Some(serde_json::to_string(&status).unwrap())
    }

    pub fn settings(&self, pod: &str, lease: &str) -> Settings {
        Settings {
            class: "tcplb".into(),
            placement: Placement::Gateway,
            namespace: self.name.clone(),
            pod: pod.into(),
            replicas: ObjectKey::new(&self.name, "tcplb-replicas"),
            lease: lease.into(),
            allocations: "tcplb-ports".into(),
            anchor: None,
            workload: None,
            selector: BTreeMap::from([("app".into(), "tcplb".into())]),
            ports: 20000..=24999,
            cluster_domain: "cluster.local".into(),
            admin_token: AdminToken::default(),
            instruments: Arc::default(),
        }
    }

    pub async fn remove(self) {
        Api::<Namespace>::all(self.client).delete(&self.name, &DeleteParams::background()).await.unwrap();
    }
}

pub async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LEADER_WAIT_LIMIT;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// A controller without a proxy, which watches the cluster like a replica.
pub struct Controller {
    stop: CancellationToken,
    running: AbortOnDropHandle<()>,
    _seeing: AbortOnDropHandle<()>,
}

impl Controller {
    fn start(home: &Cell, pod: &str, lease: &str) -> Self {
        Self::with(home, home.settings(pod, lease))
    }

    pub fn with(home: &Cell, settings: Settings) -> Self {
        let (observed, observing) = watch::channel(Observed::default());
        let (replicas, gathered) = watch::channel(Arc::default());
        let stop = CancellationToken::new();
        let seeing = tokio::spawn(see(home.client.clone(), home.name.clone(), observed, replicas));
        let gather = move || gathered.clone();
        let running = controller::run_with(home.client.clone(), settings, observing, gather, stop.clone());
        Self { stop, running: AbortOnDropHandle::new(tokio::spawn(running)), _seeing: AbortOnDropHandle::new(seeing) }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        timeout(LEADER_WAIT_LIMIT, self.running).await.unwrap().unwrap();
    }
}

async fn see(
    client: Client,
    namespace: String,
    observed: watch::Sender<Observed>,
    replicas: watch::Sender<Arc<Replicas>>,
) {
    let scope = Scope {
        class: Some("tcplb".into()),
        placement: Placement::Gateway,
        namespaces: Some(BTreeSet::from([namespace.clone()])),
        only: None,
        home: Some(Home { namespace: namespace.clone(), allocations: Some(("tcplb-ports".into(), 20000..=24999)) }),
    };
    let tenancy = Tenancy {
        service_types: BTreeSet::from([ServiceType::ClusterIp, ServiceType::NodePort]),
        annotations: vec!["example.com/*".into()],
        node_ports: true,
        namespace: namespace.as_str().into(),
        ..Tenancy::default()
    };
    let mut cluster =
        Cluster::start(client, scope, ProcessMode::Gateway(Arc::default(), Arc::new(tenancy)), Arc::default());
    cluster.synced(LEADER_WAIT_LIMIT).await;
    let mut last = Snapshot::default();
    loop {
        let world = Arc::new(cluster.world());
        let (snapshot, verdicts) = translate(&world, &last, Timestamp::now());
        let mut report = ReplicaReport::default();
        for (object, verdict) in &verdicts {
            let Some(identity) = &verdict.identity else { continue };
            let own = snapshot.listeners.iter().filter(|(key, _)| key.object == *object);
            let bound = own.map(|(key, listener)| (key.port, ListenerOutcome::Bound(listener.bind.port())));
            let served = Served { generation: identity.generation, listeners: bound.collect(), ..Served::default() };
            report.load_balancers.insert(identity.uid.clone(), served.into());
        }
        last = snapshot;
        observed.send_replace(Observed { world, verdicts: Arc::new(verdicts) });
        let replica = Replica { address: "127.0.0.1:1".parse().unwrap(), report: Some(Arc::new(report)) };
        replicas.send_replace(Arc::new(BTreeMap::from([("tcplb-0".into(), replica)])));
        cluster.changed().await;
    }
}

pub fn spec(listeners: Value, service: Value) -> Value {
    json!({"listeners": listeners, "service": service, "backends": [{"service": {"name": "db", "port": 1}}]})
}

fn ports(service: &Service) -> BTreeMap<i32, i32> {
    let target = |port: &k8s_openapi::api::core::v1::ServicePort| match port.target_port {
        Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(target)) => target,
        _ => 0,
    };
    service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()).map(|port| (port.port, target(port))).collect()
}

#[tokio::test]
async fn a_service_follows_its_load_balancer_from_the_first_port_to_the_last() {
    let Some(home) = Cell::new().await else { return };
    let controller = Controller::start(&home, "pod-a", "tcplb");

    let asked = json!({"annotations": {"example.com/a": "b"}});
    let object = home.apply("db", spec(json!([{"name": "pg", "port": 5432}]), asked)).await;
    let service = home.service_that("a Service comes", "db", |_| true).await;
    let target = home.allocations().await.port_of(&object.uid().unwrap(), 5432).unwrap();
    assert_eq!(ports(&service), BTreeMap::from([(5432, i32::from(target))]));
    assert_eq!(service.annotations()["example.com/a"], "b");

    let two = json!([{"name": "pg", "port": 5432}, {"name": "web", "port": 80}]);
    home.apply("db", spec(two, json!({"type": "NodePort"}))).await;
    let changed = home.service_that("a port and a type are added", "db", |service| ports(service).len() == 2).await;
    assert_eq!(changed.uid(), service.uid());
    let spec_now = changed.spec.clone().unwrap();
    assert_eq!(
        (spec_now.type_.as_deref(), spec_now.external_traffic_policy.as_deref()),
        (Some("NodePort"), Some("Cluster"))
    );
    assert!(!changed.annotations().contains_key("example.com/a"), "wanted no more");

    home.apply("db", spec(json!([{"name": "web", "port": 80}]), json!({"type": "ClusterIP"}))).await;
    let is_smaller = |service: &Service| {
        ports(service).len() == 1 && service.spec.as_ref().unwrap().type_.as_deref() == Some("ClusterIP")
    };
    let smaller = home.service_that("a port and a type are taken out", "db", is_smaller).await;
    until("the port is freed", async || home.allocations().await.0[&target].freed).await;

    let edit =
        json!({"metadata": {"labels": {"tcplb.io/name": "x", "mine": "y"}}, "spec": {"selector": {"app": "evil"}}});
    home.api::<Service>().patch(&smaller.name_any(), &PatchParams::default(), &Patch::Merge(&edit)).await.unwrap();
    let is_ours_again = |service: &Service| {
        service.labels()["tcplb.io/name"] == "db"
            && service.spec.as_ref().unwrap().selector.as_ref().unwrap()["app"] == "tcplb"
    };
    let mended = home.service_that("an edit by hand is undone", "db", is_ours_again).await;
    assert_eq!(mended.labels()["mine"], "y", "what is not ours stays");

    home.api::<Service>().delete(&mended.name_any(), &DeleteParams::default()).await.unwrap();
    home.service_that("one deleted by hand comes back", "db", |service| service.uid() != mended.uid()).await;

    let before = home.allocations().await;
    home.api::<ConfigMap>().delete("tcplb-ports", &DeleteParams::default()).await.unwrap();
    until("lost allocations are written down again", async || (home.allocations().await == before).then_some(())).await;

    home.delete("db").await;
    until("the Service goes with its object", async || home.service("db").await.is_none().then_some(())).await;
    until("all ports are freed", async || {
        home.allocations().await.0.values().all(|allocation| allocation.freed.is_some()).then_some(())
    })
    .await;
    controller.stop().await;
    home.remove().await;
}

#[tokio::test]
async fn services_are_removed_or_adopted_after_changes_without_a_leader() {
    let Some(home) = Cell::new().await else { return };
    let controller = Controller::start(&home, "pod-a", "tcplb");
    for name in ["gone", "again"] {
        home.apply(name, spec(json!([{"port": 1}]), json!({}))).await;
    }
    home.service_that("the one comes", "gone", |_| true).await;
    let before = home.service_that("the other comes", "again", |_| true).await;
    controller.stop().await;
    assert_eq!(home.holder().await, None, "the Lease is released");

    home.delete("gone").await;
    home.delete("again").await;
    let object = home.apply("again", spec(json!([{"port": 1}]), json!({}))).await;
    let controller = Controller::start(&home, "pod-b", "tcplb");
    until("the Service is removed", async || home.service("gone").await.is_none().then_some(())).await;
    let is_adopted = |service: &Service| service.annotations().get("tcplb.io/uid") == object.uid().as_ref();
    let after = home.service_that("the Service is adopted", "again", is_adopted).await;
    assert_eq!(after.uid(), before.uid());
    assert_ne!(ports(&after), ports(&before), "the port is another one: the old one rests");
    controller.stop().await;
    home.remove().await;
}

#[tokio::test]
async fn a_service_that_is_refused_harms_no_other_and_is_tried_again() {
    let Some(home) = Cell::new().await else { return };
    let controller = Controller::start(&home, "pod-a", "tcplb");
    home.apply("first", spec(json!([{"port": 1}]), json!({"type": "NodePort"}))).await;
    let first = home.service_that("the first comes", "first", |_| true).await;
    let node_port = first.spec.unwrap().ports.unwrap()[0].node_port.unwrap();
    let taken = json!([{"port": 1, "nodePort": node_port}]);
    home.apply("second", spec(taken, json!({"type": "NodePort"}))).await;
    home.apply("third", spec(json!([{"port": 1}]), json!({}))).await;
    home.service_that("the third comes", "third", |_| true).await;
    until("what is wrong with the second is told", async || {
        home.said_of("second").await.filter(|said| said.contains("provided port is already allocated"))
    })
    .await;
    home.delete("first").await;
    home.service_that("the second comes", "second", |_| true).await;
    controller.stop().await;
    home.remove().await;
}

/// An uninstalled chart leaves no Service behind.
#[tokio::test]
async fn services_belong_to_the_chart_and_are_not_written_without_it() {
    let Some(home) = Cell::new().await else { return };
    let settings = Settings { anchor: Some("anchor".into()), ..home.settings("pod-a", "tcplb") };
    let controller = Controller::with(&home, settings);
    let object = home.apply("db", spec(json!([{"port": 1}]), json!({}))).await;
    let warnings = async || home.said_of("db").await.filter(|said| said.contains("which owns the managed Services"));
    until("its absence is reported", warnings).await;
    assert!(home.service("db").await.is_none());

    let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "anchor"}})).unwrap();
    let anchor = home.api().create(&PostParams::default(), &map).await.unwrap();
    let service = home.service_that("the Service comes", "db", |_| true).await;
    assert_eq!(Some(&service.owner_references()[0].uid), anchor.uid().as_ref());
    until("all is well", async || home.said_of("db").await.filter(|said| !said.contains("which owns"))).await;

    home.api::<ConfigMap>().delete("anchor", &DeleteParams::default()).await.unwrap();
    until("its absence is reported again", warnings).await;
    until("the Service goes and stays away", async || home.service("db").await.is_none().then_some(())).await;
    assert!(home.allocations().await.port_of(&object.uid().unwrap(), 1).is_some());
    controller.stop().await;
    home.remove().await;
}

#[tokio::test]
async fn a_leader_that_is_gone_is_replaced_within_20_s_and_one_that_leaves_at_once() {
    let Some(home) = Cell::new().await else { return };
    let first = Controller::start(&home, "pod-a", "tcplb");
    until("the first leads", async || home.holder().await.filter(|holder| holder == "pod-a")).await;
    let second = Controller::start(&home, "pod-b", "tcplb");
    home.apply("one", spec(json!([{"port": 1}]), json!({}))).await;
    home.service_that("the first writes", "one", |_| true).await;

    // The controller is killed without a shutdown.
    let crashed = Instant::now();
    drop(first);
    home.apply("two", spec(json!([{"port": 1}]), json!({}))).await;
    home.service_that("the second writes", "two", |_| true).await;
    let took = crashed.elapsed();
    println!("replaced after {took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert!(took > Duration::from_secs(10), "nobody writes while the first may still do so: {took:?}");

    let third = Controller::start(&home, "pod-c", "tcplb");
    let left = Instant::now();
    second.stop().await;
    until("the third leads", async || home.holder().await.filter(|holder| holder == "pod-c")).await;
    println!("handed over after {:?}", left.elapsed());
    assert!(left.elapsed() < Duration::from_secs(5), "{:?}", left.elapsed());

    home.api::<Lease>().delete("tcplb", &DeleteParams::default()).await.unwrap();
    until("a deleted Lease is made anew", async || home.holder().await).await;
    third.stop().await;
    home.remove().await;
}

/// Checks everything that is written: a Service may send clients only to ports that its own listener has or had.
#[tokio::test]
async fn two_leaders_at_once_never_route_clients_to_another_tenant() {
    const OBJECTS: usize = 100;
    let Some(home) = Cell::new().await else { return };
    // Each has its own Lease: both lead, without knowledge of each other.
    let leaders = [Controller::start(&home, "pod-a", "one"), Controller::start(&home, "pod-b", "two")];
    for lease in ["one", "two"] {
        until("both lead", async || home.holder_of(lease).await).await;
    }
    let owners = Arc::new(Mutex::new(BTreeMap::<u16, BTreeSet<String>>::new()));
    let looking = [look_at_ports(&home, owners.clone()), look_at_services(&home, owners.clone())];

    let name = |number: usize| format!("lb-{number}");
    for number in 0..OBJECTS {
        home.apply(&name(number), spec(json!([{"name": "a", "port": 1}, {"name": "b", "port": 2}]), json!({}))).await;
        if number % 3 == 2 {
            home.delete(&name(number - 1)).await;
            home.apply(&name(number - 1), spec(json!([{"port": 1}]), json!({}))).await;
        }
    }
    for number in (0..OBJECTS).step_by(2) {
        home.delete(&name(number)).await;
    }
    until("each object has its Service, and no other", async || {
        let objects: BTreeMap<String, String> = home
            .api::<TcpLoadBalancer>()
            .list(&Default::default())
            .await
            .unwrap()
            .into_iter()
            .map(|object| (object.uid().unwrap(), object.name_any()))
            .collect();
        let services = home.api::<Service>().list(&Default::default()).await.unwrap();
        let uids: BTreeSet<String> =
            services.iter().map(|service| service.annotations()["tcplb.io/uid"].clone()).collect();
        let allocations = home.allocations().await;
        let right = |service: &Service| {
            ports(service).iter().all(|(port, target)| {
                let uid = &service.annotations()["tcplb.io/uid"];
                allocations.port_of(uid, u16::try_from(*port).unwrap()).map(i32::from) == Some(*target)
            })
        };
        (uids == objects.into_keys().collect() && services.iter().all(right)).then_some(())
    })
    .await;
    for leader in leaders {
        leader.stop().await;
    }
    for look in looking {
        look.abort();
        if let Err(fault) = look.await {
            assert!(fault.is_cancelled(), "{fault}");
        }
    }
    home.remove().await;
}

/// No port changes its load balancer, since the whole test is shorter than the cooldown.
fn look_at_ports(home: &Cell, owners: Arc<Mutex<BTreeMap<u16, BTreeSet<String>>>>) -> tokio::task::JoinHandle<()> {
    let maps = home.api::<ConfigMap>();
    tokio::spawn(async move {
        let mut changes = std::pin::pin!(watcher(maps, watcher::Config::default()));
        while let Some(change) = changes.try_next().await.unwrap() {
            let (watcher::Event::Apply(map) | watcher::Event::InitApply(map)) = change else { continue };
            if map.name_any() != "tcplb-ports" {
                continue;
            }
            let mut owners = owners.lock().unwrap();
            for (port, allocation) in Allocations::read(&map.data.unwrap_or_default()).0.0 {
                let had = owners.entry(port).or_default();
                had.insert(format!("{} {}", allocation.uid, allocation.port));
                assert_eq!(had.len(), 1, "{port} has had several owners: {had:?}");
            }
        }
    })
}

fn look_at_services(home: &Cell, owners: Arc<Mutex<BTreeMap<u16, BTreeSet<String>>>>) -> tokio::task::JoinHandle<()> {
    let services = home.api::<Service>();
    tokio::spawn(async move {
        let mut changes = std::pin::pin!(watcher(services, watcher::Config::default()));
        while let Some(change) = changes.try_next().await.unwrap() {
            let (watcher::Event::Apply(service) | watcher::Event::InitApply(service)) = change else { continue };
            let uid = &service.annotations()["tcplb.io/uid"];
            for (port, target) in ports(&service) {
                let target = u16::try_from(target).unwrap();
                // The allocation was stored before, but may be seen a little later.
                let deadline = Instant::now() + LEADER_WAIT_LIMIT;
                let owner = loop {
                    let owner = owners.lock().unwrap().get(&target).cloned();
                    if let Some(owner) = owner {
                        break owner;
                    }
                    assert!(Instant::now() < deadline, "{target} was never allocated");
                    sleep(Duration::from_millis(20)).await;
                };
                assert!(owner.contains(&format!("{uid} {port}")), "{target} is {owner:?} and not {uid}'s");
            }
        }
    })
}
