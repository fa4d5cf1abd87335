//! All proxies are replaced while clients connect and stay.

use std::{net::SocketAddr, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    backends::{load_balancer, load_balancer_with},
    clients::brief_visit,
    cluster::{WAIT_LIMIT, eventually, nodes},
    installation::Installation,
    load::{Guests, Load},
    scenario::{Scenario, is, scenario, until},
    scenarios::traffic::served,
    turns::Isolation,
};

/// The shutdown delay of the proxies in seconds, longer than kube-proxy takes on a busy machine to stop sending
/// connections to a terminating proxy.
const DELAY: u64 = 30;

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_refuses_no_client_and_drains_long_connections() {
    scenario("rollout", Isolation::Shared, async |scenario| {
        let (delay, drain) = (DELAY, 10);
        let own = scenario.install_own(json!({"shutdownDelaySeconds": delay, "maxDrainSeconds": drain})).await;
        scenario.backends("echo", 2).await;
        scenario.apply(&load_balancer("rollout", 5432, "echo")).await;
        let address = scenario.ready("rollout").await;
        served(address).await;
        assert_no_refusal_and_long_connections_drain(scenario, &own, address, (delay, drain)).await;
    })
    .await;
}

async fn assert_no_refusal_and_long_connections_drain(
    scenario: &Scenario,
    own: &Installation,
    address: SocketAddr,
    (delay, drain): (u64, u64),
) {
    let guests = Guests::arrive(address, 200).await;
    let load = Load::start(address);
    let began = Instant::now();
    own.restart(&scenario.client, 2).await;
    load.goes_on_for(200).await;
    load.end().await.assert_no_failure();

    // Every proxy that they were at has gone.
    eventually("all have noticed their end", WAIT_LIMIT, async || guests.still_here() == 0).await;
    let endings = guests.leave().await;
    // Connections are closed over the last half of the drain, and no pod was deleted before the rollout began.
    let soonest = endings.iter().map(|ending| ending.at - began).min().unwrap();
    let least = Duration::from_secs(delay) + Duration::from_secs(drain) / 2;
    println!("measured: of 200 long connections the first ended {soonest:.1?} after the rollout began");
    assert!(soonest >= least, "the first one ended after {soonest:?}");
}

