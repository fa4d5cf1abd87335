//! Failures of the cluster itself: a node, the API server.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    backends::load_balancer,
    cluster::{self, Away, WAIT_LIMIT, eventually},
    installation::kill_container,
    load::{Guests, Load},
    scenario::{is, scenario, until},
    scenarios::traffic::served,
    turns::Isolation,
};

/// The duration of an outage of the API server: the leader's term ends after 10 s, and its Lease is free after 15 s.
const OUTAGE: Duration = Duration::from_secs(20);
/// The time after which Kubernetes considers a node lost.
pub const LOST_AFTER: Duration = Duration::from_secs(90);

pub fn is_node_ready(node: Option<&Node>) -> bool {
    let conditions = node.and_then(|node| node.status.as_ref()?.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_node_costs_what_ran_there_and_the_status_follows() {
    scenario("node", Isolation::Exclusive, async |scenario| {
        let own = scenario.install_own(json!({})).await;
        scenario.backends("echo", 4).await;
        scenario.apply(&load_balancer("node", 5432, "echo")).await;
        let address = scenario.ready("node").await;
        served(address).await;

        // The node of the control plane stays. If the leader is on another node, that node is taken away.
        let nodes = Api::<Node>::all(scenario.client.clone());
        let names: Vec<String> = cluster::nodes(&scenario.client).await.into_iter().map(|(name, _)| name).collect();
        let node_of = |pod: &Pod| pod.spec.as_ref().unwrap().node_name.clone().unwrap();
        let pods = own.ready_pods(&scenario.client, 2).await;
        let leader = own.leader(&scenario.client).await.unwrap();
        let mut candidates: Vec<&Pod> = pods.values().filter(|pod| node_of(pod) != names[0]).collect();
        candidates.sort_by_key(|pod| pod.metadata.name.as_deref() != Some(leader.as_str()));
        let lost_proxy = candidates[0].metadata.name.clone().unwrap();
        let lost = node_of(candidates[0]);
        let number = 1 + names.iter().position(|name| *name == lost).unwrap();
        let backends = scenario.pods_of("echo").await;
        let lost_backends: Vec<&str> =
            backends.iter().filter(|pod| node_of(pod) == lost).filter_map(|pod| pod.metadata.name.as_deref()).collect();

        let (load, guests) = (Load::with_clients(address, 8), Guests::arrive(address, 40).await);
        let away = Away::node(number).await;
        let stopped = Instant::now();
        until(nodes.clone(), "it is seen that the node is lost", &lost, LOST_AFTER, |node: Option<&Node>| {
            !is_node_ready(node)
        })
        .await;
        println!("measured: Kubernetes takes {:.1?} to see that a node is lost", stopped.elapsed());

        load.is_served_by("only backends of other nodes serve", WAIT_LIMIT, |backends| {
            backends.iter().all(|name| !lost_backends.contains(&name.as_str()))
        })
        .await;
        load.is_well(WAIT_LIMIT).await;
        let well = Instant::now();
        assert!(guests.still_here() > 0, "whoever had nothing to do with the node is still here");

        if lost_proxy == leader {
            let led = async || own.leader(&scenario.client).await.is_some_and(|now| now != leader);
            eventually("somebody else leads", WAIT_LIMIT, led).await;
        }
        scenario.apply(&load_balancer("meanwhile", 5433, "echo")).await;
        served(scenario.programmed("meanwhile").await).await;
        scenario.status("it is programmed", "node", |status| is(status, "Programmed", "True")).await;
        let tally = load.end().await;
        assert_eq!(tally.failed_since(well), 0, "who comes now is served: {tally}");
        guests.leave().await;

        away.comes_back();
        until(nodes, "the node is back", &lost, WAIT_LIMIT, is_node_ready).await;
        served(address).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn serving_continues_without_the_api_server_and_catches_up_later() {
    scenario("outage", Isolation::Exclusive, async |scenario| {
        scenario.backends("echo", 3).await;
        scenario.apply(&load_balancer("outage", 5432, "echo")).await;
        let address = scenario.ready("outage").await;
        served(address).await;
        let proxies = scenario.installation().ready_pods(&scenario.client, 2).await;
        let restarts = |pod: &Pod| pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0].restart_count;
        let before: Vec<i32> = proxies.values().map(restarts).collect();
        let victim = scenario.pods_of("echo").await.into_iter().next().unwrap();
        let clients = 4;
        let (load, guests) = (Load::with_clients(address, clients), Guests::arrive(address, 20).await);

        let away = Away::api_server().await;
        let stopped = Instant::now();
        load.goes_on_for(200).await;
        // A pod changes during the outage: it is killed, and its node restarts it.
        kill_container(&victim, "backend").await;
        let of_the_victim = guests.at.get(victim.metadata.name.as_deref().unwrap()).copied().unwrap_or(0);
        sleep(OUTAGE.saturating_sub(stopped.elapsed())).await;
        load.goes_on_for(200).await;
        away.comes_back();

        scenario.scale("echo", 5).await;
        // Kubernetes' own controllers take a while to recover.
        load.is_served_by("five serve", WAIT_LIMIT * 3, |backends| backends.len() == 5).await;
        let tally = load.end().await;
        assert!(
            tally.failures.len() <= clients,
            "at most whoever was talking to the pod that died has noticed: {tally}"
        );
        assert_eq!(guests.leave().await.len(), of_the_victim, "only the guests of the pod that died have left");

        let proxies = scenario.installation().ready_pods(&scenario.client, 2).await;
        assert_eq!(proxies.values().map(restarts).collect::<Vec<i32>>(), before, "no proxy was started again");
        scenario.apply(&load_balancer("afterwards", 5433, "echo")).await;
        served(scenario.programmed("afterwards").await).await;
    })
    .await;
}
