//! Proxies and backends in several zones.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::{
    backends::load_balancer_with,
    clients::{brief_visit, visit},
    cluster::{WAIT_LIMIT, eventually},
    scenario::{Scenario, scenario},
    turns::Isolation,
};

/// One pod on each node, and so in each zone: each node has its own zone.
const ONE_EACH: &str = "kubernetes.io/hostname";

#[tokio::test(flavor = "multi_thread")]
async fn each_proxy_sends_its_clients_to_the_pods_of_its_own_zone() {
    scenario("zones", Isolation::Shared, async |scenario| {
        let spread = |app: &str, value: &str| {
            json!([{
                "maxSkew": 1, "topologyKey": ONE_EACH, "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {app: value}},
            }])
        };
        let instance = spread("app.kubernetes.io/instance", &scenario.namespace);
        let own = scenario.install_own(json!({"replicas": 3, "topologySpreadConstraints": instance})).await;
        scenario.backends("echo", 0).await;
        let constraints = json!({"spec": {"template": {"spec": {"topologySpreadConstraints": spread("app", "echo")}}}});
        let deployments = scenario.api::<Deployment>();
        deployments.patch("echo", &PatchParams::default(), &Patch::Merge(constraints)).await.unwrap();
        scale(scenario, 3).await;

        apply(scenario, "SameZone").await;
        scenario.programmed("zones").await;
        let status = scenario.load_balancer("zones").await.status.unwrap();
        let port = status.listeners[0].bound_port.unwrap();
        let proxies: BTreeMap<String, SocketAddr> = own
            .ready_pods(&scenario.client, 3)
            .await
            .values()
            .map(|pod| (node_of(pod), SocketAddr::new(address_of(pod), port)))
            .collect();
        assert_eq!(proxies.len(), 3, "one on each node: {proxies:?}");
        each_stays_in_its_zone(scenario, &proxies).await;

        // One zone has no pod any more: its clients use the others.
        scale(scenario, 2).await;
        let pods = pods(scenario).await;
        let (alone, others): (BTreeMap<_, _>, _) = proxies.into_iter().partition(|(node, _)| !pods.contains_key(node));
        let alone = alone.into_values().next().expect("three nodes, two pods");
        eventually("who has no pod in its zone sends clients to all others", WAIT_LIMIT, async || {
            answers(alone).await == pods.values().cloned().collect()
        })
        .await;
        each_stays_in_its_zone(scenario, &others).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hints_that_kubernetes_writes_for_a_traffic_distribution_are_followed() {
    scenario("hints", Isolation::Shared, async |scenario| {
        let own = scenario.install_own(json!({"replicas": 1})).await;
        scenario.backends("echo", 6).await;
        apply(scenario, "Hints").await;
        scenario.programmed("zones").await;
        let status = scenario.load_balancer("zones").await.status.unwrap();
        let proxy = own.ready_pods(&scenario.client, 1).await.into_values().next().unwrap();
        let address = SocketAddr::new(address_of(&proxy), status.listeners[0].bound_port.unwrap());
        let pods = scenario.pods_of("echo").await;
        let of_node = |node: Option<String>| -> BTreeSet<String> {
            let pods = pods.iter().filter(|pod| node.as_ref().is_none_or(|node| node_of(pod) == *node));
            pods.map(|pod| pod.metadata.name.clone().unwrap()).collect()
        };
        let near = of_node(Some(node_of(&proxy)));
        assert!((1..6).contains(&near.len()), "the scheduler has spread them: {near:?}");
        eventually("without hints all are reached", WAIT_LIMIT, async || answers(address).await == of_node(None)).await;

        let distribution = Patch::Merge(json!({"spec": {"trafficDistribution": "PreferClose"}}));
        scenario.api::<Service>().patch("echo", &PatchParams::default(), &distribution).await.unwrap();
        eventually("then those of its zone", WAIT_LIMIT, async || answers(address).await == near).await;
    })
    .await;
}

async fn apply(scenario: &Scenario, prefer: &str) {
    let locality = format!("loadBalancing: {{locality: {{prefer: {prefer}}}}}");
    scenario.apply(&load_balancer_with("zones", "listeners: [{port: 5432}]", "echo", &locality)).await;
}

async fn scale(scenario: &Scenario, count: i32) {
    scenario.scale("echo", count).await;
    scenario.backends_are_ready(&scenario.namespace, "echo", count).await;
}

/// The pods of the backends by their nodes.
async fn pods(scenario: &Scenario) -> BTreeMap<String, String> {
    let pods = scenario.pods_of("echo").await;
    pods.into_iter().map(|pod| (node_of(&pod), pod.metadata.name.unwrap())).collect()
}

async fn each_stays_in_its_zone(scenario: &Scenario, proxies: &BTreeMap<String, SocketAddr>) {
    let pods = pods(scenario).await;
    for (node, proxy) in proxies {
        let own = BTreeSet::from([pods[node].clone()]);
        eventually(&format!("the proxy on {node} stays in its zone"), WAIT_LIMIT, async || {
            answers(*proxy).await == own
        })
        .await;
    }
}

/// The backends that serve many visits; empty while the load balancer is not served.
async fn answers(proxy: SocketAddr) -> BTreeSet<String> {
    let mut answers = BTreeSet::new();
    if brief_visit(proxy).await.is_err() {
        return answers;
    }
    for _ in 0..12 {
        answers.extend(visit(proxy).await.ok());
    }
    answers
}

fn node_of(pod: &Pod) -> String {
    pod.spec.as_ref().unwrap().node_name.clone().unwrap()
}

fn address_of(pod: &Pod) -> std::net::IpAddr {
    pod.status.as_ref().unwrap().pod_ip.as_ref().unwrap().parse().unwrap()
}
