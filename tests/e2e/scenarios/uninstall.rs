//! Objects that an uninstall leaves behind.

use k8s_openapi::{
    api::rbac::v1::{ClusterRole, ClusterRoleBinding},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{Api, api::ListParams};
use serde_json::json;
use tcplb::api::TcpLoadBalancer;

use crate::{
    backends::load_balancer,
    clients::brief_visit,
    cluster::{self, WAIT_LIMIT, eventually},
    installation::Installation,
    scenario::{Scenario, scenario},
    scenarios::traffic::served,
    turns::Isolation,
};

/// The objects in the release's namespace, without those that every namespace has.
async fn left(own: &Installation) -> String {
    let kinds = "all,endpointslices,configmaps,secrets,serviceaccounts,roles,rolebindings,leases,poddisruptionbudgets,\
                 networkpolicies,horizontalpodautoscalers";
    let names = cluster::kubectl(&["-n", &own.namespace, "get", kinds, "-o", "name", "--ignore-not-found"]).await;
    let of_kubernetes = ["configmap/kube-root-ca.crt", "serviceaccount/default"];
    names.lines().filter(|name| !of_kubernetes.contains(name)).collect::<Vec<&str>>().join("\n")
}

async fn clusterwide(scenario: &Scenario, own: &Installation) -> usize {
    let of_release = ListParams::default().labels(&format!("app.kubernetes.io/instance={}", own.release));
    let roles = Api::<ClusterRole>::all(scenario.client.clone()).list(&of_release).await.unwrap().items.len();
    roles + Api::<ClusterRoleBinding>::all(scenario.client.clone()).list(&of_release).await.unwrap().items.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uninstall_leaves_nothing_but_the_crd_and_the_users_objects() {
    scenario("uninstall", Isolation::Shared, async |scenario| {
        let quick = json!({"maxDrainSeconds": 1, "shutdownDelaySeconds": 0});
        let own = scenario.install_own(quick.clone()).await;
        scenario.backends("echo", 1).await;
        scenario.apply(&load_balancer("stays", 5432, "echo")).await;
        served(scenario.programmed("stays").await).await;
        assert!(clusterwide(scenario, &own).await > 0);

        own.uninstall().await;
        let mut still = String::new();
        eventually("nothing is left", WAIT_LIMIT, async || {
            let now = left(&own).await;
            if now != still {
                println!("left: {now:?}");
                still = now;
            }
            still.is_empty()
        })
        .await;
        assert_eq!(clusterwide(scenario, &own).await, 0);
        let crds = Api::<CustomResourceDefinition>::all(scenario.client.clone());
        assert!(crds.get_opt("tcploadbalancers.tcplb.io").await.unwrap().is_some());
        assert!(scenario.api::<TcpLoadBalancer>().get_opt("stays").await.unwrap().is_some());

        // A new installation restores everything.
        scenario.install_own(quick).await;
        is_served_again(scenario, "stays").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_crd_outlives_the_release_that_brought_it() {
    scenario("crd", Isolation::Exclusive, async |scenario| {
        scenario.backends("echo", 1).await;
        scenario.apply(&load_balancer("stays", 5432, "echo")).await;
        served(scenario.programmed("stays").await).await;
        let shared = scenario.installation();
        shared.uninstall().await;
        let object = scenario.api::<TcpLoadBalancer>().get_opt("stays").await.unwrap();
        Installation::install_shared().await;
        assert!(object.is_some(), "the object is there without a controller");
        is_served_again(scenario, "stays").await;
    })
    .await;
}

/// The last published address is used: until the new controller publishes another one, the status has the old one.
async fn is_served_again(scenario: &Scenario, name: &str) {
    eventually("it is served again", WAIT_LIMIT, async || {
        let address = scenario.programmed(name).await;
        brief_visit(address).await.is_ok()
    })
    .await;
}
