//! Backends in pods: they send their pod's name first, and echo lines.

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{
    cluster::{self, WAIT_LIMIT},
    installation::is_ready,
    scenario::{Scenario, until},
};

/// The port of the backends, and of their Service.
pub const PORT: u16 = 5000;

/// The readiness probe of a container.
pub const READY: &str = "{tcpSocket: {port: 5000}, periodSeconds: 1}";

impl Scenario {
    /// Creates a Deployment and its Service with this name; returns when all pods are ready. A terminating pod serves
    /// for 30 more seconds, like applications with graceful termination: longer than Kubernetes takes on a busy machine
    /// to remove it from its EndpointSlice.
    pub async fn backends(&self, name: &str, count: i32) {
        self.backends_in(&self.namespace, name, count).await;
    }

    pub async fn backends_in(&self, namespace: &str, name: &str, count: i32) {
        self.deploy_in(namespace, name, count, &echo_pod(30)).await;
    }

    /// Creates a Deployment of these pods and its Service; returns when all pods are ready.
    pub async fn deploy(&self, name: &str, count: i32, pod: &str) {
        self.deploy_in(&self.namespace, name, count, pod).await;
    }

    async fn deploy_in(&self, namespace: &str, name: &str, count: i32, pod: &str) {
        let in_namespace = format!("metadata: {{namespace: {namespace}, name: {name}}}");
        for manifest in [service_of(name), deployment_of(name, count, pod)] {
            self.apply(&manifest.replace(&format!("metadata: {{name: {name}}}"), &in_namespace)).await;
        }
        self.backends_are_ready(namespace, name, count).await;
    }

    /// Scales the Deployment; does not wait.
    pub async fn scale(&self, name: &str, count: i32) {
        let replicas = json!({"spec": {"replicas": count}});
        self.api::<Deployment>().patch(name, &PatchParams::default(), &Patch::Merge(replicas)).await.unwrap();
    }

    /// Waits until exactly this many pods are ready, and none is terminating.
    pub async fn backends_are_ready(&self, namespace: &str, name: &str, count: i32) {
        let deployments = Api::<Deployment>::namespaced(self.client.clone(), namespace);
        until(deployments, &format!("{count} are ready"), name, WAIT_LIMIT, |deployment| {
            deployment.is_some_and(|deployment| {
                let status = deployment.status.clone().unwrap_or_default();
                status.observed_generation == deployment.metadata.generation
                    && status.ready_replicas.unwrap_or(0) == count
                    && status.replicas.unwrap_or(0) == count
            })
        })
        .await;
    }

    /// The ready pods.
    pub async fn pods_of(&self, name: &str) -> Vec<Pod> {
        let selected = ListParams::default().labels(&format!("app={name}"));
        let pods = self.api::<Pod>().list(&selected).await.unwrap().items;
        pods.into_iter().filter(|pod| is_ready(pod) && pod.metadata.deletion_timestamp.is_none()).collect()
    }
}

/// A Service for pods of this name.
pub fn service_of(name: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: echo, port: {PORT}}}]
"
    )
}

/// A Deployment of `count` pods with this name.
pub fn deployment_of(name: &str, count: i32, pod: &str) -> String {
    let pod: String = pod.lines().map(|line| format!("      {line}\n")).collect();
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {count}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
{pod}"
    )
}

/// A pod that sends its name and echoes. While it terminates it serves for this many more seconds.
pub fn echo_pod(stays: u32) -> String {
    let (container, seconds) = (echo_container(PORT), stays + 10);
    format!(
        "terminationGracePeriodSeconds: {seconds}
# The node that is lost in tests gives its pods back soon.
tolerations:
- {{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 5}}
containers:
{container}  readinessProbe: {READY}
  lifecycle: {{preStop: {{sleep: {{seconds: {stays}}}}}}}
"
    )
}

/// The same behind a process that terminates TLS, with these arguments and volumes. Each volume is mounted at the path
/// with its name.
pub fn sealed_pod(arguments: &str, volumes: &[(&str, &str)]) -> String {
    let (image, container) = (cluster::image().unwrap(), echo_container(PORT + 1));
    let mounts: Vec<String> = volumes.iter().map(|(name, _)| format!("{{name: {name}, mountPath: /{name}}}")).collect();
    let volumes: String = volumes.iter().map(|(name, what)| format!("- {{name: {name}, {what}}}\n")).collect();
    format!(
        "containers:
- name: tls
  image: {image}
  imagePullPolicy: Never
  args: [standalone, --admin, 'off', {arguments}]
  volumeMounts: [{}]
  readinessProbe: {READY}
{container}volumes:
{volumes}",
        mounts.join(", ")
    )
}

fn echo_container(port: u16) -> String {
    let image = cluster::image().unwrap();
    format!(
        "- name: backend
  image: {image}
  imagePullPolicy: Never
  args: [backend, --listen, ':{port}', --name, $(POD)]
  env: [{{name: POD, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]
"
    )
}

/// A load balancer with one port in front of a Service of backends.
pub fn load_balancer(name: &str, port: u16, backend: &str) -> String {
    load_balancer_with(name, &format!("listeners: [{{port: {port}}}]"), backend, "")
}

/// A load balancer with these listeners and further lines of its spec.
pub fn load_balancer_with(name: &str, listeners: &str, backend: &str, more: &str) -> String {
    let lines: String = listeners.lines().chain(more.lines()).map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: tcplb.io/v1alpha1\nkind: TcpLoadBalancer\nmetadata: {{name: {name}}}\nspec:\n\
         {lines}  backends: [{{service: {{name: {backend}, port: {PORT}}}}}]\n"
    )
}
