//! Backends in pods: they say their pod's name first and send back what they get.

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{
    cluster::{self, PATIENCE},
    installation::is_ready,
    scenario::{Scenario, until},
};

/// The port that they listen at, and that their Service has.
pub const PORT: u16 = 5000;

impl Scenario {
    /// A Deployment and its Service of this name; returns when all are ready. A pod that is to go serves for ten more
    /// seconds, as applications do that know what a graceful termination is.
    pub async fn backends(&self, name: &str, count: i32) {
        self.backends_in(&self.namespace, name, count).await;
    }

    pub async fn backends_in(&self, namespace: &str, name: &str, count: i32) {
        let image = cluster::image().unwrap();
        self.apply(&format!(
            r#"
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: echo, port: {PORT}}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  replicas: {count}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 20
      # The node that is lost in tests gives its pods back soon.
      tolerations:
      - {{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 5}}
      containers:
      - name: backend
        image: {image}
        imagePullPolicy: Never
        args: [backend, --listen, ":{PORT}", --name, $(POD)]
        env: [{{name: POD, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]
        readinessProbe: {{tcpSocket: {{port: {PORT}}}, periodSeconds: 1}}
        lifecycle: {{preStop: {{sleep: {{seconds: 10}}}}}}
"#
        ))
        .await;
        self.backends_are_ready(namespace, name, count).await;
    }

    /// Scales them; does not wait.
    pub async fn scale(&self, name: &str, count: i32) {
        let replicas = json!({"spec": {"replicas": count}});
        self.api::<Deployment>().patch(name, &PatchParams::default(), &Patch::Merge(replicas)).await.unwrap();
    }

    /// Waits until exactly so many are ready, and none is on its way out any more.
    pub async fn backends_are_ready(&self, namespace: &str, name: &str, count: i32) {
        let deployments = Api::<Deployment>::namespaced(self.client.clone(), namespace);
        until(deployments, &format!("{count} are ready"), name, PATIENCE, |deployment| {
            deployment.is_some_and(|deployment| {
                let status = deployment.status.clone().unwrap_or_default();
                status.observed_generation == deployment.metadata.generation
                    && status.ready_replicas.unwrap_or(0) == count
                    && status.replicas.unwrap_or(0) == count
            })
        })
        .await;
    }

    /// The pods that are ready.
    pub async fn pods_of(&self, name: &str) -> Vec<Pod> {
        let selected = ListParams::default().labels(&format!("app={name}"));
        let pods = self.api::<Pod>().list(&selected).await.unwrap().items;
        pods.into_iter().filter(|pod| is_ready(pod) && pod.metadata.deletion_timestamp.is_none()).collect()
    }
}

/// A load balancer of one port before a Service of backends.
pub fn load_balancer(name: &str, port: u16, backend: &str) -> String {
    load_balancer_with(name, &format!("listeners: [{{port: {port}}}]"), backend, "")
}

/// The same with its listeners and further lines of its spec.
pub fn load_balancer_with(name: &str, listeners: &str, backend: &str, more: &str) -> String {
    let lines: String = listeners.lines().chain(more.lines()).map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: tcplb.io/v1alpha1\nkind: TcpLoadBalancer\nmetadata: {{name: {name}}}\nspec:\n\
         {lines}  backends: [{{service: {{name: {backend}, port: {PORT}}}}}]\n"
    )
}
