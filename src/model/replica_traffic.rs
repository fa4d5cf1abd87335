use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

/// The path of the admin page with a [`ReplicaTraffic`].
pub const REPORT_TRAFFIC: &str = "/report/traffic";

/// The traffic of one proxy, for the admin page of the leader: by the uids of the load balancers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaTraffic {
    pub load_balancers: BTreeMap<Arc<str>, LoadBalancerTraffic>,
}

/// The open connections of a load balancer, and its counters since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerTraffic {
    pub active: u64,
    /// Accepted connections.
    pub connections: u64,
    /// In both directions.
    pub bytes: u64,
    /// Connections that were refused or failed.
    pub failures: u64,
}

/// The traffic of replicas by the names of their pods, or the reason why it is not known.
pub type TrafficByReplica = BTreeMap<Arc<str>, Result<Arc<ReplicaTraffic>, String>>;