const ALL_TYPES: [&str; 3] = ["ClusterIP", "NodePort", "LoadBalancer"];

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_behind_a_local_external_address_refuses_no_client() {
    scenario("local", Isolation::Shared, async |scenario| {
        let (delay, drain) = (DELAY, 10);
        let own = scenario
            .install_own(json!({
                "shutdownDelaySeconds": delay,
                "maxDrainSeconds": drain,
                "tenancy": {"allowedServiceTypes": ALL_TYPES},
            }))
            .await;
        scenario.backends("echo", 2).await;
        let address = scenario.local_address("local").await;
        assert_no_refusal_and_long_connections_drain(scenario, &own, address, (delay, drain)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replacing_the_only_proxy_on_its_node_refuses_no_client() {
    scenario("only", Isolation::Shared, async |scenario| {
        let nodes = nodes(&scenario.client).await;
        let (name, ip) = nodes.last().unwrap();
        let own = scenario
            .install_own(json!({
                "replicas": 1,
                "shutdownDelaySeconds": DELAY,
                "maxDrainSeconds": 10,
                "tenancy": {"allowedServiceTypes": ALL_TYPES},
                "nodeSelector": {"kubernetes.io/hostname": name},
            }))
            .await;
        scenario.backends("echo", 2).await;
        let external = scenario.local_address("external").await;
        let port = scenario.local_node_port("nodeport").await;
        let on_node = SocketAddr::new(*ip, port);
        served(on_node).await;
        let elsewhere = SocketAddr::new(nodes[0].1, port);
        assert!(brief_visit(elsewhere).await.is_err(), "a node without a proxy serves");

        let (from_outside, at_node) = (Load::start(external), Load::start(on_node));
        own.restart(&scenario.client, 1).await;
        for load in [from_outside, at_node] {
            load.goes_on_for(200).await;
            load.end().await.assert_no_failure();
        }
    })
    .await;
}

/// Connections to an external address reach the node that has the proxy now. Clients of a node's own port have to
/// change to another node by themselves: with traffic policy Local, a node without a proxy serves no client. They have
/// time for it: both nodes serve from the readiness of the new proxy until the shutdown delay of the old one has
/// passed.
#[tokio::test(flavor = "multi_thread")]
async fn the_only_proxy_moves_to_another_node_and_both_serve_until_the_old_one_has_waited() {
    scenario("moves", Isolation::Shared, async |scenario| {
        let (delay, drain) = (Duration::from_secs(DELAY), Duration::from_secs(10));
        let apart = json!({
            "labelSelector": {"matchLabels": {"app.kubernetes.io/instance": scenario.namespace}},
            "topologyKey": "kubernetes.io/hostname",
        });
        let own = scenario
            .install_own(json!({
                "replicas": 1,
                "shutdownDelaySeconds": delay.as_secs(),
                "maxDrainSeconds": drain.as_secs(),
                "tenancy": {"allowedServiceTypes": ALL_TYPES},
                "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}},
            }))
            .await;
        scenario.backends("echo", 2).await;
        let external = scenario.local_address("external").await;
        let port = scenario.local_node_port("nodeport").await;
        let nodes = nodes(&scenario.client).await;
        let at = |pod: &Pod| {
            let name = pod.spec.as_ref().unwrap().node_name.as_deref().unwrap();
            let (_, ip) = nodes.iter().find(|(node, _)| node == name).unwrap();
            SocketAddr::new(*ip, port)
        };
        let (old_name, old_pod) = own.ready_pods(&scenario.client, 1).await.pop_first().unwrap();
        let old = at(&old_pod);
        served(old).await;

        let guests = Guests::arrive(external, 20).await;
        let (from_outside, at_old) = (Load::start(external), Load::start(old));
        let restarted = own.restart(&scenario.client, 1);
        let moved = async {
            let told_to_go = own.told_to_go(scenario, &old_name).await;
            let (_, pod) = own.ready_pods(&scenario.client, 1).await.pop_first().unwrap();
            let new = at(&pod);
            assert_ne!(new, old, "it is on another node");
            served(new).await;
            (told_to_go, Instant::now(), Load::start(new))
        };
        let ((), (told_to_go, new_serves, at_new)) = tokio::join!(restarted, moved);
        from_outside.goes_on_for(200).await;
        from_outside.end().await.assert_no_failure();
        at_new.goes_on_for(200).await;
        at_new.end().await.assert_no_failure();
        let tally = at_old.end().await;
        let first = tally.failures.iter().map(|(came, _)| *came).min().expect("a node without a proxy serves nobody");
        assert!(first > told_to_go + delay, "who came before the delay had passed is served: {tally}");
        assert!(first > new_serves, "the new one serves before the old one ends");
        println!("measured: both nodes served for {:.1?}", first - new_serves);
        for ending in guests.leave().await {
            let stayed = ending.at - told_to_go;
            assert!(stayed > delay + drain / 2, "who is connected stays with the old one: {ending:?} after {stayed:?}");
        }
    })
    .await;
}

impl Installation {
    /// Waits until a proxy is being deleted. Returns the time of the deletion, without its fraction of a second.
    async fn told_to_go(&self, scenario: &Scenario, name: &str) -> Instant {
        let pods = self.pod_api(&scenario.client);
        let going = |pod: Option<&Pod>| pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_some());
        let metadata = until(pods, "it is told to go", name, WAIT_LIMIT, going).await.unwrap().metadata;
        // Kubernetes writes the end of the grace period.
        let grace = SignedDuration::from_secs(metadata.deletion_grace_period_seconds.unwrap());
        let deleted = metadata.deletion_timestamp.unwrap().0 - grace;
        Instant::now() - Timestamp::now().duration_since(deleted).unsigned_abs()
    }
}

impl Scenario {
    /// An external address that only nodes with a proxy serve.
    async fn local_address(&self, name: &str) -> SocketAddr {
        let local = "service: {type: LoadBalancer, externalTrafficPolicy: Local}";
        self.apply(&load_balancer_with(name, "listeners: [{port: 5432}]", "echo", local)).await;
        self.external_address(name, async |address| brief_visit(address).await.is_ok()).await
    }

    /// The node port of a Service that only nodes with a proxy serve.
    async fn local_node_port(&self, name: &str) -> u16 {
        let local = "service: {type: NodePort, externalTrafficPolicy: Local}";
        self.apply(&load_balancer_with(name, "listeners: [{port: 5432}]", "echo", local)).await;
        let status = self.status("it is programmed", name, |status| is(status, "Programmed", "True")).await;
        status.listeners[0].node_port.expect("the port of the nodes is told")
    }
}
