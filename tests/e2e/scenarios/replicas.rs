//! Removal of one proxy.

use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    backends::load_balancer,
    cluster::{WAIT_LIMIT, eventually},
    installation::{is_ready, kill_container},
    load::{Guests, Load},
    scenario::{scenario, until},
    scenarios::traffic::served,
    turns::Isolation,
};

fn restarts(pod: &Pod) -> i32 {
    pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0].restart_count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_killed_costs_its_own_connections_only() {
    scenario("sigkill", Isolation::Shared, async |scenario| {
        let own = scenario.install_own(json!({})).await;
        scenario.backends("echo", 2).await;
        let begun = Instant::now();
        scenario.apply(&load_balancer("sigkill", 5432, "echo")).await;
        let address = scenario.ready("sigkill").await;
        served(address).await;
        let usual = begun.elapsed();
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
        let limit = Duration::from_secs(30) + 3 * usual;
        assert!(killed.elapsed() < limit, "{:?}, usually {usual:?}", killed.elapsed());

        // The kubelet may report a while after the kill that the replica is not ready.
        let restarted = |pod: Option<&Pod>| pod.is_some_and(|pod| is_ready(pod) && restarts(pod) > 0);
        until(own.pod_api(&scenario.client), "it runs again", &leader, 2 * WAIT_LIMIT, restarted).await;
        let well = Instant::now();
        load.goes_on_for(200).await;
        let tally = load.end().await;
        assert_eq!(tally.failed_since(well), 0, "all is well again: {tally}");
        println!("measured: after the SIGKILL clients were refused for {:.1?}", tally.trouble());
        assert!(tally.trouble() < limit, "usually {usual:?}: {tally}");
        eventually("who was at the killed proxy has noticed", WAIT_LIMIT, async || guests.still_here() < 40).await;
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
        // Longer than kube-proxy takes on a busy machine.
        let own = scenario.install_own(json!({"shutdownDelaySeconds": 30, "maxDrainSeconds": 10})).await;
        scenario.backends("echo", 2).await;
        scenario.apply(&load_balancer("failover", 5432, "echo")).await;
        let address = scenario.ready("failover").await;
        served(address).await;
        let load = Load::start(address);
        own.ready_pods(&scenario.client, 2).await;
        let mut last = own.lease(&scenario.client).await.expect("there is a Lease");
        let leader = last.holder_identity.clone().expect("a replica leads");

        let pods = own.pod_api(&scenario.client);
        pods.delete(&leader, &DeleteParams::default()).await.unwrap();
        let deleted = Instant::now();
        let mut next = None;
        eventually("another replica leads", WAIT_LIMIT, async || {
            let Some(lease) = own.lease(&scenario.client).await else { return false };
            let holder = lease.holder_identity.as_deref().unwrap_or_default();
            if holder.is_empty() || holder == leader {
                last = lease;
            } else {
                next = Some(lease);
            }
            next.is_some()
        })
        .await;
        println!("measured: another leader {:.1?} after the deletion of the leader's pod", deleted.elapsed());
        // From the last renewal: the kubelet may tell the leader of the deletion late.
        let (renewed, acquired) = (last.renew_time.unwrap().0, next.unwrap().acquire_time.unwrap().0);
        let without_leader = acquired.duration_since(renewed);
        assert!(without_leader < SignedDuration::from_secs(20), "{without_leader:?}");
        scenario.apply(&load_balancer("meanwhile", 5433, "echo")).await;
        served(scenario.programmed("meanwhile").await).await;
        until(pods, "the pod has gone", &leader, 2 * WAIT_LIMIT, |pod: Option<&Pod>| pod.is_none()).await;
        load.goes_on_for(100).await;
        load.end().await.assert_no_failure();
    })
    .await;
}
