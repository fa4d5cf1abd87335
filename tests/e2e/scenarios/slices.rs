//! EndpointSlices that users write, with permission to: they lead to no address that their authors may not reach.

use std::net::SocketAddr;

use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{
    backends::{PORT, load_balancer},
    clients::visit,
    cluster::{WAIT_LIMIT, eventually},
    scenario::{Scenario, condition, is, is_not, scenario},
    scenarios::{tenancy::nothing_comes_back, traffic::served},
    turns::Isolation,
};

const BY_KUBERNETES: &str = "endpointslice-controller.k8s.io";

/// A pod of another namespace, and its address.
pub async fn theirs(scenario: &Scenario, namespace: &str) -> (Pod, SocketAddr) {
    scenario.backends_in(namespace, "theirs", 1).await;
    let pods = Api::<Pod>::namespaced(scenario.client.clone(), namespace);
    let pod = pods.list(&ListParams::default()).await.unwrap().items.remove(0);
    let address = pod.status.as_ref().unwrap().pod_ip.as_ref().unwrap().parse().unwrap();
    (pod, SocketAddr::new(address, PORT))
}

/// A manually written Service and EndpointSlice.
fn slice_by_hand(name: &str, target: SocketAddr, managed_by: &str, selector: &str) -> String {
    let (ip, port) = (target.ip(), target.port());
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  {selector}
  ports: [{{name: echo, port: {PORT}, targetPort: {port}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-by-hand
  labels: {{kubernetes.io/service-name: {name}, endpointslice.kubernetes.io/managed-by: {managed_by}}}
addressType: {family}
ports: [{{name: echo, port: {port}}}]
endpoints: [{{addresses: [\"{ip}\"], conditions: {{ready: true}}}}]
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_written_by_hand_do_not_bypass_the_address_policy() {
    scenario("slices", Isolation::Shared, async |scenario| {
        scenario.install_own(json!({})).await;
        let other = scenario.another_namespace().await;
        slices_lead_nowhere(scenario, &other).await;
    })
    .await;
}

pub async fn slices_lead_nowhere(scenario: &Scenario, other: &str) {
    let (pod, theirs) = theirs(scenario, other).await;
    let own = scenario.installation().pods(&scenario.client).await.remove(0).status.unwrap().pod_ip.unwrap();
    let admin = SocketAddr::new(own.parse().unwrap(), 9900);
    let written = [
        ("plain", slice_by_hand("plain", theirs, "me", "clusterIP: None")),
        ("forged", slice_by_hand("forged", theirs, BY_KUBERNETES, "clusterIP: None")),
        ("admin-slice", slice_by_hand("admin-slice", admin, "me", "clusterIP: None")),
    ];
    for (name, manifests) in &written {
        scenario.apply(manifests).await;
        scenario.apply(&load_balancer(name, 5432, name)).await;
        let listed =
            |status: &_| condition(status, "BackendsHealthy").is_some() && !is(status, "BackendsHealthy", "True");
        scenario.status("it has no backends that it may use", name, listed).await;
    }
    let names = written.each_ref().map(|(name, _)| *name);
    nothing_comes_back(scenario, names).await;

    // The slice names a Pod of another namespace, which is false.
    let slices = scenario.api::<EndpointSlice>();
    let uid = pod.metadata.uid.unwrap();
    let reference = json!({"kind": "Pod", "namespace": other, "name": pod.metadata.name.unwrap(), "uid": uid});
    let endpoint = json!({"addresses": [theirs.ip()], "conditions": {"ready": true}, "targetRef": reference});
    // The second address shows that the slice was read.
    let another = json!({"addresses": ["192.0.2.77"], "conditions": {"ready": true}});
    let lie = Patch::Merge(json!({"endpoints": [endpoint, another]}));
    slices.patch("forged-by-hand", &PatchParams::default(), &lie).await.unwrap();
    let read = |status: &_| condition(status, "Accepted").is_some_and(|accepted| accepted.message.contains("1 more"));
    scenario.status("both addresses are refused", "forged", read).await;
    nothing_comes_back(scenario, names).await;

    scenario.backends("echo", 1).await;
    what_kubernetes_cannot_remove_leads_nowhere(scenario, theirs).await;
    what_kubernetes_removes_is_not_served(scenario, theirs).await;
}

/// A slice with all properties of Kubernetes' own ones, which a finalizer retains when Kubernetes deletes it.
async fn what_kubernetes_cannot_remove_leads_nowhere(scenario: &Scenario, theirs: SocketAddr) {
    let service = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: posing}}, spec: {{selector: {{app: echo}}, \
         ports: [{{name: echo, port: {PORT}}}]}}}}"
    );
    scenario.apply(&service).await;
    let uid = scenario.api::<Service>().get("posing").await.unwrap().metadata.uid.unwrap();
    let slices = scenario.api::<EndpointSlice>();
    // Before that, Kubernetes would adopt this slice as its own.
    eventually("Kubernetes has written a slice of its own", WAIT_LIMIT, async || {
        let of_service = ListParams::default().labels("kubernetes.io/service-name=posing");
        slices.list(&of_service).await.unwrap().iter().any(|slice| !slice.endpoints.is_empty())
    })
    .await;
    let posing = json!({
        "metadata": {
            "name": "posing-by-hand",
            "labels": {
                "kubernetes.io/service-name": "posing",
                "endpointslice.kubernetes.io/managed-by": BY_KUBERNETES,
            },
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Service", "name": "posing", "uid": uid, "controller": true},
            ],
        },
        "addressType": "IPv4",
        "ports": [{"name": "echo", "port": PORT}],
        "endpoints": [{
            "addresses": [theirs.ip()],
            "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "namespace": scenario.namespace, "name": "mine", "uid": "1"},
        }],
    });
    scenario.create_kept(serde_json::from_value(posing).unwrap()).await;
    eventually("Kubernetes removes it", WAIT_LIMIT, async || {
        slices.get("posing-by-hand").await.unwrap().metadata.deletion_timestamp.is_some()
    })
    .await;
    scenario.apply(&load_balancer("posing", 5432, "posing")).await;
    scenario.status("it is refused", "posing", |status| is_not(status, "Accepted", "NotPermitted")).await;
    only_own_pods_serve(scenario.programmed("posing").await).await;
}

/// With a selector, Kubernetes itself deletes slices that it has not written.
async fn what_kubernetes_removes_is_not_served(scenario: &Scenario, theirs: SocketAddr) {
    scenario.apply(&slice_by_hand("chosen", theirs, BY_KUBERNETES, "selector: {app: echo}")).await;
    scenario.apply(&load_balancer("chosen", 5432, "chosen")).await;
    only_own_pods_serve(scenario.programmed("chosen").await).await;
}

async fn only_own_pods_serve(address: SocketAddr) {
    served(address).await;
    eventually("only own pods serve", WAIT_LIMIT, async || {
        for _ in 0..20 {
            let backend = visit(address).await.unwrap_or_default();
            assert!(!backend.starts_with("theirs-"), "another namespace's pod answers");
            if !backend.starts_with("echo-") {
                return false;
            }
        }
        true
    })
    .await;
}
