//! Conditions and Events that tools and people wait for.

use futures::future::join_all;
use kube::api::DeleteParams;
use serde_json::json;
use tcplb::api::TcpLoadBalancerStatus;

use crate::{
    backends::{PORT, deployment_of, echo_pod, load_balancer, load_balancer_with, service_of},
    clients::visit,
    cluster,
    load::Load,
    scenario::{Scenario, is, is_not, scenario, sentence},
    scenarios::{certificates::Certificate, churn::under_load, traffic::served},
    turns::Isolation,
};

impl Scenario {
    /// Waits with `kubectl wait`, like scripts.
    async fn kubectl_wait(&self, name: &str, condition: &str) {
        let (object, condition) = (format!("tcplb/{name}"), format!("--for=condition={condition}"));
        let output = cluster::kubectl(&["-n", &self.namespace, "wait", &object, &condition, "--timeout=60s"]).await;
        assert!(output.contains("condition met"), "{output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_is_what_kubectl_waits_for_and_follows_the_declaration() {
    scenario("ready", Isolation::Shared, async |scenario| {
        scenario.backends("echo", 1).await;
        scenario.apply(&load_balancer("ready", 5432, "echo")).await;
        scenario.kubectl_wait("ready", "Ready").await;
        let address = scenario.programmed("ready").await;
        served(address).await;
        let load = Load::start(address);

        let external = "{apiVersion: v1, kind: Service, metadata: {name: external}, \
                        spec: {type: ExternalName, externalName: db.example.com}}";
        scenario.apply(external).await;
        scenario.apply(&load_balancer("ready", 5432, "external")).await;
        scenario.kubectl_wait("ready", "Stalled").await;
        let stalled = |status: &_| is_not(status, "Ready", "Invalid") && is(status, "Stalled", "True");
        let status = scenario.status("a change is needed", "ready", stalled).await;
        assert!(sentence(&status, "Ready").contains("ExternalName"), "{status:?}");
        load.goes_on_for(50).await;

        scenario.apply(&load_balancer("ready", 5432, "echo")).await;
        scenario.kubectl_wait("ready", "Ready").await;
        let alone = |status: &TcpLoadBalancerStatus| {
            ["Stalled", "Reconciling"].iter().all(|type_| !status.conditions.iter().any(|one| one.type_ == *type_))
        };
        scenario
            .status("it is ready, and nothing else", "ready", |status| is(status, "Ready", "True") && alone(status))
            .await;
        load.goes_on_for(50).await;
        load.end().await.assert_no_failure();
    })
    .await;
}

/// The manifests of one application in this order: Service, Deployment, Secret, load balancer.
fn application(name: &str, order: [usize; 4]) -> String {
    let listener = format!("listeners: [{{port: 5432, tls: {{certificateRefs: [{{name: {name}}}]}}}}]");
    let manifests = [
        service_of(name),
        deployment_of(name, 1, &echo_pod(0)),
        Certificate::new("db.example.com").secret(name),
        load_balancer_with(name, &listener, name, ""),
    ];
    order.map(|index| manifests[index].clone()).join("\n---\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_is_applied_at_once_gets_no_warning_in_any_order() {
    scenario("orders", Isolation::Shared, async |scenario| {
        let orders = [[0, 1, 2, 3], [3, 2, 1, 0], [3, 0, 1, 2], [2, 3, 1, 0], [0, 3, 1, 2], [1, 2, 3, 0]];
        let apply = async |order: [usize; 4]| {
            let name = format!("order-{}", order.map(|index| index.to_string()).concat());
            scenario.apply(&application(&name, order)).await;
            scenario.status("it is ready", &name, |status| is(status, "Ready", "True")).await;
        };
        join_all(orders.map(apply)).await;
        let warnings = scenario.warnings("order-0123").await;
        assert!(warnings.is_empty(), "{warnings:#?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_references_are_pending_first_and_then_a_warning() {
    scenario("missing", Isolation::Shared, async |scenario| {
        let pending = |status: &_| is_not(status, "ResolvedRefs", "Pending");
        // The watch begins with the creation: after it, the status could already have its second state.
        let manifest = load_balancer("missing", 5432, "nowhere");
        let (status, ()) =
            tokio::join!(scenario.status("it may still come", "missing", pending), scenario.apply(&manifest));
        assert!(sentence(&status, "ResolvedRefs").contains("nowhere"), "{status:?}");
        let reported = |status: &_| is_not(status, "ResolvedRefs", "RefNotFound");
        scenario.status("it is reported", "missing", reported).await;
        let event = scenario.event("missing", "RefNotFound").await;
        assert_eq!(event.type_.as_deref(), Some("Warning"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_deletion_a_finalizer_holds_up_is_named_and_replaced_once_it_is_gone() {
    under_load("held", 1, async |scenario, _| {
        let other = load_balancer("leaving", 5433, "echo");
        scenario.apply(&other).await;
        served(scenario.programmed("leaving").await).await;
        let old = scenario.kept_service("leaving").await.unwrap();
        let name = old.metadata.name.clone().unwrap();
        scenario.hold_service(&name).await;
        scenario.system_services().delete(&name, &DeleteParams::default()).await.unwrap();

        let terminating = |status: &_| is_not(status, "Programmed", "ServiceTerminating");
        let status = scenario.status("its deletion is told", "leaving", terminating).await;
        let message = sentence(&status, "Programmed");
        assert!(message.contains(&name) && message.contains("example.com/stay"), "{message}");
        assert!(is(&status, "Reconciling", "True") && status.addresses.is_empty(), "{status:?}");

        scenario.let_go_of_services().await;
        let address = scenario.programmed("leaving").await;
        served(address).await;
        let new = scenario.kept_service("leaving").await.unwrap();
        assert_ne!(new.metadata.uid, old.metadata.uid);
        let warnings = scenario.warnings("echo").await;
        assert!(warnings.is_empty(), "{warnings:#?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_no_connection_reaches_are_reported_until_one_does() {
    scenario("failing", Isolation::Shared, async |scenario| {
        scenario.backends("echo", 1).await;
        // A Service of its own: its EndpointSlices never show the right port before it is corrected.
        let target = async |port: u16| {
            let service = json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "mistaken"},
                "spec": {"selector": {"app": "echo"}, "ports": [{"name": "echo", "port": PORT, "targetPort": port}]},
            });
            scenario.try_apply_value(service).await.unwrap();
        };
        target(PORT + 7).await;
        scenario.apply(&load_balancer("failing", 5432, "mistaken")).await;
        let address = scenario.programmed("failing").await;
        let load = Load::start(address);
        let fail = |status: &_| {
            is_not(status, "BackendsHealthy", "ConnectionsFail") && is_not(status, "Ready", "ConnectionsFail")
        };
        let status = scenario.status("it is told", "failing", fail).await;
        assert_eq!(status.summary.as_ref().unwrap().ready.as_deref(), Some("0/1"));
        assert!(sentence(&status, "BackendsHealthy").contains("targetPort"), "{status:?}");
        let event = scenario.event("failing", "ConnectionsFail").await;
        assert_eq!(event.type_.as_deref(), Some("Warning"));
        let tally = load.end().await;
        assert_eq!(tally.total_served(), 0, "{tally}");

        target(PORT).await;
        served(address).await;
        let healthy = |status: &TcpLoadBalancerStatus| {
            is(status, "Ready", "True") && status.summary.as_ref().unwrap().ready.as_deref() == Some("1/1")
        };
        scenario.status("all is well", "failing", healthy).await;
        visit(address).await.unwrap();
    })
    .await;
}
