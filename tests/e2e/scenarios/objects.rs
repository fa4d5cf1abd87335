//! Objects of the release are deleted by hand, one by one.

use std::collections::BTreeSet;

use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{ConfigMap, Service},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::json;

use crate::{
    backends::load_balancer,
    cluster::{self, WAIT_LIMIT, eventually},
    installation::Installation,
    load::Load,
    scenario::{Scenario, is, scenario},
    scenarios::traffic::served,
    turns::Isolation,
};

/// The managed Service of the only load balancer.
async fn kept(services: &Api<Service>) -> Service {
    let ours = ListParams::default().labels("app.kubernetes.io/managed-by=tcplb");
    let mut found = services.list(&ours).await.unwrap().items;
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

async fn logs(own: &Installation) -> String {
    let proxies = format!("app.kubernetes.io/instance={}", own.release);
    cluster::kubectl(&["-n", &own.namespace, "logs", "--tail=-1", "-l", &proxies]).await
}

async fn stays_programmed(scenario: &Scenario, name: &str) {
    let status = scenario.load_balancer(name).await.status.unwrap();
    assert!(is(&status, "Programmed", "True"), "{status:?}");
}

/// Deletes a ConfigMap of the release, and waits until the controller has replaced it.
async fn is_created_again(maps: &Api<ConfigMap>, map: &str) {
    let old = maps.get(map).await.unwrap();
    maps.delete(map, &DeleteParams::default()).await.unwrap();
    eventually("it is created again", WAIT_LIMIT, async || {
        let new = maps.get_opt(map).await.unwrap();
        new.is_some_and(|new| new.uid() != old.uid() && new.annotations().contains_key("kubernetes.io/description"))
    })
    .await;
}

async fn nothing_is_left(services: &Api<Service>, maps: &Api<ConfigMap>) {
    eventually("no Service is left", WAIT_LIMIT, async || {
        services.list(&ListParams::default()).await.unwrap().items.is_empty()
    })
    .await;
    eventually("no ConfigMap is left", WAIT_LIMIT, async || {
        let left = maps.list(&ListParams::default()).await.unwrap().items;
        left.iter().all(|map| map.name_any() == "kube-root-ca.crt")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_objects_of_the_release_are_restored_or_reported() {
    scenario("objects", Isolation::Shared, async |scenario| {
        let quick = json!({"maxDrainSeconds": 1, "shutdownDelaySeconds": 0});
        let own = scenario.install_own(quick.clone()).await;
        scenario.backends("echo", 2).await;
        scenario.apply(&load_balancer("objects", 5432, "echo")).await;
        let address = scenario.ready("objects").await;
        served(address).await;
        let load = Load::with_clients(address, 4);
        let name = own.full_name();
        let services = Api::<Service>::namespaced(scenario.client.clone(), &own.namespace);
        let maps = Api::<ConfigMap>::namespaced(scenario.client.clone(), &own.namespace);
        let leases = Api::<Lease>::namespaced(scenario.client.clone(), &own.namespace);
        let before = kept(&services).await;
        assert_eq!(before.owner_references().len(), 3);

        for map in ["anchor", "ports"].map(|map| format!("{name}-{map}")) {
            is_created_again(&maps, &map).await;
            load.goes_on_for(50).await;
        }
        let anchor = maps.get(&format!("{name}-anchor")).await.unwrap();
        eventually("the Service belongs to the new anchor", WAIT_LIMIT, async || {
            let owners: BTreeSet<_> =
                kept(&services).await.owner_references().iter().map(|one| one.uid.clone()).collect();
            owners.len() == 3 && owners.contains(&anchor.uid().unwrap())
        })
        .await;
        leases.delete(&name, &DeleteParams::default()).await.unwrap();
        eventually("there is a leader", WAIT_LIMIT, async || own.leader(&scenario.client).await.is_some()).await;

        services.delete(&format!("{name}-replicas"), &DeleteParams::default()).await.unwrap();
        let missing = format!("Service {}/{name}-replicas does not exist", own.namespace);
        eventually("it is reported", WAIT_LIMIT, async || logs(&own).await.contains(&missing)).await;
        load.goes_on_for(50).await;
        stays_programmed(scenario, "objects").await;
        // A new declaration is served too.
        scenario.apply(&load_balancer("later", 5433, "echo")).await;
        served(scenario.programmed("later").await).await;

        own.helm_install(json!({"class": own.class, "crd": {"install": false}, "maxDrainSeconds": 1,
            "shutdownDelaySeconds": 0}))
            .await;
        let again = format!("resolved: {missing}");
        eventually("the chart brings it back", WAIT_LIMIT, async || logs(&own).await.contains(&again)).await;
        stays_programmed(scenario, "objects").await;
        let after = services.get(&before.name_any()).await.unwrap();
        assert_eq!(after.uid(), before.uid(), "the Service was there all the time");
        load.end().await.assert_no_failure();

        own.uninstall().await;
        nothing_is_left(&services, &maps).await;
    })
    .await;
}
