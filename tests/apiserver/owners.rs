//! The owners of Services, on a real API server.

use std::collections::BTreeSet;

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Service},
};
use kube::{
    ResourceExt,
    api::{DeleteParams, PostParams},
};
use serde_json::json;
use tcplb::controller::{self, Settings};

use crate::leader::{Cell, Controller, spec, until};

/// The kinds and uids of the owners of a Service.
fn owners(service: &Service) -> BTreeSet<(String, String)> {
    service.owner_references().iter().map(|owner| (owner.kind.clone(), owner.uid.clone())).collect()
}

#[tokio::test]
async fn an_owner_that_is_deleted_alone_takes_no_service_along_and_all_together_do() {
    let Some(home) = Cell::new().await else { return };
    let workload = Some(controller::Workload::Deployment("proxies".into()));
    let settings = Settings { anchor: Some("anchor".into()), workload, ..home.settings("pod-a", "tcplb") };
    let create = PostParams::default();
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "proxies"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "none"}]}}},
    }))
    .unwrap();
    let deployment = home.api::<Deployment>().create(&create, &deployment).await.unwrap();
    let replicas: Service = serde_json::from_value(json!({
        "metadata": {"name": "tcplb-replicas", "annotations": {"tcplb.io/owner": "nobody"}},
        "spec": {"clusterIP": "None", "selector": {"a": "b"}},
    }))
    .unwrap();
    let replicas = home.api::<Service>().create(&create, &replicas).await.unwrap();
    let uid = |kind: &str, uid: Option<String>| (kind.to_owned(), uid.unwrap());
    let others = [uid("Deployment", deployment.uid()), uid("Service", replicas.uid())];

    // There is no anchor yet.
    let controller = Controller::with(&home, settings);
    home.apply("db", spec(json!([{"port": 1}]), json!({}))).await;
    let service = home.service_that("a Service comes", "db", |service| owners(service).len() == 3).await;
    let anchor = home.api::<ConfigMap>().get("anchor").await.unwrap();
    assert_eq!(anchor.annotations()["kubernetes.io/description"], controller::ANCHOR_DESCRIPTION);
    assert_eq!(anchor.owner_references().len(), 2, "it goes with the release");
    assert!(owners(&service).is_superset(&others.clone().into()));
    let ports =
        until("the list of ports is there", async || home.api::<ConfigMap>().get_opt("tcplb-ports").await.unwrap());
    let ports = ports.await;

    home.api::<ConfigMap>().delete("anchor", &DeleteParams::default()).await.unwrap();
    let is_new = |service: &Service| {
        let owners = owners(service);
        owners.len() == 3 && !owners.contains(&uid("ConfigMap", anchor.uid()))
    };
    let kept = home.service_that("there is another anchor", "db", is_new).await;
    assert_eq!(kept.uid(), service.uid());
    let kept_ports = home.api::<ConfigMap>().get("tcplb-ports").await.unwrap();
    assert_eq!(kept_ports.uid(), ports.uid());

    home.api::<Service>().delete("tcplb-replicas", &DeleteParams::default()).await.unwrap();
    let is_without = |service: &Service| !owners(service).contains(&others[1]);
    let kept = home.service_that("it is the others'", "db", is_without).await;
    assert_eq!((kept.uid(), owners(&kept).len()), (service.uid(), 2));

    // An uninstall in the worst order: the anchor is created again, and is owned by the object that is deleted next.
    home.api::<ConfigMap>().delete("anchor", &DeleteParams::default()).await.unwrap();
    home.service_that("there is an anchor once more", "db", |service| owners(service).len() == 2).await;
    home.api::<Deployment>().delete("proxies", &DeleteParams::background()).await.unwrap();
    until("the Service goes", async || home.service("db").await.is_none().then_some(())).await;
    until("so does the anchor", async || {
        home.api::<ConfigMap>().get_opt("anchor").await.unwrap().is_none().then_some(())
    })
    .await;
    controller.stop().await;
    home.remove().await;
}
