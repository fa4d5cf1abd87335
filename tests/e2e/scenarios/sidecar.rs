//! `tcplb sidecar` in an application's pod, as manifests/sidecar.yaml has it.

use k8s_openapi::api::core::v1::Pod;

use crate::{
    backends::load_balancer_with,
    clients::visit,
    cluster,
    scenario::{Company, condition, scenario},
    scenarios::traffic::served,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_application_reaches_its_backends_through_the_sidecar_of_its_pod() {
    scenario("sidecar", Company::Welcome, async |scenario| {
        scenario.backends("echo", 2).await;
        scenario.apply(&load_balancer_with("db", "listeners: [{port: 5432}]", "echo", "placement: Sidecar")).await;
        // The application hands on what it is asked to what listens at its own 127.0.0.1:5432.
        let (image, namespace) = (cluster::image().unwrap(), &scenario.namespace);
        scenario
            .apply(&format!(
                r#"
apiVersion: v1
kind: ServiceAccount
metadata: {{name: app}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: sidecar}}
rules:
- {{apiGroups: [tcplb.io], resources: [tcploadbalancers], resourceNames: [db], verbs: [get, list, watch]}}
- {{apiGroups: [""], resources: [services], resourceNames: [echo], verbs: [get, list, watch]}}
- {{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: sidecar}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: sidecar}}
subjects: [{{kind: ServiceAccount, name: app}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: app}}
spec:
  serviceAccountName: app
  automountServiceAccountToken: false
  volumes:
  - name: token
    projected:
      sources:
      - serviceAccountToken: {{path: token}}
      - configMap: {{name: kube-root-ca.crt, items: [{{key: ca.crt, path: ca.crt}}]}}
      - downwardAPI: {{items: [{{path: namespace, fieldRef: {{fieldPath: metadata.namespace}}}}]}}
  initContainers:
  - name: tcplb
    image: {image}
    imagePullPolicy: Never
    restartPolicy: Always
    args: [sidecar, --load-balancer, {namespace}/db, --admin, ":9900"]
    startupProbe: {{httpGet: {{path: /readyz, port: 9900}}, periodSeconds: 1, failureThreshold: 60}}
    volumeMounts: [{{name: token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount}}]
  containers:
  - name: app
    image: {image}
    imagePullPolicy: Never
    args: [standalone, --listen, ":6000", --backend, "127.0.0.1:5432", --admin, "127.0.0.1:9901"]
"#
            ))
            .await;
        let has_address = |pod: Option<&Pod>| {
            pod.is_some_and(|pod| pod.status.as_ref().is_some_and(|status| status.pod_ip.is_some()))
        };
        let pod = scenario.until("it has an address", "app", has_address).await.unwrap();
        let ip = pod.status.unwrap().pod_ip.unwrap();
        let application = format!("{ip}:6000").parse().unwrap();
        served(application).await;
        let mut reached = std::collections::BTreeSet::new();
        for _ in 0..10 {
            reached.insert(visit(application).await.unwrap());
        }
        assert_eq!(reached.len(), 2, "{reached:?}");
        assert!(visit(format!("{ip}:5432").parse().unwrap()).await.is_err(), "nobody else reaches the sidecar");

        let in_pods = |status: &tcplb::api::TcpLoadBalancerStatus| {
            condition(status, "Programmed").is_some_and(|programmed| {
                (programmed.status.as_str(), programmed.reason.as_str()) == ("Unknown", "ServedInPods")
            })
        };
        scenario.status("it is told who serves it", "db", in_pods).await;
        assert!(scenario.kept_service("db").await.is_none());
        scenario.scale("echo", 3).await;
        scenario.backends_are_ready(&scenario.namespace, "echo", 3).await;
        cluster::eventually("the third is reached", cluster::PATIENCE, async || {
            reached.extend(visit(application).await);
            reached.len() == 3
        })
        .await;
    })
    .await;
}
