//! The managed Services of load balancers, and the ports behind them.

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use tcplb::api::TcpLoadBalancer;

use crate::{
    backends::load_balancer,
    clients::visit,
    cluster::{self, WAIT_LIMIT, eventually},
    installation::kill_container,
    load::{Guests, Load},
    scenario::{Scenario, condition, is, is_not, ready_in, scenario, sentence, until},
    scenarios::traffic::served,
    turns::Isolation,
};

impl Scenario {
    /// The managed Service of a load balancer.
    pub async fn kept_service(&self, name: &str) -> Option<Service> {
        let labels = format!("tcplb.io/namespace={},tcplb.io/name={name}", self.namespace);
        let services = self.system_services().list(&ListParams::default().labels(&labels)).await.unwrap().items;
        assert!(services.len() < 2, "one Service for a load balancer: {services:?}");
        services.into_iter().next()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_namespaces_offer_the_same_port() {
    scenario("twins", Isolation::Shared, async |scenario| {
        let other = scenario.another_namespace().await;
        scenario.backends("ours", 1).await;
        scenario.backends_in(&other, "theirs", 1).await;
        let object = load_balancer("postgres", 5432, "ours");
        scenario.apply(&object).await;
        let theirs = load_balancer("postgres", 5432, "theirs");
        scenario.apply(&theirs.replace("{name: postgres}", &format!("{{name: postgres, namespace: {other}}}"))).await;

        let ours = scenario.ready("postgres").await;
        let others = Api::<TcpLoadBalancer>::namespaced(scenario.client.clone(), &other);
        let theirs = ready_in(others, "postgres").await;
        assert_ne!(ours.ip(), theirs.ip());
        assert_eq!(ours.port(), theirs.port());
        for (address, name) in [(ours, "ours-"), (theirs, "theirs-")] {
            served(address).await;
            for _ in 0..20 {
                let backend = visit(address).await.unwrap();
                assert!(backend.starts_with(name), "{backend} answers instead of {name}");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_deleted_by_hand_comes_back() {
    scenario("handmade", Isolation::Shared, async |scenario| {
        scenario.backends("echo", 1).await;
        scenario.apply(&load_balancer("handmade", 5432, "echo")).await;
        served(scenario.programmed("handmade").await).await;

        let before = scenario.kept_service("handmade").await.expect("there is a Service");
        let name = before.metadata.name.clone().unwrap();
        scenario.system_services().delete(&name, &DeleteParams::default()).await.unwrap();
        let anew =
            |service: Option<&Service>| service.is_some_and(|service| service.metadata.uid != before.metadata.uid);
        until(scenario.system_services(), "it is back", &name, WAIT_LIMIT, anew).await;
        // The address may have changed: the status has the current one.
        let mut served_again = false;
        eventually("it is served again", WAIT_LIMIT, async || {
            let address = scenario.programmed("handmade").await;
            served_again = visit(address).await.is_ok();
            served_again
        })
        .await;

        // A manual change is reverted as well.
        let wrong = json!({"spec": {"selector": {"app.kubernetes.io/name": "wrong"}}});
        scenario.system_services().patch(&name, &PatchParams::default(), &Patch::Merge(wrong)).await.unwrap();
        let selector = before.spec.as_ref().unwrap().selector.clone();
        let right = |service: Option<&Service>| {
            service.is_some_and(|service| service.spec.as_ref().unwrap().selector == selector)
        };
        until(scenario.system_services(), "its selector is mended", &name, WAIT_LIMIT, right).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_object_leaves_nothing_and_disturbs_no_neighbour() {
    scenario("gone", Isolation::Shared, async |scenario| {
        scenario.backends("echo", 2).await;
        scenario.apply(&load_balancer("goes", 5432, "echo")).await;
        scenario.apply(&load_balancer("stays", 5433, "echo")).await;
        let (goes, stays) = (scenario.ready("goes").await, scenario.ready("stays").await);
        served(goes).await;
        served(stays).await;
        let (load, guests) = (Load::start(stays), Guests::arrive(stays, 10).await);
        let name = scenario.kept_service("goes").await.unwrap().metadata.name.unwrap();

        scenario.api::<TcpLoadBalancer>().delete("goes", &DeleteParams::default()).await.unwrap();
        until(scenario.system_services(), "its Service goes", &name, WAIT_LIMIT, |service: Option<&Service>| {
            service.is_none()
        })
        .await;
        eventually("nobody serves it", WAIT_LIMIT, async || visit(goes).await.is_err()).await;

        load.goes_on_for(100).await;
        load.end().await.assert_no_failure();
        assert!(guests.leave().await.is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_deleted_without_a_controller_are_cleaned_up_later() {
    scenario("absent", Isolation::Shared, async |scenario| {
        let own = scenario.install_own(json!({"maxDrainSeconds": 1, "shutdownDelaySeconds": 0})).await;
        scenario.backends("echo", 1).await;
        scenario.apply(&load_balancer("goes", 5432, "echo")).await;
        scenario.apply(&load_balancer("stays", 5433, "echo")).await;
        served(scenario.programmed("goes").await).await;
        let stays = scenario.programmed("stays").await;
        let name = scenario.kept_service("goes").await.unwrap().metadata.name.unwrap();

        let replicas = |count: i32| Patch::Merge(json!({"spec": {"replicas": count}}));
        let old = own.ready_pods(&scenario.client, 2).await;
        let deployment = own.deployment(&scenario.client);
        deployment.patch(&own.full_name(), &PatchParams::default(), &replicas(0)).await.unwrap();
        // A terminating replica still leads until its kubelet stops it.
        for name in old.keys() {
            let gone = |pod: Option<&Pod>| pod.is_none();
            until(own.pod_api(&scenario.client), "the old pod has gone", name, 2 * WAIT_LIMIT, gone).await;
        }
        scenario.api::<TcpLoadBalancer>().delete("goes", &DeleteParams::default()).await.unwrap();
        assert!(scenario.kept_service("goes").await.is_some(), "nobody is there to remove it");
        deployment.patch(&own.full_name(), &PatchParams::default(), &replicas(2)).await.unwrap();

        let gone = |service: Option<&Service>| service.is_none();
        until(scenario.system_services(), "its Service goes", &name, 2 * WAIT_LIMIT, gone).await;
        served(stays).await;
        assert_eq!(scenario.programmed("stays").await, stays, "what is still declared keeps its address");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_cannot_open_a_port_is_named_and_the_others_serve() {
    scenario("occupied", Isolation::Shared, async |scenario| {
        // With a range of one port, it is known which port will be opened.
        let own = scenario.install_own(json!({"ports": {"first": 20500, "last": 20500}})).await;
        scenario.backends("echo", 1).await;
        let pod = own.ready_pods(&scenario.client, 2).await.into_keys().next().unwrap();
        let pods = own.pod_api(&scenario.client);
        let squatter = json!({"spec": {"ephemeralContainers": [{
            "name": "squatter", "image": cluster::image().unwrap(), "imagePullPolicy": "Never",
            "args": ["backend", "--listen", ":20500", "--name", "squatter"],
        }]}});
        let patch = Patch::Strategic(squatter);
        pods.patch_subresource("ephemeralcontainers", &pod, &PatchParams::default(), &patch).await.unwrap();
        let runs = |pod: Option<&Pod>| {
            let statuses = pod.and_then(|pod| pod.status.as_ref()?.ephemeral_container_statuses.as_ref());
            statuses.is_some_and(|all| {
                all.iter().any(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()))
            })
        };
        until(pods.clone(), "the port is occupied", &pod, WAIT_LIMIT, runs).await;
        let ip = pods.get(&pod).await.unwrap().status.unwrap().pod_ip.unwrap();
        served(format!("{ip}:20500").parse().unwrap()).await;

        scenario.apply(&load_balancer("occupied", 5432, "echo")).await;
        let partial = |status: &_| is_not(status, "Programmed", "PartiallyBound");
        let status = scenario.status("it is told", "occupied", partial).await;
        assert!(sentence(&status, "Programmed").contains(&pod), "{:?}", condition(&status, "Programmed"));

        // The listener is served where the port is free; kube-proxy sends connections to both.
        let mut service = None;
        eventually("the port enters the Service all the same", WAIT_LIMIT, async || {
            service = scenario.kept_service("occupied").await;
            service.is_some()
        })
        .await;
        let service = service.unwrap();
        let address = format!("{}:5432", service.spec.unwrap().cluster_ip.unwrap()).parse().unwrap();
        eventually("the other proxy serves", WAIT_LIMIT, async || {
            visit(address).await.is_ok_and(|backend| backend.starts_with("echo-"))
        })
        .await;

        kill_container(&pods.get(&pod).await.unwrap(), "squatter").await;
        scenario.status("it is opened when it is free", "occupied", |status| is(status, "Programmed", "True")).await;
        eventually("only proxies are there", WAIT_LIMIT, async || {
            visit(address).await.is_ok_and(|backend| backend.starts_with("echo-"))
        })
        .await;
    })
    .await;
}
