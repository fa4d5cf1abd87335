//! A Service changes, and its EndpointSlices follow a moment later. Clients notice nothing.

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

use crate::{
    backends::PORT,
    cluster::{WAIT_LIMIT, eventually},
    scenario::Scenario,
    scenarios::churn::under_load,
};

const TIMES: usize = 8;

/// True if a Service has EndpointSlices, and all of them satisfy a condition.
async fn slices_are(scenario: &Scenario, what: &str, right: impl Fn(&EndpointSlice) -> bool) {
    let of_service = ListParams::default().labels("kubernetes.io/service-name=echo");
    eventually(what, WAIT_LIMIT, async || {
        let slices = scenario.api::<EndpointSlice>().list(&of_service).await.map(|slices| slices.items);
        slices.is_ok_and(|slices| !slices.is_empty() && slices.iter().all(&right))
    })
    .await;
}

async fn patch(scenario: &Scenario, change: serde_json::Value) {
    let change = Patch::Strategic(change);
    scenario.api::<Service>().patch("echo", &PatchParams::default(), &change).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn renaming_a_service_port_fails_no_connection() {
    under_load("rename", 2, async |scenario, load| {
        for time in 0..TIMES {
            let name = format!("name-{time}");
            patch(scenario, json!({"spec": {"ports": [{"name": name, "port": PORT}]}})).await;
            let renamed = |slice: &EndpointSlice| {
                slice.ports.iter().flatten().any(|port| port.name.as_deref() == Some(name.as_str()))
            };
            slices_are(scenario, "the slices have the new name", renamed).await;
            load.goes_on_for(50).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recreating_a_service_fails_no_connection() {
    under_load("recreate", 2, async |scenario, load| {
        let services = scenario.api::<Service>();
        let template = json!({
            "metadata": {"name": "echo"},
            "spec": {"selector": {"app": "echo"}, "ports": [{"name": "echo", "port": PORT}]},
        });
        let template: Service = serde_json::from_value(template).unwrap();
        for _ in 0..TIMES {
            services.delete("echo", &DeleteParams::default()).await.unwrap();
            let created = services.create(&Default::default(), &template).await.unwrap();
            let uid = created.metadata.uid.unwrap();
            let owned =
                |slice: &EndpointSlice| slice.metadata.owner_references.iter().flatten().any(|owner| owner.uid == uid);
            slices_are(scenario, "the slices are those of the new Service", owned).await;
            load.goes_on_for(50).await;
        }

        // The Service becomes one of another type, and then the previous one again.
        let external = json!({
            "spec": {"type": "ExternalName", "externalName": "db.example.com", "clusterIP": null, "clusterIPs": null},
        });
        services.patch("echo", &PatchParams::default(), &Patch::Merge(external)).await.unwrap();
        load.goes_on_for(50).await;
        services.delete("echo", &DeleteParams::default()).await.unwrap();
        services.create(&Default::default(), &template).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_endpoint_slices_fails_no_connection() {
    under_load("unlisted", 2, async |scenario, load| {
        let of_service = ListParams::default().labels("kubernetes.io/service-name=echo");
        for _ in 0..TIMES {
            let slices = scenario.api::<EndpointSlice>();
            let old = slices.list(&of_service).await.unwrap().items;
            slices.delete_collection(&DeleteParams::default(), &of_service).await.unwrap();
            slices_are(scenario, "Kubernetes has written new ones", |slice| {
                old.iter().all(|old| old.metadata.uid != slice.metadata.uid)
            })
            .await;
            load.goes_on_for(50).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_selects_other_pods_leads_to_them_alone() {
    under_load("switch", 2, async |scenario, load| {
        scenario.backends("green", 2).await;
        patch(scenario, json!({"spec": {"selector": {"app": "green"}}})).await;
        load.is_served_by("the other pods serve, and only they", WAIT_LIMIT, |backends| {
            backends.iter().all(|name| name.starts_with("green"))
        })
        .await;
    })
    .await;
}
