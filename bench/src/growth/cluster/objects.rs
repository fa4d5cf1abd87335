//! The objects of a cluster with many load balancers.

use std::ops::Range;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

use crate::growth::certificate::Certificate;

/// The number of namespaces with load balancers.
const NAMESPACES: usize = 50;
/// The namespace of the controller.
pub const HOME: &str = "tcplb-system";
/// The pod of the controller.
pub const POD: &str = "tcplb-0";
pub const ALLOCATIONS: &str = "tcplb-ports";
const REPLICAS: &str = "tcplb-replicas";
const PORT: u16 = 5432;

/// A load balancer with its Service and EndpointSlice.
#[derive(Clone, Copy, Debug)]
pub struct LoadBalancerObjects {
    pub index: usize,
    pub endpoints: usize,
}

impl LoadBalancerObjects {
    pub fn namespace(&self) -> String {
        format!("team-{:02}", self.index % NAMESPACES)
    }

    pub fn name(&self) -> String {
        format!("lb-{:05}", self.index)
    }

    pub fn slice_name(&self) -> String {
        format!("{}-x7k2p", self.name())
    }

    fn uid(&self, of: &str) -> String {
        format!("00000000-0000-4000-{of}-{:012}", self.index)
    }

    fn metadata(&self, of: &str) -> Value {
        json!({
            "name": self.name(), "namespace": self.namespace(), "uid": self.uid(of), "generation": 1,
            "labels": {"app": self.name()}, "creationTimestamp": "2026-01-01T00:00:00Z",
        })
    }

    /// `certificate`: it terminates TLS with the Secret of its own name.
    pub fn load_balancer(&self, certificate: bool) -> Value {
        let tls = json!({"certificateRefs": [{"name": self.name()}]});
        let mut listener = json!({"port": PORT});
        if certificate {
            listener["tls"] = tls;
        }
        json!({
            "apiVersion": "tcplb.io/v1alpha1", "kind": "TcpLoadBalancer", "metadata": self.metadata("8000"),
            "spec": {
                "listeners": [listener],
                "backends": [{"service": {"name": self.name(), "port": PORT}}],
                "healthCheck": {"active": {"type": "None"}},
            },
        })
    }

    pub fn service(&self) -> Value {
        let address = format!("10.97.{}.{}", self.index / 250, self.index % 250 + 1);
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": self.metadata("8001"),
            "spec": {
                "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack", "selector": {"app": self.name()}, "sessionAffinity": "None",
                "internalTrafficPolicy": "Cluster", "ports": [{"port": PORT, "protocol": "TCP", "targetPort": PORT}],
            },
        })
    }

    /// `replaced`: the last endpoint has another address.
    pub fn slice(&self, replaced: bool) -> Value {
        let name = self.name();
        let mut metadata = self.metadata("8002");
        metadata["name"] = self.slice_name().into();
        metadata["labels"] = json!({
            "kubernetes.io/service-name": name,
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        });
        metadata["ownerReferences"] = json!([
            {"apiVersion": "v1", "kind": "Service", "name": name, "uid": self.uid("8001"), "controller": true}
        ]);
        let mut pods: Range<usize> = 0..self.endpoints;
        let last = pods.next_back().map(|last| if replaced { last + 1 } else { last });
        let endpoints: Vec<Value> = pods.chain(last).map(|pod| self.endpoint(pod)).collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata, "addressType": "IPv4",
            "endpoints": endpoints, "ports": [{"name": "", "port": PORT, "protocol": "TCP"}],
        })
    }

    /// The address of a pod. Nothing connects to it.
    fn pod_address(&self, pod: usize) -> String {
        let number = self.index * (self.endpoints + 1) + pod;
        format!("10.{}.{}.{}", 100 + number / 62_500, number / 250 % 250, number % 250 + 1)
    }

    /// The address of the last endpoint, `replaced` or not.
    pub fn last_address(&self, replaced: bool) -> String {
        self.pod_address(if replaced { self.endpoints } else { self.endpoints - 1 })
    }

    fn endpoint(&self, pod: usize) -> Value {
        let uid = format!("00000000-0000-4000-9{pod:03}-{:012}", self.index);
        let name = format!("{}-6d4cf56db6-{pod:05}", self.name());
        json!({
            "addresses": [self.pod_address(pod)], "nodeName": format!("node-{}", pod % 10), "zone": "zone-a",
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "name": name, "namespace": self.namespace(), "uid": uid},
        })
    }

    pub fn secret(&self, certificate: &Certificate) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": self.metadata("8003"),
            "data": {"tls.crt": BASE64.encode(&certificate.chain), "tls.key": BASE64.encode(&certificate.key)},
        })
    }

    /// A status that differs for each `round`.
    pub fn status(&self, round: usize) -> Value {
        let condition = |what: &str| {
            json!({
                "type": what, "status": "True", "reason": what, "message": format!("round {round}"),
                "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z",
            })
        };
        let conditions = ["Accepted", "ResolvedRefs", "Programmed", "BackendsHealthy", "Ready"].map(condition);
        json!({"observedGeneration": 1, "conditions": conditions})
    }
}

/// The ConfigMap with the port of each listener.
pub fn allocations(load_balancers: &[LoadBalancerObjects], ports: impl Iterator<Item = u16>) -> Value {
    let mut data = json!({});
    for (load_balancer, port) in load_balancers.iter().zip(ports) {
        let object = format!("{}/{}", load_balancer.namespace(), load_balancer.name());
        let allocation = json!({"uid": load_balancer.uid("8000"), "port": PORT, "object": object});
        data[port.to_string()] = allocation.to_string().into();
    }
    let metadata = json!({"name": ALLOCATIONS, "namespace": HOME});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
}

/// The Service of the replicas, and its EndpointSlice with two replicas. Both are the only process, so that a leader
/// reads two reports.
pub fn replicas(admin: std::net::SocketAddr) -> [Value; 2] {
    let metadata = json!({"name": REPLICAS, "namespace": HOME, "uid": "00000000-0000-4000-8000-replicas"});
    let ports = json!([{"name": "admin", "port": admin.port(), "protocol": "TCP"}]);
    let selector = json!({"app.kubernetes.io/name": "tcplb"});
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata,
        "spec": {"clusterIP": "None", "selector": selector, "ports": ports},
    });
    let endpoints = [POD, "tcplb-1"].map(|pod| {
        let target = json!({"kind": "Pod", "name": pod, "namespace": HOME, "uid": format!("uid-of-{pod}")});
        json!({"addresses": [admin.ip()], "conditions": {"ready": true}, "targetRef": target})
    });
    let metadata = json!({"name": "replicas-1", "namespace": HOME, "labels": {"kubernetes.io/service-name": REPLICAS}});
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata, "addressType": "IPv4",
        "endpoints": endpoints, "ports": ports,
    });
    [service, slice]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_of_a_slice_is_replaced() {
        let load_balancer = LoadBalancerObjects { index: 7, endpoints: 3 };
        let addresses = |replaced| {
            let slice = load_balancer.slice(replaced);
            let endpoints = slice["endpoints"].as_array().unwrap().clone();
            endpoints.iter().map(|endpoint| endpoint["addresses"][0].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(addresses(false), [0, 1, 2].map(|pod| load_balancer.pod_address(pod)));
        assert_eq!(addresses(true), [0, 1, 3].map(|pod| load_balancer.pod_address(pod)));
        let next = LoadBalancerObjects { index: 8, ..load_balancer };
        assert_ne!(load_balancer.pod_address(3), next.pod_address(0));
    }
}
