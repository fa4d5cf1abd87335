//! Backends are added and removed while clients notice nothing.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;

use crate::{
    backends::load_balancer,
    cluster::WAIT_LIMIT,
    load::{Guests, Load},
    scenario::{Scenario, is, is_not, scenario, until},
    scenarios::traffic::served,
    turns::Isolation,
};

/// Runs a scenario while new connections use a load balancer of the same name in front of this many pods of the Service
/// `echo`. None of the connections may fail.
pub async fn under_load(name: &str, pods: i32, story: impl AsyncFnOnce(&Scenario, &Load)) {
    scenario(name, Isolation::Shared, async |scenario| {
        scenario.backends("echo", pods).await;
        scenario.apply(&load_balancer(name, 5432, "echo")).await;
        let address = scenario.ready(name).await;
        served(address).await;
        let load = Load::start(address);
        story(scenario, &load).await;
        load.goes_on_for(50).await;
        load.end().await.assert_no_failure();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_scale_from_none_to_five_to_two_without_an_error() {
    scenario("scale", Isolation::Shared, async |scenario| {
        scenario.backends("echo", 0).await;
        scenario.apply(&load_balancer("scale", 5432, "echo")).await;
        let none = |status: &_| is(status, "Programmed", "True") && is(status, "BackendsHealthy", "False");
        scenario.status("there is nobody", "scale", none).await;
        let address = scenario.programmed("scale").await;

        scenario.scale("echo", 5).await;
        // Once the status shows an endpoint, every proxy has it, and each connection is served.
        scenario.status("somebody is there", "scale", |status| is(status, "BackendsHealthy", "True")).await;
        served(address).await;
        let load = Load::start(address);
        load.is_served_by("five serve", WAIT_LIMIT, |backends| backends.len() == 5).await;
        let all_ready = |status: &tcplb::api::TcpLoadBalancerStatus| {
            is(status, "BackendsHealthy", "True") && status.summary.as_ref().unwrap().ready.as_deref() == Some("5/5")
        };
        scenario.status("five are counted", "scale", all_ready).await;

        scenario.scale("echo", 2).await;
        scenario.backends_are_ready(&scenario.namespace, "echo", 2).await;
        load.is_served_by("two serve", WAIT_LIMIT, |backends| backends.len() == 2).await;
        load.goes_on_for(100).await;
        load.end().await.assert_no_failure();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_terminates_gracefully_keeps_its_clients_and_gets_no_new_ones() {
    under_load("deletion", 3, async |scenario, load| {
        let guests = Guests::arrive(load.address, 12).await;
        let pod = guests.at.keys().next().unwrap().clone();

        scenario.api::<Pod>().delete(&pod, &DeleteParams::default()).await.unwrap();
        let others = |backends: &BTreeSet<String>| !backends.contains(&pod);
        load.is_served_by("new connections go elsewhere", WAIT_LIMIT, others).await;
        let still = scenario.api::<Pod>().get_opt(&pod).await.unwrap();
        assert!(still.is_some_and(|pod| pod.metadata.deletion_timestamp.is_some()), "the pod is still on its way out");
        assert_eq!(guests.still_here(), 12, "who is connected stays while the pod serves");

        until(scenario.api(), "the pod has gone", &pod, 2 * WAIT_LIMIT, |pod: Option<&Pod>| pod.is_none()).await;
        // The pod itself has closed its connections.
        for ending in guests.leave().await {
            assert_eq!(ending.backend, pod, "{ending:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_backends_clients_are_refused_with_a_reason() {
    scenario("nobody", Isolation::Shared, async |scenario| {
        scenario.backends("echo", 0).await;
        scenario.apply(&load_balancer("nobody", 5432, "echo")).await;
        let none = |status: &_| is_not(status, "BackendsHealthy", "NoEndpoints");
        let status = scenario.status("there is nobody", "nobody", none).await;
        assert_eq!(status.summary.unwrap().ready.as_deref(), Some("0/0"));
        let address = scenario.programmed("nobody").await;
        assert!(crate::clients::visit(address).await.is_err());
    })
    .await;
}
