//! Failover between groups of pods, and draining of terminating pods.

use std::net::SocketAddr;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;
use tcplb::api::{BackendStatus, TcpLoadBalancerStatus};

use crate::{
    backends::{PORT, echo_pod, load_balancer_with},
    clients::{Failure, visit},
    cluster::{WAIT_LIMIT, eventually},
    load::{Guests, Load},
    scenario::{Scenario, condition, scenario, sentence},
    scenarios::traffic::served,
    turns::Isolation,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_spare_serves_while_the_first_has_no_pod_and_the_status_says_so() {
    scenario("failover", Isolation::Shared, async |scenario| {
        scenario.backends("main", 1).await;
        scenario.backends("spare", 1).await;
        scenario
            .apply(&format!(
                "
apiVersion: tcplb.io/v1alpha1
kind: TcpLoadBalancer
metadata: {{name: failover}}
spec:
  listeners: [{{port: 5432}}]
  backends:
  - {{name: main, service: {{name: main, port: {PORT}}}}}
  - {{name: spare, service: {{name: spare, port: {PORT}}}, priority: 1}}
"
            ))
            .await;
        let address = scenario.ready("failover").await;
        served(address).await;
        let first_serves = |status: &TcpLoadBalancerStatus| {
            is_because(status, "Healthy") && backend(status, "spare").standby == Some(1)
        };
        scenario.status("the spare stands by", "failover", first_serves).await;
        assert!(visit(address).await.unwrap().starts_with("main-"));

        let load = Load::start(address);
        scenario.scale("main", 0).await;
        let failed_over = |status: &TcpLoadBalancerStatus| {
            is_because(status, "FailedOver") && backend(status, "spare").standby.is_none()
        };
        let status = scenario.status("the spare serves", "failover", failed_over).await;
        let message = sentence(&status, "BackendsHealthy");
        assert!(message.contains("failed over") && message.contains("go to backends of priority 1"), "{message}");
        eventually("every proxy has failed over", WAIT_LIMIT, async || all_go_to("spare-", address).await).await;

        scenario.scale("main", 1).await;
        scenario.status("the first serves again", "failover", first_serves).await;
        eventually("every proxy has failed back", WAIT_LIMIT, async || all_go_to("main-", address).await).await;
        load.end().await.assert_no_failure();
    })
    .await;
}

/// True if 20 consecutive clients are served by these pods.
async fn all_go_to(pods: &str, address: SocketAddr) -> bool {
    for _ in 0..20 {
        if !visit(address).await.unwrap().starts_with(pods) {
            return false;
        }
    }
    true
}

fn is_because(status: &TcpLoadBalancerStatus, reason: &str) -> bool {
    condition(status, "BackendsHealthy").is_some_and(|condition| condition.reason == reason)
}

fn backend<'a>(status: &'a TcpLoadBalancerStatus, name: &str) -> &'a BackendStatus {
    status.backends.iter().find(|backend| backend.name == name).expect("it is told of")
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_pods_are_drained_before_they_stop_and_no_client_is_refused() {
    scenario("draining", Isolation::Shared, async |scenario| {
        // The pods could keep their connections for longer than the drain takes.
        scenario.deploy("echo", 2, &echo_pod(60)).await;
        let drain = "drain: {endpointTerminating: {policy: Close, after: 10s, spread: 3s}}";
        scenario.apply(&load_balancer_with("draining", "listeners: [{port: 5432}]", "echo", drain)).await;
        let address = scenario.ready("draining").await;
        served(address).await;
        let guests = Guests::arrive(address, 40).await;
        let load = Load::start(address);
        let restart = json!({"spec": {"template": {"metadata": {"annotations": {"restarted": "once"}}}}});
        scenario.api::<Deployment>().patch("echo", &PatchParams::default(), &Patch::Merge(restart)).await.unwrap();

        let is_draining = |status: &TcpLoadBalancerStatus| backend(status, "echo").draining.is_some();
        scenario.status("connections are to be closed", "draining", is_draining).await;
        eventually("all have been sent away", WAIT_LIMIT, async || guests.still_here() == 0).await;
        assert_eq!(going(scenario).await, 2, "the old pods are still there");
        let endings = guests.leave().await;
        assert!(endings.iter().all(|ending| ending.failure == Failure::Reset), "{endings:?}");
        scenario.status("nothing is left to be closed", "draining", |status| !is_draining(status)).await;
        load.end().await.assert_no_failure();
    })
    .await;
}

/// The number of pods that are being deleted.
async fn going(scenario: &Scenario) -> usize {
    let pods = scenario.api::<Pod>().list(&ListParams::default()).await.unwrap();
    pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some()).count()
}
