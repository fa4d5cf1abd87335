//! Reading a real API server, including its failures.

pub mod alone;

use std::{sync::Arc, time::Duration};

use alone::{ADMINISTRATOR, Alone, RESTRICTED_USER};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{ConfigMap, Secret},
        discovery::v1::EndpointSlice,
    },
};
use kube::{
    Api, Client, Resource,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tcplb::{
    api::{Placement, TcpLoadBalancer},
    model::ObjectKey,
    source::{Cluster, Home, Scope},
    world::{ProcessMode, Tenancy, World},
};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::harness::{self, WAIT_LIMIT};

const NAMESPACE: &str = "source";
/// A class that no installed controller serves.
const CLASS: &str = "source";

#[tokio::test]
async fn a_world_contains_the_objects_of_the_cluster() {
    if !harness::has_test_cluster() {
        return harness::skip(harness::NO_CLUSTER);
    }
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = tcplb::source::connect().await.unwrap();
    prepare(&client).await;
    remove_all(&client).await;
    declare(&client, "pg").await;

    let begun = Instant::now();
    let mut cluster = gateway(&client).await;
    let world = cluster.world();
    eprintln!("read within {:?}", begun.elapsed());
    assert_eq!(world.problems, Vec::<String>::new());
    let pg = &world.load_balancers[&key("pg")];
    assert!(pg.spec.is_some() && pg.problems.is_empty() && !pg.identity.as_ref().unwrap().uid.is_empty());
    assert!(world.secrets.contains_key(&key("pg")) && world.services.contains_key(&key("pg")));

    // Endpoints are added.
    let begun = Instant::now();
    apply(&client, slice("pg", &["10.1.2.3"])).await;
    world_where(&mut cluster, |world| addresses(world, "pg") == ["10.1.2.3"]).await;
    eprintln!("an endpoint is known {:?} after the request", begun.elapsed());

    // A Secret is replaced.
    apply(&client, secret("pg", "another")).await;
    world_where(&mut cluster, |world| certificate(world, "pg") == Some(b"another")).await;

    // The status that was written is seen.
    let api = Api::<TcpLoadBalancer>::namespaced(client.clone(), NAMESPACE);
    let status = json!({
        "apiVersion": "tcplb.io/v1alpha1", "kind": "TcpLoadBalancer", "status": {"summary": {"status": "Programmed"}},
    });
    api.patch_status("pg", &PatchParams::apply("test").force(), &Patch::Apply(&status)).await.unwrap();
    world_where(&mut cluster, |world| world.load_balancers[&key("pg")].status.is_some()).await;

    // Objects are deleted one after the other.
    delete::<Secret>(&client, "pg").await;
    world_where(&mut cluster, |world| world.secrets.is_empty() && world.load_balancers.len() == 1).await;
    delete::<TcpLoadBalancer>(&client, "pg").await;
    world_where(&mut cluster, |world| world.load_balancers.is_empty()).await;
}

/// The text of the certificate in a Secret.
fn certificate<'a>(world: &'a World, secret: &str) -> Option<&'a [u8]> {
    let data = world.secrets.get(&key(secret))?.data.as_ref()?;
    Some(&data.get("tls.crt")?.0)
}

#[tokio::test]
async fn the_world_follows_an_api_server_that_dies_and_an_etcd_that_forgets() {
    let Some(alone) = Alone::start() else { return };
    let (mut ours, mut other) = (alone.api(), alone.api());
    other.ready().await;
    ours.ready().await;
    let administrator = other.client(ADMINISTRATOR);
    prepare(&administrator).await;
    for name in ["stays", "changes", "goes"] {
        declare(&administrator, name).await;
        apply(&administrator, slice(name, &["10.0.0.1"])).await;
    }
    apply(&administrator, ports("20000", "pg")).await;
    let mut cluster = gateway(&ours.client(ADMINISTRATOR)).await;
    let before = cluster.world();
    assert_eq!((before.load_balancers.len(), before.secrets.len(), &*before.problems), (3, 3, &[][..]));

    ours.kill();
    let changed = timeout(Duration::from_secs(3), cluster.changed()).await;
    assert!(changed.is_err(), "an outage is not a change");
    assert_eq!(cluster.world(), before);

    // During the outage, objects are created, changed and deleted, and the history is compacted.
    delete::<TcpLoadBalancer>(&administrator, "goes").await;
    delete::<EndpointSlice>(&administrator, "stays").await;
    declare(&administrator, "comes").await;
    apply(&administrator, secret("changes", "another")).await;
    apply(&administrator, slice("changes", &["10.0.0.2"])).await;
    apply(&administrator, ports("20001", "pg")).await;
    alone.compact();
    other.kill();
    ours.start();
    let back = Instant::now();
    ours.ready().await;
    let ready = Instant::now();
    world_where(&mut cluster, |world| {
        world.load_balancers.keys().map(|key| &*key.name).eq(["changes", "comes", "stays"])
            && world.secrets.contains_key(&key("comes"))
            && certificate(world, "changes") == Some(b"another")
            && addresses(world, "changes") == ["10.0.0.2"]
            && addresses(world, "stays").is_empty()
            && matches!(&world.mode, ProcessMode::Gateway(ports, _) if ports.0.contains_key(&20001))
            // Each watch recovers by itself.
            && world.problems.is_empty()
    })
    .await;
    eprintln!("followed {:?} after the API server was ready, {:?} after its start", ready.elapsed(), back.elapsed());

    // The watches work as before.
    apply(&ours.client(ADMINISTRATOR), slice("stays", &["10.0.0.3"])).await;
    world_where(&mut cluster, |world| addresses(world, "stays") == ["10.0.0.3"]).await;
}

