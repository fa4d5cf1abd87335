//! Proxies that go: by themselves, by order, all at once.

use std::time::Duration;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    backends::{load_balancer, load_balancer_with},
    clients::Failure,
    cluster::{PATIENCE, eventually},
    installation::{Installation, kill_container},
    load::{Guests, Load},
    scenario::{Company, Scenario, scenario, until},
    scenarios::traffic::served,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_killed_costs_its_own_connections_only() {
    scenario("sigkill", Company::Welcome, async |scenario| {
        let own = scenario.install_own(json!({})).await;
        scenario.backends("echo", 2).await;
        scenario.apply(&load_balancer("sigkill", 5432, "echo")).await;
        let address = scenario.programmed("sigkill").await;
        served(address).await;
        let (load, guests) = (Load::start(address), Guests::arrive(address, 40).await);
        let leader = own.leader(&scenario.client).await.expect("somebody leads");
        let pods = own.ready_pods(&scenario.client, 2).await;
        let victim = pods.iter().find(|(name, _)| **name == leader).expect("the leader is a pod").1;

        kill_container(victim, "tcplb").await;
        let killed = Instant::now();
        // What is asked for meanwhile is done soon, whoever leads now.
        scenario.apply(&load_balancer("meanwhile", 5433, "echo")).await;
        served(scenario.programmed("meanwhile").await).await;
        println!("measured: after a SIGKILL of the leader a new load balancer serves in {:.1?}", killed.elapsed());
        assert!(killed.elapsed() < Duration::from_secs(30), "{:?}", killed.elapsed());

        own.ready_pods(&scenario.client, 2).await;
        let well = Instant::now();
        load.goes_on_for(200).await;
        let tally = load.end().await;
        assert_eq!(tally.failed_since(well), 0, "all is well again: {tally}");
        assert!(tally.trouble() < Duration::from_secs(15), "{tally}");
        let stayed = guests.still_here();
        assert!((1..40).contains(&stayed), "who was at the other proxy stays, {stayed}");
        for ending in guests.leave().await {
            assert!(ending.at - killed < Duration::from_secs(15), "{ending:?} has nothing to do with it");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_proxy_leads_within_twenty_seconds_and_clients_do_not_notice() {
    scenario("failover", Company::Welcome, async |scenario| {
        let own = scenario.install_own(json!({"maxDrainSeconds": 10})).await;
        scenario.backends("echo", 2).await;
        scenario.apply(&load_balancer("failover", 5432, "echo")).await;
        let address = scenario.programmed("failover").await;
        served(address).await;
        let load = Load::start(address);
        own.ready_pods(&scenario.client, 2).await;
        let leader = own.leader(&scenario.client).await.expect("somebody leads");

        let pods = Api::<Pod>::namespaced(scenario.client.clone(), &own.namespace);
        pods.delete(&leader, &DeleteParams::default()).await.unwrap();
        let deleted = Instant::now();
        eventually("somebody else leads", Duration::from_secs(20), async || {
            own.leader(&scenario.client).await.is_some_and(|now| now != leader)
        })
        .await;
        println!("measured: another leader {:.1?} after the deletion of the leader's pod", deleted.elapsed());
        scenario.apply(&load_balancer("meanwhile", 5433, "echo")).await;
        served(scenario.programmed("meanwhile").await).await;
        until(pods, "the pod has gone", &leader, PATIENCE, |pod: Option<&Pod>| pod.is_none()).await;
        load.goes_on_for(100).await;
        load.end().await.assert_no_failure();
    })
    .await;
}

/// As `kubectl rollout restart` does it. Returns when only new pods are left.
async fn rollout_restart(scenario: &Scenario, own: &Installation) {
    let deployments = own.deployment(&scenario.client);
    let old = own.ready_pods(&scenario.client, 2).await;
    let now = jiff::Timestamp::now().to_string();
    let restart =
        json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": now}}}}});
    deployments.patch(&own.full_name(), &PatchParams::default(), &Patch::Merge(restart)).await.unwrap();
    let done = |deployment: Option<&Deployment>| {
        deployment.is_some_and(|deployment| {
            let status = deployment.status.clone().unwrap_or_default();
            status.observed_generation == deployment.metadata.generation
                && status.updated_replicas == Some(2)
                && status.replicas == Some(2)
                && status.available_replicas == Some(2)
        })
    };
    until(deployments, "the rollout is done", &own.full_name(), PATIENCE * 2, done).await;
    let pods = Api::<Pod>::namespaced(scenario.client.clone(), &own.namespace);
    for name in old.keys() {
        let gone = |pod: Option<&Pod>| pod.is_none();
        until(pods.clone(), "the old pod has gone", name, PATIENCE * 2, gone).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_refuses_nobody_and_long_connections_end_at_the_drain_deadline() {
    scenario("rollout", Company::Welcome, async |scenario| {
        let (delay, drain) = (10, 20);
        let own = scenario.install_own(json!({"shutdownDelaySeconds": delay, "maxDrainSeconds": drain})).await;
        scenario.backends("echo", 2).await;
        scenario.apply(&load_balancer("rollout", 5432, "echo")).await;
        let address = scenario.programmed("rollout").await;
        served(address).await;
        let guests = Guests::arrive(address, 200).await;
        let load = Load::start(address);
        let began = Instant::now();
        rollout_restart(scenario, &own).await;
        load.goes_on_for(200).await;
        load.end().await.assert_no_failure();

        let endings = guests.leave().await;
        assert_eq!(endings.len(), 200, "every proxy that they were at has gone");
        // They are sent away over the last half of the drain, and no pod was told to go before the rollout began.
        let soonest = endings.iter().map(|ending| ending.at - began).min().unwrap();
        let least = Duration::from_secs(delay) + Duration::from_secs(drain) / 2;
        println!("measured: of 200 long connections the first ended {soonest:.1?} after the rollout began");
        assert!(soonest >= least, "the first one ended after {soonest:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_behind_an_external_address_that_only_nodes_with_a_proxy_serve_refuses_nobody() {
    scenario("local", Company::Welcome, async |scenario| {
        let own = scenario
            .install_own(json!({
                "maxDrainSeconds": 10,
                "tenancy": {"allowedServiceTypes": ["ClusterIP", "LoadBalancer"]},
            }))
            .await;
        scenario.backends("echo", 2).await;
        let local = "service: {type: LoadBalancer, externalTrafficPolicy: Local}";
        scenario.apply(&load_balancer_with("local", "listeners: [{port: 5432}]", "echo", local)).await;
        let address = scenario.external_address("local").await;
        served(address).await;
        let load = Load::start(address);
        rollout_restart(scenario, &own).await;
        load.goes_on_for(200).await;
        let tally = load.end().await;
        // When the nodes change that the address leads to, so do the ways of connections that are open then, and a node
        // resets what it does not know. That is the router's doing, and meets each client once for each change at most.
        let (clients, changes) = (4, 4);
        assert!(tally.failures.iter().all(|(_, failure)| *failure == Failure::Reset), "nobody is refused: {tally}");
        assert!(tally.failures.len() <= clients * changes, "{tally}");
    })
    .await;
}
