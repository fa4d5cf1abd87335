//! `kubectl tcplb` with an API server, without pods.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command, time::Instant};

use k8s_openapi::{
    api::{
        core::v1::{Namespace, Pod, Secret},
        rbac::v1::{ClusterRole, ClusterRoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DynamicObject, Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    harness,
    source::alone::{ADMINISTRATOR, Alone, RESTRICTED_USER},
};

/// A text that no output may contain.
const PASSWORD: &str = "hunter2-never-show-this";

#[tokio::test]
async fn commands_read_the_cluster_name_missing_permissions_and_show_no_secrets() {
    let Some(alone) = Alone::start() else { return };
    let api = alone.api();
    api.ready().await;
    let client = api.client(ADMINISTRATOR);
    let kubeconfig = api.kubeconfig(ADMINISTRATOR);

    let (code, told, _) = kubectl(&kubeconfig, &["doctor", "--pre", "-o", "json"]);
    let results: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((code, &results["errors"]), (0, &json!(0)), "{told}");
    assert_eq!(results["results"].as_array().unwrap().len(), 3, "{told}");
    let (code, _, error) = kubectl(&kubeconfig, &["status", "-n", "shop"]);
    assert!(code == 1 && error.contains("cannot list tcploadbalancers.tcplb.io in namespace shop"), "{error}");

    declare(&client).await;
    until(|| kubectl(&kubeconfig, &["status", "-n", "shop"]).1.contains("pg"));
    let (code, told, _) = kubectl(&kubeconfig, &["status", "pg", "-n", "shop"]);
    assert_eq!(code, 0);
    assert!(told.contains("no status has been written yet") && told.contains("no replica was found"), "{told}");
    let (code, _, error) = kubectl(&kubeconfig, &["status", "gone", "-n", "shop"]);
    assert!(code == 1 && error.contains("TcpLoadBalancer shop/gone does not exist"), "{error}");

    let (code, told, _) = kubectl(&kubeconfig, &["doctor", "-o", "json"]);
    let results: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((code, &results["errors"]), (1, &json!(1)), "{told}");
    assert!(told.contains("no replica was found: install the chart"), "{told}");

    names_are_completed(&kubeconfig);
    endpoints_are_drained_and_used_again(&kubeconfig);
    without_permissions(&kubeconfig);
    with_permissions_on_load_balancers(&client, &kubeconfig).await;
    bundles_contain_no_secrets(&kubeconfig);
    pods_of_tenants_are_no_replicas(&client, &kubeconfig).await;
}

async fn declare(client: &Client) {
    let mut crd = serde_json::to_value(tcplb::api::crd()).unwrap();
    (crd["apiVersion"], crd["kind"]) = ("apiextensions.k8s.io/v1".into(), "CustomResourceDefinition".into());
    apply(&Api::<CustomResourceDefinition>::all(client.clone()), crd).await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    apply(&Api::<Namespace>::all(client.clone()), namespace).await;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pg-monitor"}, "stringData": {"password": PASSWORD},
    });
    apply(&Api::<Secret>::namespaced(client.clone(), "shop"), secret).await;
    let object = json!({
        "apiVersion": "tcplb.io/v1alpha1",
        "kind": "TcpLoadBalancer",
        "metadata": {"name": "pg", "annotations": {"example.com/token": PASSWORD}},
        "spec": {
            "listeners": [{"port": 5432}],
            "backends": [{"service": {"name": "pg", "port": 5432}}],
            "healthCheck": {"active": {
                "type": "HTTP", "http": {"headers": [{"name": "Authorization", "value": PASSWORD}]},
            }},
        },
    });
    let load_balancers: Api<tcplb::api::TcpLoadBalancer> = Api::namespaced(client.clone(), "shop");
    let deadline = Instant::now() + harness::WAIT_LIMIT;
    // The API server serves a new definition after a moment.
    while load_balancers.list(&Default::default()).await.is_err() {
        assert!(Instant::now() < deadline, "the definition is not served");
        tokio::task::yield_now().await;
    }
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    let resource = kube::api::ApiResource::erase::<tcplb::api::TcpLoadBalancer>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "shop", &resource);
    api.patch("pg", &PatchParams::apply("test"), &Patch::Apply(&object)).await.unwrap();
}

