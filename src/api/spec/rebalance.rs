//! How connections that last are spread anew.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Duration, rules};

/// Closes connections of endpoints that have more than their share, for example after others have joined, so that their
/// clients open new ones. Each replica does so for its own connections.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Rebalance {
    /// How far above its share an endpoint may be, in percent of the share. Default: 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_imbalance_percent: Option<u16>,
    /// No more than this many connections are closed in a minute, by each replica. Default: 60.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_closes_per_minute: Option<u32>,
    /// Connections younger than this stay; those that were closed and are back are such. At most 24h. Default: 5m.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::at_most("24h"))]
    pub min_age: Option<Duration>,
    /// Closes only connections without a byte in either direction for 5s, those first that were silent for the longest
    /// time. `false`: also others, the oldest first. Default: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_only: Option<bool>,
}
