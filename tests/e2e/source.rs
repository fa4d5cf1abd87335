//! What is read of a cluster.

use std::{sync::Arc, time::Duration};

use kube::{
    Api, Client, Resource,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams},
};
use serde_json::{Value, json};
use tcplb::{
    api::{Placement, TcpLoadBalancer},
    model::ObjectKey,
    source::{Cluster, Home, Scope, Site, Tenancy, World},
};
use tokio::time::{Instant, timeout_at};

use crate::harness;

const PATIENCE: Duration = Duration::from_secs(30);
const NAMESPACE: &str = "source";

async fn client() -> Option<Client> {
    if std::env::var_os("KUBECONFIG").is_none() {
        harness::skip("KUBECONFIG names no cluster");
        return None;
    }
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Some(Client::try_default().await.unwrap())
}

async fn apply(client: &Client, object: Value) -> DynamicObject {
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    let types = object.types.clone().unwrap();
    let (group, version) = types.api_version.split_once('/').unwrap_or(("", &types.api_version));
    let resource = ApiResource::from_gvk(&kube::api::GroupVersionKind::gvk(group, version, &types.kind));
    let api: Api<DynamicObject> = match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let name = object.metadata.name.clone().unwrap();
    api.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.unwrap()
}

async fn prepare(client: &Client) {
    apply(client, serde_json::to_value(with_types(tcplb::api::crd())).unwrap()).await;
    apply(client, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})).await;
}

fn with_types<T: serde::Serialize + k8s_openapi::Resource>(object: T) -> Value {
    let mut value = serde_json::to_value(object).unwrap();
    value["apiVersion"] = T::API_VERSION.into();
    value["kind"] = T::KIND.into();
    value
}

fn load_balancer(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "tcplb.io/v1alpha1", "kind": "TcpLoadBalancer",
        "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec,
    })
}

async fn delete<T>(client: &Client, name: &str)
where
    T: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let api: Api<T> = Api::namespaced(client.clone(), NAMESPACE);
    let _ = api.delete(name, &DeleteParams::default()).await;
}

fn gateway(client: &Client) -> Cluster {
    let scope = Scope {
        class: Some("tcplb".into()),
        placement: Placement::Gateway,
        namespaces: Some([NAMESPACE.to_owned()].into()),
        only: None,
        home: Some(Home { namespace: NAMESPACE.into(), allocations: Some("ports".into()) }),
    };
    Cluster::start(client.clone(), scope, Site::Gateway(Arc::default(), Arc::new(Tenancy::default())))
}

async fn world_where(cluster: &mut Cluster, what: &str, holds: impl Fn(&World) -> bool) -> World {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let world = cluster.world();
        if holds(&world) {
            return world;
        }
        assert!(timeout_at(deadline, cluster.changed()).await.is_ok(), "{what}: {world:#?}");
    }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(NAMESPACE, name)
}

#[tokio::test]
async fn a_world_is_what_the_cluster_says() {
    let Some(client) = client().await else { return };
    prepare(&client).await;
    delete::<TcpLoadBalancer>(&client, "pg").await;
    apply(&client, json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": "pg-tls", "namespace": NAMESPACE},
        "stringData": {"tls.crt": "c", "tls.key": "k"}
    })).await;
    apply(
        &client,
        load_balancer(
            "pg",
            json!({
                "listeners": [{"port": 5432, "tls": {"certificateRefs": [{"name": "pg-tls"}]}}],
                "backends": [{"service": {"name": "pg", "port": 5432}}]
            }),
        ),
    )
    .await;
    apply(&client, json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "pg", "namespace": NAMESPACE}, "spec": {"ports": [{"port": 5432}]}
    })).await;

    let mut cluster = gateway(&client);
    let begun = Instant::now();
    cluster.synced(PATIENCE).await;
    println!("synced in {:?}", begun.elapsed());
    let world = cluster.world();
    println!("{world:#?}");
    assert_eq!(world.problems, Vec::<String>::new());
    let pg = &world.load_balancers[&key("pg")];
    assert!(pg.spec.is_some());
    assert_eq!(world.secrets[&key("pg-tls")].data.as_ref().unwrap()["tls.crt"].0, b"c");

    apply(
        &client,
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "pg-1", "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": "pg"}},
            "ports": [{"port": 5432}], "endpoints": [{"addresses": ["10.1.2.3"]}]
        }),
    )
    .await;
    world_where(&mut cluster, "the slice", |world| world.endpoint_slices.contains_key(&key("pg-1"))).await;

    delete::<TcpLoadBalancer>(&client, "pg").await;
    world_where(&mut cluster, "the deletion", |world| world.load_balancers.is_empty() && world.secrets.is_empty())
        .await;
}
