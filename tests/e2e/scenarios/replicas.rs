//! Removal of one proxy.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    backends::load_balancer,
    cluster::{WAIT_LIMIT, eventually},
    installation::kill_container,
    load::{Guests, Load},
    scenario::{scenario, until},
    scenarios::traffic::served,
    turns::Isolation,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_killed_costs_its_own_connections_only() {
    scenario("sigkill", Isolation::Shared, async |scenario| {
        let own = scenario.install_own(json!({})).await;
        scenario.backends("echo", 2).await;
        scenario.apply(&load_balancer("sigkill", 5432, "echo")).await;
        let address = scenario.programmed("sigkill").await;
        served(address).await;
        let (load, guests) = (Load::start(address), Guests::arrive(address, 40).await);
        let leader = own.leader(&scenario.client).await.expect("a replica leads");
        let pods = own.ready_pods(&scenario.client, 2).await;
        let victim = pods.iter().find(|(name, _)| **name == leader).expect("the leader is a pod").1;

        kill_container(victim, "tcplb").await;
        let killed = Instant::now();
        // Requests during the change are served soon, whichever replica leads.
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
    scenario("failover", Isolation::Shared, async |scenario| {
        let own = scenario.install_own(json!({"maxDrainSeconds": 10})).await;
        scenario.backends("echo", 2).await;
        scenario.apply(&load_balancer("failover", 5432, "echo")).await;
        let address = scenario.programmed("failover").await;
        served(address).await;
        let load = Load::start(address);
        own.ready_pods(&scenario.client, 2).await;
        let leader = own.leader(&scenario.client).await.expect("a replica leads");

        let pods = own.pod_api(&scenario.client);
        pods.delete(&leader, &DeleteParams::default()).await.unwrap();
        let deleted = Instant::now();
        eventually("somebody else leads", Duration::from_secs(20), async || {
            own.leader(&scenario.client).await.is_some_and(|now| now != leader)
        })
        .await;
        println!("measured: another leader {:.1?} after the deletion of the leader's pod", deleted.elapsed());
        scenario.apply(&load_balancer("meanwhile", 5433, "echo")).await;
        served(scenario.programmed("meanwhile").await).await;
        until(pods, "the pod has gone", &leader, WAIT_LIMIT, |pod: Option<&Pod>| pod.is_none()).await;
        load.goes_on_for(100).await;
        load.end().await.assert_no_failure();
    })
    .await;
}
