use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The observed state of a load balancer.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TcpLoadBalancerStatus {
    /// The generation of the spec that this status describes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The columns of `kubectl get`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// The addresses that clients connect to. All of them serve the same ports. At most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub addresses: Vec<Address>,
    /// The state of each listener.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["port".into()]))]
    pub listeners: Vec<ListenerStatus>,
    /// The state of each backend.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub backends: Vec<BackendStatus>,
    /// Conditions of the load balancer, each with a reason and a message that says what to do. `Ready`: connections are
    /// served as declared. `Reconciling`: present while the controller applies changes. `Stalled`: present while only a
    /// change of the object can help. `Accepted`: the object is valid and the administrator permits it. `ResolvedRefs`:
    /// the referenced Services, Secrets and ConfigMaps exist. `Programmed`: every ready proxy serves the load balancer.
    /// `BackendsHealthy`: endpoints are healthy. `CertificatesValid`: the certificates for clients and backends are
    /// valid. `ClientAddressPreserved`: the proxies see the addresses of clients.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Equality is reflexive: no field is a floating-point number.
impl Eq for TcpLoadBalancerStatus {}

/// The columns of `kubectl get`.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// The ports that clients connect to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<String>,
    /// The first address that clients connect to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The number of healthy endpoints and of all endpoints: `3/5`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// The reason of the first problem. Without a problem: `Programmed`, or `ServedInPods` with placement Sidecar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
}

/// An address that clients connect to.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    /// The type of `value`: `IPAddress` or `Hostname`.
    #[serde(rename = "type")]
    pub type_: AddressType,
    /// The IP address or host name.
    pub value: String,
}

#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum AddressType {
    #[serde(rename = "IPAddress")]
    IpAddress,
    Hostname,
}

/// The state of a listener.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    /// The port that clients connect to.
    pub port: u16,
    /// The name of the listener, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The port that the proxies open for the listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound_port: Option<u16>,
    /// The node port of the Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_port: Option<u16>,
    /// Conditions of the listener. `Programmed`: every ready proxy has the port open; otherwise the message names the
    /// pod that cannot open it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The state of a backend.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BackendStatus {
    /// The name of the backend: the declared name, the name of its Service, or `default`.
    pub name: String,
    /// The number of endpoints.
    pub endpoints: u32,
    /// The number of endpoints that every replica considers usable, without those that connections repeatedly fail to
    /// reach.
    pub healthy: u32,
    /// The number of usable endpoints that connections repeatedly fail to reach, on the replica with the most of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing: Option<u32>,
    /// The number of usable endpoints on standby, because another priority level is active.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standby: Option<u32>,
    /// The number of further endpoints that `drainedEndpoints` names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drained: Option<u32>,
    /// The number of connections of all replicas that are being drained, because their endpoints get no new ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draining: Option<u32>,
    /// The latest failed connection or check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
}

/// A failed connection or check.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LastFailure {
    /// The address of the endpoint.
    pub endpoint: String,
    /// The reason of the failure.
    pub reason: String,
    /// The time of the failure (RFC 3339).
    pub time: String,
}
