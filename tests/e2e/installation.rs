//! Releases of the chart.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    apps::v1::Deployment,
    coordination::v1::{Lease, LeaseSpec},
    core::v1::Pod,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::{
    cluster::{self, WAIT_LIMIT, eventually, script},
    scenario::until,
};

/// A release of the chart.
#[derive(Clone, Debug)]
pub struct Installation {
    pub release: String,
    pub namespace: String,
    /// The class of the load balancers that it serves.
    pub class: String,
}

impl Installation {
    /// The installation of all scenarios that do not affect others.
    pub async fn shared() -> Self {
        static INSTALLED: OnceCell<Installation> = OnceCell::const_new();
        INSTALLED.get_or_init(Self::install_shared).await.clone()
    }

    pub async fn install_shared() -> Self {
        let shared = Self { release: "tcplb".into(), namespace: "tcplb-system".into(), class: "tcplb".into() };
        let values = json!({
            "tenancy": {"allowedServiceTypes": ["ClusterIP", "NodePort", "LoadBalancer"]},
            "shutdownDelaySeconds": 5,
            "maxDrainSeconds": 20,
        });
        shared.helm_install(values).await;
        shared
    }

    /// An installation for one scenario, with further values. It serves the class with the name of the scenario's
    /// namespace.
    pub async fn own(scenario: &str, more: Value) -> Self {
        // The first scenario installs the CRD.
        Self::shared().await;
        let own = Self { release: scenario.into(), namespace: format!("{scenario}-system"), class: scenario.into() };
        let mut values = json!({"class": own.class, "crd": {"install": false}});
        merge(&mut values, more);
        own.helm_install(values).await;
        own
    }

    /// Installs the chart, or upgrades it to these values; returns when it is ready.
    pub async fn helm_install(&self, more: Value) {
        let image = cluster::image().expect("scenarios run with an image");
        let (repository, tag) = image.rsplit_once(':').unwrap_or((&image, "latest"));
        let mut values = json!({
            "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
            "log": {"connections": "off", "level": "info,tcplb=debug"},
        });
        merge(&mut values, more);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("values.yaml");
        std::fs::write(&file, values.to_string()).unwrap();
        let chart = cluster::root().join("charts/tcplb");
        let arguments = [
            "upgrade",
            "--install",
            &self.release,
            chart.to_str().unwrap(),
            "--namespace",
            &self.namespace,
            "--create-namespace",
            "--take-ownership",
            "--values",
            file.to_str().unwrap(),
            "--wait",
            "--timeout",
            "120s",
        ];
        let output = cluster::attempt("helm", &arguments).await;
        if !output.status.success() {
            println!("{}", self.diagnosis().await);
            panic!("helm install: {}", String::from_utf8_lossy(&output.stderr));
        }
    }

    pub async fn uninstall(&self) {
        script("helm", &["uninstall", &self.release, "--namespace", &self.namespace, "--wait", "--timeout", "120s"])
            .await;
    }

    /// The pods of the proxies that are not terminating.
    pub async fn pods(&self, client: &Client) -> Vec<Pod> {
        let selected = ListParams::default().labels(&format!("app.kubernetes.io/instance={}", self.release));
        let pods = self.pod_api(client).list(&selected).await.unwrap().items;
        let is_proxy = |pod: &Pod| {
            let runs = pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"));
            runs && pod.metadata.deletion_timestamp.is_none()
        };
        pods.into_iter().filter(is_proxy).collect()
    }

    pub fn pod_api(&self, client: &Client) -> Api<Pod> {
        Api::namespaced(client.clone(), &self.namespace)
    }

    pub fn deployment(&self, client: &Client) -> Api<Deployment> {
        Api::namespaced(client.clone(), &self.namespace)
    }

    /// The name of the Deployment: the chart does not repeat `tcplb`.
    pub fn full_name(&self) -> String {
        if self.release.contains("tcplb") { self.release.clone() } else { format!("{}-tcplb", self.release) }
    }