#[tokio::test]
async fn an_object_admitted_by_an_older_schema_affects_no_other() {
    let Some(alone) = Alone::start() else { return };
    let api = alone.api();
    api.ready().await;
    let client = api.client(ADMINISTRATOR);
    prepare(&client).await;
    declare(&client, "good").await;
    declare(&client, "turns").await;
    let mut cluster = gateway(&client).await;
    assert_eq!(cluster.world().load_balancers.len(), 2);

    // A schema that accepts everything.
    let mut lax = with_types(tcplb::api::crd());
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    lax["spec"]["versions"][0]["schema"] = schema;
    apply(&client, lax).await;
    let wrong = json!({"className": CLASS, "listeners": [{"port": "all"}], "future": true});
    eventually(async || try_apply(&client, load_balancer("turns", wrong.clone())).await.is_ok()).await;
    apply(&client, load_balancer("born-wrong", wrong)).await;
    let world = world_where(&mut cluster, |world| world.load_balancers.contains_key(&key("born-wrong"))).await;
    let problem = "spec.listeners[0].port: invalid type: string \"all\", expected u16";
    for (name, has_spec, problems) in [("good", true, 0), ("turns", true, 1), ("born-wrong", false, 1)] {
        let declared = &world.load_balancers[&key(name)];
        assert_eq!((declared.spec.is_some(), declared.problems.len()), (has_spec, problems), "{name}");
        assert!(declared.problems.iter().all(|told| told == problem), "{:?}", declared.problems);
    }
    declare(&client, "later").await;
    world_where(&mut cluster, |world| world.load_balancers.contains_key(&key("later"))).await;
}

#[tokio::test]
async fn permissions_that_name_the_objects_are_enough_and_may_come_later() {
    let Some(alone) = Alone::start() else { return };
    let api = alone.api();
    api.ready().await;
    let administrator = api.client(ADMINISTRATOR);
    prepare(&administrator).await;
    declare_with(&administrator, "app", json!("Sidecar")).await;
    apply(&administrator, slice("app", &["10.0.0.1"])).await;
    apply(&administrator, secret("unrelated", "hidden")).await;
    let rules = |secrets: &[&str]| {
        let named = |group: &str, kind: &str, names: &[&str]| {
            json!({
                "apiGroups": [group], "resources": [kind], "resourceNames": names, "verbs": ["get", "list", "watch"],
            })
        };
        json!([
            named("tcplb.io", "tcploadbalancers", &["app"]),
            named("", "services", &["app"]),
            named("", "secrets", secrets),
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        ])
    };
    let role = |rules: Value| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": "sidecar", "namespace": NAMESPACE}, "rules": rules,
        })
    };
    apply(&administrator, role(rules(&["none"]))).await;
    apply(
        &administrator,
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "sidecar", "namespace": NAMESPACE},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "sidecar"},
            "subjects": [{"kind": "User", "name": RESTRICTED_USER}],
        }),
    )
    .await;
    let scope =
        Scope { class: None, placement: Placement::Sidecar, namespaces: None, only: Some(key("app")), home: None };
    let mut cluster =
        Cluster::start(api.client(RESTRICTED_USER), scope, ProcessMode::Sidecar([127, 0, 0, 1].into()), Arc::default());
    timeout(WAIT_LIMIT, cluster.synced(WAIT_LIMIT)).await.unwrap();
    let world = cluster.world();
    assert!(world.services.contains_key(&key("app")) && addresses(&world, "app") == ["10.0.0.1"]);
    assert!(world.unreadable.contains_key(&("Secret", key("app"))));
    // A refusal is reported after it has lasted for a while.
    let world = world_where(&mut cluster, |world| !world.problems.is_empty()).await;
    let [problem] = &*world.problems else { panic!("{:?}", world.problems) };
    assert!(problem.starts_with("Secret source/app cannot be watched: secrets \"app\" is forbidden"), "{problem}");

    apply(&administrator, role(rules(&["app"]))).await;
    let world = world_where(&mut cluster, |world| world.problems.is_empty()).await;
    assert_eq!(world.secrets.keys().collect::<Vec<_>>(), [&key("app")]);
    assert!(world.unreadable.is_empty());
}

