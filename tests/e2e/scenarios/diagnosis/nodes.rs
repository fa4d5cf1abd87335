//! The loss of a node.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use serde_json::json;

use super::surfaces::{Fault, Surfaces};
use crate::{
    cluster::{self, Away, WAIT_LIMIT},
    harness,
    installation::is_ready,
    program::locate,
    scenario::{scenario, until},
    scenarios::faults::{LOST_AFTER, is_node_ready},
    turns::Isolation,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_node_is_reported_everywhere_with_its_replica() {
    if locate("prometheus").is_none() {
        return harness::lacks("prometheus");
    }
    scenario("lost", Isolation::Exclusive, async |scenario| {
        let own = scenario.install_own(json!({"kind": "DaemonSet"})).await;
        let nodes = cluster::nodes(&scenario.client).await;
        let replicas = own.ready_pods(&scenario.client, nodes.len()).await;
        let surfaces = Surfaces::of(scenario).await;
        let leader = own.leader(&scenario.client).await.expect("a replica leads");
        // The node of the control plane and that of the leader stay.
        let node_of = |pod: &Pod| pod.spec.as_ref().unwrap().node_name.clone().unwrap();
        let can_go = |(name, pod): &(&String, &Pod)| **name != leader && node_of(pod) != nodes[0].0;
        let (lost, pod) = replicas.iter().find(can_go).expect("there are three nodes");
        let node = node_of(pod);
        let number = 1 + nodes.iter().position(|(name, _)| *name == node).unwrap();

        let away = Away::node(number).await;
        let not_ready = |pod: Option<&Pod>| pod.is_some_and(|pod| !is_ready(pod));
        until(own.pod_api(&scenario.client), "its pod is not ready", lost, LOST_AFTER, not_ready).await;
        let reason = "the pod is not ready";
        let fault = Fault {
            command: ["doctor", "--skip-connections"].map(str::to_owned).into(),
            words: vec![lost.clone(), reason.to_owned()],
            reason,
            alert: "TcplbReplicasDown",
            labels: vec![("namespace", own.namespace.clone()), ("pod", lost.clone())],
        };
        surfaces.report(&fault).await;

        away.comes_back();
        until(Api::<Node>::all(scenario.client.clone()), "the node is back", &node, WAIT_LIMIT, is_node_ready).await;
    })
    .await;
}
