//! Redistribution of long-lived connections.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Duration, rules};

/// Redistribution of long-lived connections: closes connections of endpoints that have more than their share, for
/// example after others have joined, so that clients reconnect. Each replica handles its own connections.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Rebalance {
    /// The permitted excess of an endpoint over its share, in percent of the share. 1 to 1000. Default: 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_imbalance_percent: Option<u16>,
    /// The maximum number of connections closed per minute by each replica. 1 to 1000000. Default: 60.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_closes_per_minute: Option<u32>,
    /// Connections younger than this are never closed, including ones that clients have just reopened. At most 24h.
    /// Default: 5m.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::at_most("24h"))]
    pub min_age: Option<Duration>,
    /// `true`: only connections without a byte in either direction for 5s are closed, the longest idle first. `false`:
    /// busy connections are closed too, the oldest first. Default: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_only: Option<bool>,
}
