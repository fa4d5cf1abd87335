use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What one proxy tells whoever sums up all replicas: what it serves of each load balancer, by the load balancer's uid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaReport {
    pub load_balancers: BTreeMap<String, Served>,
}

/// What is served of a load balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Served {
    /// The generation of its spec that has been acted on.
    pub generation: i64,
    /// The latest generation that was served whole, as far as this process knows of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whole: Option<i64>,
    /// By the declared port.
    pub listeners: BTreeMap<u16, ListenerOutcome>,
    /// By name; those without endpoints are not among them.
    pub backends: BTreeMap<String, BackendHealth>,
    /// The last moment of the validity of each certificate that is presented, by where it comes from.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub certificates: BTreeMap<String, jiff::Timestamp>,
}

/// What became of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ListenerOutcome {
    /// Open at this port.
    Bound(u16),
    /// A sentence that says why it is not open.
    Failed(String),
}

/// The state of a backend's endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendHealth {
    pub endpoints: u32,
    /// Those that may be picked.
    pub usable: u32,
    /// Those of them that stand by, since endpoints of another priority serve.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub standby: u32,
    /// The latest failure of a connection or a check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Failure>,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// A failure of a connection or a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    pub endpoint: String,
    pub reason: String,
    pub time: jiff::Timestamp,
}