/// The program answers kubectl under another name.
fn names_are_completed(kubeconfig: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("kubectl_complete-tcplb");
    symlink(env!("CARGO_BIN_EXE_tcplb"), &program).unwrap();
    let completed = |words: &[&str]| {
        let output = Command::new(&program).args(words).env("KUBECONFIG", kubeconfig).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(completed(&["status", "-n", "shop", ""]), "pg\n:4\n");
    assert_eq!(completed(&["--namespace=shop", "drain", "p"]), "pg\n:4\n");
    assert_eq!(completed(&["status", "-n", "default", ""]), ":4\n");
    assert_eq!(completed(&["status", "-n", "shop", "--as", RESTRICTED_USER, ""]), ":4\n");
}

fn endpoints_are_drained_and_used_again(kubeconfig: &Path) {
    let run = |arguments: &str| {
        let arguments: Vec<&str> = arguments.split(' ').chain(["-n", "shop"]).collect();
        kubectl(kubeconfig, &arguments)
    };
    let (code, told, _) = run("drain pg pg-0 10.0.0.1:5432");
    assert_eq!(code, 0, "{told}");
    assert!(told.starts_with("tcploadbalancer shop/pg: drained: pg-0, 10.0.0.1:5432\n"), "{told}");
    assert!(told.contains("open connections are kept") && told.contains("pod shop/pg-0 does not exist"), "{told}");
    assert!(told.contains("note: 10.0.0.1:5432 is not an endpoint of shop/pg now"), "{told}");
    assert!(run("drain pg pg-0 pg-1").1.starts_with("tcploadbalancer shop/pg: drained: pg-0, 10.0.0.1:5432, pg-1\n"));
    assert_eq!(run("undrain pg pg-0").1, "tcploadbalancer shop/pg: drained: 10.0.0.1:5432, pg-1\n");
    let (code, _, error) = run("undrain pg pg-0");
    assert!(code == 1 && error.contains("pg-0 is not drained in TcpLoadBalancer shop/pg"), "{error}");
    assert_eq!(run("undrain pg --all").1, "tcploadbalancer shop/pg: no endpoint is drained\n");
    let (code, _, error) = run("drain pg db_0");
    assert!(code == 2 && error.contains("`db_0` is not an endpoint: write the name of a pod"), "{error}");
    let (code, _, error) = run("drain gone pg-0");
    assert!(code == 1 && error.contains("TcpLoadBalancer shop/gone does not exist"), "{error}");
    let (code, _, error) = run("failback pg");
    assert!(code == 1 && error.contains("shop/pg needs no request to fail back"), "{error}");
}

fn without_permissions(kubeconfig: &Path) {
    let (code, _, error) = kubectl(kubeconfig, &["status", "-n", "shop", "--as", RESTRICTED_USER]);
    let expected = "this user may not list tcploadbalancers.tcplb.io in namespace shop: the ClusterRole view, edit or \
                    admin grants it";
    assert!(code == 1 && error.contains(expected), "{error}");
    let (_, told, _) = kubectl(kubeconfig, &["doctor", "--as", RESTRICTED_USER]);
    assert!(told.contains("this user may not list pods in all namespaces: the chart's ClusterRole"), "{told}");
    let (code, _, error) = kubectl(kubeconfig, &["bundle", "-o", "-", "--as", RESTRICTED_USER]);
    assert!(code == 1 && error.contains("this user may not list tcploadbalancers"), "{error}");
}

async fn with_permissions_on_load_balancers(client: &Client, kubeconfig: &Path) {
    let name = "load-balancers";
    let rule = json!({"apiGroups": ["tcplb.io"], "resources": ["tcploadbalancers"], "verbs": ["get", "list"]});
    let group = "rbac.authorization.k8s.io";
    let role = json!({
        "apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": {"name": name}, "rules": [rule],
    });
    apply(&Api::<ClusterRole>::all(client.clone()), role).await;
    let binding = json!({
        "apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "User", "name": RESTRICTED_USER, "apiGroup": group}],
    });
    apply(&Api::<ClusterRoleBinding>::all(client.clone()), binding).await;
    let status = || kubectl(kubeconfig, &["status", "-A", "--as", RESTRICTED_USER]);
    until(|| status().0 == 0);
    let (_, told, _) = status();
    assert!(told.contains("replicas are not shown: this user may not list pods in all namespaces"), "{told}");
}

fn bundles_contain_no_secrets(kubeconfig: &Path) {
    let folder = tempfile::tempdir().unwrap();
    for (file, flags) in [("plain.tar.gz", &[][..]), ("hashed.tar.gz", &["--hash-names"])] {
        let path = folder.path().join(file);
        let mut arguments = vec!["bundle", "-o", path.to_str().unwrap()];
        arguments.extend(flags);
        let (code, told, error) = kubectl(kubeconfig, &arguments);
        assert_eq!((code, told.trim()), (0, path.to_str().unwrap()), "{error}");
        let (code, _, error) = kubectl(kubeconfig, &arguments);
        assert!(code == 1 && error.contains("cannot create"), "an archive is not overwritten: {error}");
        let status = Command::new("tar").arg("-xzf").arg(&path).current_dir(folder.path()).status().unwrap();
        assert!(status.success());
        let unpacked = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let unpacked = unpacked.into_iter().find(|path| path.is_dir()).unwrap();
        let all = all_text(&unpacked);
        assert!(!all.contains(PASSWORD) && !all.contains("managedFields"), "{all}");
        let is_hashed = !flags.is_empty();
        for name in ["\"name\": \"pg\"", "\"namespace\": \"shop\""] {
            assert_eq!(all.contains(name), !is_hashed, "{name}: {all}");
        }
        fs::remove_dir_all(unpacked).unwrap();
    }
}

/// A pod with the labels of a replica counts until the ClusterRoleBinding of an installation names other namespaces.
async fn pods_of_tenants_are_no_replicas(client: &Client, kubeconfig: &Path) {
    let labels = json!({"app.kubernetes.io/name": "tcplb"});
    let container = json!({"name": "tcplb", "image": "fake", "ports": [{"name": "admin", "containerPort": 9900, "protocol": "TCP"}]});
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "fake", "labels": labels},
        "spec": {"containers": [container]},
    });
    apply(&Api::<Pod>::namespaced(client.clone(), "shop"), pod).await;
    let shown = || kubectl(kubeconfig, &["status", "pg", "-n", "shop"]).1.contains("fake");
    until(shown);

    let group = "rbac.authorization.k8s.io";
    let binding = json!({
        "apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding",
        "metadata": {"name": "tcplb-system-tcplb", "labels": labels},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "tcplb", "namespace": "tcplb-system"}],
    });
    apply(&Api::<ClusterRoleBinding>::all(client.clone()), binding).await;
    until(|| !shown());
    let (_, _, error) = kubectl(kubeconfig, &["status", "pg", "-n", "shop"]);
    assert!(error.contains("are ignored") && error.contains("shop/fake; if they are replicas, set"), "{error}");
    let (_, told, _) = kubectl(kubeconfig, &["doctor", "--skip-connections"]);
    assert!(told.contains("shop/fake: the pod has the labels of a replica, but is ignored"), "{told}");
    let (_, told, error) = kubectl(kubeconfig, &["status", "pg", "-n", "shop", "--install-namespace", "shop"]);
    assert!(told.contains("fake") && !error.contains("ignored"), "the flag selects any namespace: {told}{error}");
}

/// The paths and contents of all files.
fn all_text(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        text += &format!("{}\n", path.file_name().unwrap().to_str().unwrap());
        text += &if path.is_dir() { all_text(&path) } else { fs::read_to_string(path).unwrap() };
    }
    text
}

/// Runs `tcplb kubectl`. Returns its exit code, standard output and standard error.
fn kubectl(kubeconfig: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tcplb"))
        .arg("kubectl")
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn until(holds: impl Fn() -> bool) {
    harness::wait_until("the API server has applied the change", holds);
}

async fn apply<T>(api: &Api<T>, object: Value)
where
    T: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    let applied = api.patch(&object.name_any(), &PatchParams::apply("test"), &Patch::Apply(&object)).await;
    applied.unwrap_or_else(|error| panic!("{}: {error}", object.name_any()));
}
