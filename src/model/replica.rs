use std::collections::{BTreeMap, BTreeSet};

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
    /// By name; those without endpoints are not among them, unless some that went still have connections.
    pub backends: BTreeMap<String, BackendHealth>,
    /// What is wrong in this process and maybe in no other, in sentences.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub here: BTreeSet<String>,
    /// What is served by others than those that come first.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub failed_over: BTreeSet<FailedOver>,
    /// The last moment of the validity of each certificate that is presented, by where it comes from.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub certificates: BTreeMap<String, jiff::Timestamp>,
    /// The same of those that are shown to backends.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub certificates_for_backends: BTreeMap<String, jiff::Timestamp>,
}

/// Connections that go to endpoints of another priority than the lowest that they could go to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedOver {
    /// The backends of their route; empty: it is all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<String>,
    /// Of the endpoints that serve.
    pub priority: u8,
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
    /// Those of them that connections keep failing to reach.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failing: u32,
    /// Those that are not usable before their first check, which is under way.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unchecked: u32,
    /// Open connections that are to be closed, since their endpoints get no more.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub draining: u32,
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