    /// The pod of the present leader.
    pub async fn leader(&self, client: &Client) -> Option<String> {
        self.lease(client).await?.holder_identity.filter(|holder| !holder.is_empty())
    }

    pub async fn lease(&self, client: &Client) -> Option<LeaseSpec> {
        let leases = Api::<Lease>::namespaced(client.clone(), &self.namespace);
        leases.get_opt(&self.full_name()).await.ok()??.spec
    }

    /// Waits until this many proxies are ready, and returns them by name.
    pub async fn ready_pods(&self, client: &Client, count: usize) -> BTreeMap<String, Pod> {
        let mut ready = BTreeMap::new();
        eventually(&format!("{count} proxies are ready"), WAIT_LIMIT * 2, async || {
            let pods = self.pods(client).await;
            let named = |pod: Pod| (pod.metadata.name.clone().unwrap(), pod);
            ready = pods.into_iter().filter(is_ready).map(named).collect();
            ready.len() == count
        })
        .await;
        ready
    }

    /// Changes the template of the proxies' pods, which replaces them. Returns when only new pods are left.
    pub async fn roll_out(&self, client: &Client, count: i32, template: Value) {
        let deployments = self.deployment(client);
        let old = self.ready_pods(client, count as usize).await;
        let change = Patch::Strategic(json!({"spec": {"template": template}}));
        deployments.patch(&self.full_name(), &PatchParams::default(), &change).await.unwrap();
        let done = |deployment: Option<&Deployment>| {
            deployment.is_some_and(|deployment| {
                let status = deployment.status.clone().unwrap_or_default();
                status.observed_generation == deployment.metadata.generation
                    && status.updated_replicas == Some(count)
                    && status.replicas == Some(count)
                    && status.available_replicas == Some(count)
            })
        };
        until(deployments, "the rollout is done", &self.full_name(), WAIT_LIMIT * 2, done).await;
        for name in old.keys() {
            let gone = |pod: Option<&Pod>| pod.is_none();
            until(self.pod_api(client), "the old pod has gone", name, WAIT_LIMIT * 2, gone).await;
        }
    }

    /// Replaces the pods without a change, like `kubectl rollout restart`.
    pub async fn restart(&self, client: &Client, count: i32) {
        let now = jiff::Timestamp::now().to_string();
        let annotations = json!({"kubectl.kubernetes.io/restartedAt": now});
        self.roll_out(client, count, json!({"metadata": {"annotations": annotations}})).await;
    }

    /// The state of the installation, for people.
    pub async fn diagnosis(&self) -> String {
        let namespace = self.namespace.as_str();
        let objects =
            cluster::kubectl(&["-n", namespace, "get", "pods,services,endpointslices,leases", "-o", "wide"]).await;
        let events = cluster::kubectl(&["-n", namespace, "get", "events", "--sort-by=.lastTimestamp"]).await;
        let selected = format!("app.kubernetes.io/instance={}", self.release);
        let log = ["-n", namespace, "logs", "--prefix", "--tail=80", "-l", &selected];
        let log = cluster::kubectl(&log).await;
        format!("--- {namespace}\n{objects}\n{events}\n--- logs\n{log}")
    }

    pub async fn remove(&self, client: &Client) {
        let _ = cluster::attempt("helm", &["uninstall", &self.release, "--namespace", &self.namespace]).await;
        let namespaces = Api::<k8s_openapi::api::core::v1::Namespace>::all(client.clone());
        let _ = namespaces.delete(&self.namespace, &DeleteParams::default()).await;
    }
}

/// Kills a container's process, as the kernel does when memory runs out. The API server is not needed.
pub async fn kill_container(pod: &Pod, container: &str) {
    let node = pod.spec.as_ref().unwrap().node_name.as_deref().unwrap();
    let status = pod.status.as_ref().unwrap();
    let all = status.container_statuses.iter().chain(&status.ephemeral_container_statuses).flatten();
    let id = all.filter(|status| status.name == container).find_map(|status| status.container_id.clone());
    script("kill", &[node, &id.expect("the container runs")]).await;
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Merges a value into another one; the merged value takes precedence.
fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}
