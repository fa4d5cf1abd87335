use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the controller says of a load balancer.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TcpLoadBalancerStatus {
    /// The generation of the spec that all of this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What `kubectl get` prints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// Where clients connect. The same ports are behind each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub addresses: Vec<Address>,
    /// What becomes of each listener.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["port".into()]))]
    pub listeners: Vec<ListenerStatus>,
    /// What is known of each backend's endpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub backends: Vec<BackendStatus>,
    /// `Ready`: connections are served as declared. `Reconciling`, `Stalled`: present while the controller is at work, and
    /// while only a changed object helps. `Accepted`: the object is right, and the administrator allows it. `ResolvedRefs`: the Services, Secrets and ConfigMaps that it
    /// names are there. `Programmed`: every ready proxy serves it. `BackendsHealthy`: endpoints can be reached.
    /// `CertificatesValid`: none has expired or is about to. `ClientAddressPreserved`: proxies see the clients' own
    /// addresses. Each has a reason and a message that says what to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// What `kubectl get` prints.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// The ports clients connect to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<String>,
    /// The first of the addresses that clients connect to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Healthy endpoints of all endpoints: `3/5`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// `Programmed`, or the reason of the first thing that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
}

/// Where clients connect.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    /// What `value` is: `IPAddress` or `Hostname`.
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

/// What becomes of a listener.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    /// The port clients connect to.
    pub port: u16,
    /// The name of the listener, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The port that the proxies have open for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound_port: Option<u16>,
    /// The nodes' port of the Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_port: Option<u16>,
    /// `Programmed`: every ready proxy has the port open, or which pod cannot open it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// What is known of a backend's endpoints.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BackendStatus {
    /// The name of the backend; where none is declared, its Service's, or `default`.
    pub name: String,
    /// How many endpoints it has.
    pub endpoints: u32,
    /// How many of them every replica finds usable, without those that connections keep failing to reach.
    pub healthy: u32,
    /// How many usable endpoints connections keep failing to reach, on the replica with the most of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing: Option<u32>,
    /// How many of those stand by, since backends of another priority serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standby: Option<u32>,
    /// How many connections, of all replicas, are still open and to be closed, since their endpoints get no more: what
    /// `drain` is about to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draining: Option<u32>,
    /// The latest failure of a connection or a check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
}

/// A failure of a connection or a check.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LastFailure {
    /// The address that failed.
    pub endpoint: String,
    /// What happened.
    pub reason: String,
    /// When it did, in RFC 3339.
    pub time: String,
}