async fn gateway(client: &Client) -> Cluster {
    let scope = Scope {
        class: Some(CLASS.into()),
        placement: Placement::Gateway,
        namespaces: Some([NAMESPACE.to_owned()].into()),
        only: None,
        home: Some(Home { namespace: NAMESPACE.into(), allocations: Some(("ports".into(), 20000..=24999)) }),
    };
    let mode = ProcessMode::Gateway(Arc::default(), Arc::new(Tenancy::default()));
    let mut cluster = Cluster::start(client.clone(), scope, mode, Arc::default());
    timeout(WAIT_LIMIT, cluster.synced(WAIT_LIMIT)).await.unwrap();
    cluster
}

async fn world_where(cluster: &mut Cluster, holds: impl Fn(&World) -> bool) -> World {
    let deadline = Instant::now() + WAIT_LIMIT;
    loop {
        let world = cluster.world();
        if holds(&world) {
            return world;
        }
        assert!(timeout_at(deadline, cluster.changed()).await.is_ok(), "not within {WAIT_LIMIT:?}: {world:#?}");
    }
}

async fn eventually(mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + WAIT_LIMIT;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {WAIT_LIMIT:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(NAMESPACE, name)
}

fn addresses<'a>(world: &'a World, slice: &str) -> Vec<&'a str> {
    let slice = world.endpoint_slices.get(&key(slice));
    slice.iter().flat_map(|slice| &slice.endpoints).flat_map(|endpoint| &endpoint.addresses).map(|a| &**a).collect()
}

/// A load balancer with a Service and a Secret of the same name.
async fn declare(client: &Client, name: &str) {
    declare_with(client, name, json!("Gateway")).await;
}

async fn declare_with(client: &Client, name: &str, placement: Value) {
    apply(client, secret(name, "certificate")).await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"ports": [{"port": 5432}]},
    });
    apply(client, service).await;
    let spec = json!({
        "className": CLASS, "placement": placement,
        "listeners": [{"port": 5432, "tls": {"certificateRefs": [{"name": name}]}}],
        "backends": [{"service": {"name": name, "port": 5432}}],
    });
    apply(client, load_balancer(name, spec)).await;
}

fn load_balancer(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "tcplb.io/v1alpha1", "kind": "TcpLoadBalancer",
        "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec,
    })
}

fn secret(name: &str, certificate: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": name, "namespace": NAMESPACE}, "stringData": {"tls.crt": certificate, "tls.key": "key"},
    })
}

fn slice(service: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<_> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": service, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"port": 5432}], "endpoints": endpoints,
    })
}

fn ports(port: &str, name: &str) -> Value {
    let owner = json!({"uid": name, "port": 5432, "object": format!("{NAMESPACE}/{name}")});
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ports", "namespace": NAMESPACE},
        "data": {port: owner.to_string()},
    })
}

/// Installs the schema and the namespace.
async fn prepare(client: &Client) {
    apply(client, with_types(tcplb::api::crd())).await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    eventually(async || try_apply(client, namespace.clone()).await.is_ok()).await;
    let api = Api::<TcpLoadBalancer>::namespaced(client.clone(), NAMESPACE);
    eventually(async || api.list(&ListParams::default().limit(1)).await.is_ok()).await;
}

async fn remove_all(client: &Client) {
    delete::<TcpLoadBalancer>(client, "pg").await;
    delete::<EndpointSlice>(client, "pg").await;
    delete::<ConfigMap>(client, "ports").await;
}

fn with_types<T: serde::Serialize + k8s_openapi::Resource>(object: T) -> Value {
    let mut value = serde_json::to_value(object).unwrap();
    value["apiVersion"] = T::API_VERSION.into();
    value["kind"] = T::KIND.into();
    value
}

async fn apply(client: &Client, object: Value) {
    try_apply(client, object).await.unwrap();
}

async fn try_apply(client: &Client, object: Value) -> kube::Result<DynamicObject> {
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    let kind = GroupVersionKind::try_from(object.types.as_ref().unwrap()).unwrap();
    let resource = ApiResource::from_gvk(&kind);
    let api = match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::<DynamicObject>::all_with(client.clone(), &resource),
    };
    let name = object.metadata.name.clone().unwrap();
    api.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await
}

async fn delete<T>(client: &Client, name: &str)
where
    T: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
{
    match Api::<T>::namespaced(client.clone(), NAMESPACE).delete(name, &DeleteParams::default()).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.is_not_found() => {}
        Err(error) => panic!("{name} cannot be deleted: {error}"),
    }
}
