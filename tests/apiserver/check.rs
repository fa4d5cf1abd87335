//! `tcplb check --cluster` looks up the references of files.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use k8s_openapi::api::{
    core::v1::{ConfigMap, Secret, Service},
    discovery::v1::EndpointSlice,
    rbac::v1::{Role, RoleBinding},
};
use kube::{Api, Client, Resource, ResourceExt, api::PostParams};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    harness,
    source::alone::{ADMINISTRATOR, Alone, RESTRICTED_USER},
};

#[tokio::test]
async fn references_are_looked_up_and_missing_permissions_are_named() {
    let Some(alone) = Alone::start() else { return };
    let api = alone.api();
    api.ready().await;
    let client = api.client(ADMINISTRATOR);
    create_referenced_objects(&client).await;
    let administrator = api.kubeconfig(ADMINISTRATOR);
    let (code, told) = check(&administrator, &manifest("pg", 5432, ""));
    assert_eq!((code, &*told), (0, "default/pg (standard input): accepted\n"));
    let (code, told) = check(&administrator, &manifest("gone", 5432, ""));
    assert!(code == 1 && told.contains("Service default/gone does not exist: create it"), "{told}");
    let (code, told) = check(&administrator, &manifest("pg", 80, ""));
    assert!(code == 1 && told.contains("Service default/pg has no port 80: write one of 5432"), "{told}");
    let tls = ", tls: {certificateRefs: [{name: pg-tls}], clientValidation: {caRefs: [{name: clients}]}}";
    let (code, told) = check(&administrator, &manifest("pg", 5432, tls));
    assert!(code == 1 && told.contains("Secret default/pg-tls has no tls.crt"), "{told}");
    assert!(told.contains("ConfigMap default/clients has no key ca.crt"), "{told}");

    // A user without permissions is told which ones to request.
    let restricted = api.kubeconfig(RESTRICTED_USER);
    let (code, told) = check(&restricted, &manifest("pg", 5432, tls));
    assert_eq!(code, 0, "{told}");
    for right in ["get services", "get secrets", "get configmaps"] {
        assert!(told.contains("this user may not read "), "{told}");
        assert!(told.contains(&format!(": request permission to {right}")), "{told}");
    }
    assert!(told.contains("kubectl auth can-i get secrets -n default"), "{told}");
    allow_reading_services(&client).await;
    let endpoints =
        "unknown: spec.backends[0].service.name: this user may not read the endpoints of Service default/pg";
    let deadline = std::time::Instant::now() + harness::WAIT_LIMIT;
    loop {
        let (code, told) = check(&restricted, &manifest("pg", 5432, ""));
        if code == 0 && told.contains(endpoints) && told.contains("list endpointslices.discovery.k8s.io") {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{told}");
    }
}

/// A Service with an endpoint, and a ConfigMap and a Secret without the expected keys.
async fn create_referenced_objects(client: &Client) {
    create::<Service>(
        client,
        json!({
            "metadata": {"name": "pg"}, "spec": {"ports": [{"port": 5432}], "selector": {"app": "pg"}},
        }),
    )
    .await;
    create::<EndpointSlice>(
        client,
        json!({
            "metadata": {"name": "pg-1", "labels": {"kubernetes.io/service-name": "pg"}},
            "addressType": "IPv4", "ports": [{"port": 5432}], "endpoints": [{"addresses": ["10.1.2.3"]}],
        }),
    )
    .await;
    create::<ConfigMap>(client, json!({"metadata": {"name": "clients"}, "data": {"other": "text"}})).await;
    create::<Secret>(client, json!({"metadata": {"name": "pg-tls"}})).await;
}

async fn allow_reading_services(client: &Client) {
    create::<Role>(client, json!({
        "metadata": {"name": "services"}, "rules": [{"apiGroups": [""], "resources": ["services"], "verbs": ["get"]}],
    }))
    .await;
    create::<RoleBinding>(
        client,
        json!({
            "metadata": {"name": "services"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "services"},
            "subjects": [{"kind": "User", "name": RESTRICTED_USER, "apiGroup": "rbac.authorization.k8s.io"}],
        }),
    )
    .await;
}

fn manifest(service: &str, port: u16, tls: &str) -> String {
    format!(
        "apiVersion: tcplb.io/v1alpha1\nkind: TcpLoadBalancer\nmetadata: {{name: pg}}\nspec:\n  \
         listeners: [{{port: 5432{tls}}}]\n  backends: [{{service: {{name: {service}, port: {port}}}}}]\n"
    )
}

fn check(kubeconfig: &Path, manifest: &str) -> (i32, String) {
    let mut check = Command::new(env!("CARGO_BIN_EXE_tcplb"))
        .args(["check", "--cluster", "-"])
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check.stdin.take().unwrap().write_all(manifest.as_bytes()).unwrap();
    let output = check.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

async fn create<T>(client: &Client, object: Value)
where
    T: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Serialize
        + std::fmt::Debug,
{
    let object: T = serde_json::from_value(object).unwrap();
    let api = Api::<T>::namespaced(client.clone(), "default");
    api.create(&PostParams::default(), &object).await.unwrap_or_else(|error| panic!("{}: {error}", object.name_any()));
}
