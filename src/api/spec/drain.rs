//! Draining of open connections when an endpoint, a listener or the proxy goes away.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Duration, rules::DurationOrder};

/// The draining of open connections when an endpoint, a listener or the proxy goes away. All cases have the same
/// fields.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// The policy for an endpoint with a terminating pod, while other endpoints serve. The pod still runs and may still
    /// serve. Absent: connections are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_terminating: Option<DrainPolicy>,
    /// The policy for an endpoint that its Service, DNS or this object no longer lists. Absent: connections are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_removed: Option<DrainPolicy>,
    /// The policy for an unhealthy endpoint: its active check fails, it is ejected because connections to it fail, or
    /// its pod is not ready. The drain stops when the endpoint recovers, and connections are kept while no other
    /// endpoint is usable. Absent: connections are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_unhealthy: Option<DrainPolicy>,
    /// The policy for an endpoint in `drainedEndpoints`, while other endpoints serve. Absent: connections are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_drained: Option<DrainPolicy>,
    /// The policy for an endpoint that goes to standby because a lower `priority` number is active again. Absent:
    /// connections are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failback: Option<DrainPolicy>,
    /// The policy for a deleted listener or object. Absent: connections are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener_removed: Option<DrainPolicy>,
    /// The policy for the shutdown of the process. New connections are refused, and open connections are reset at the
    /// end of the drain. The --max-drain of the process caps `after`, and is the time limit of `Keep`. Absent: the
    /// defaults of this policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<DrainPolicy>,
}

/// The policy for the connections of a draining endpoint, listener or process.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = DurationOrder { short: "spread", long: "after", long_default: Some("60s") }.not_longer(),
    validation = Rule::new("self.policy == 'Close' || !(has(self.after) || has(self.spread) || has(self.maxPerSecond))")
        .message("after, spread and maxPerSecond have no effect with policy Keep: write `policy: Close`, or remove \
                  them")
        .field_path(".policy")
)]
pub struct DrainPolicy {
    /// `Keep`: connections stay open until the client or the backend closes them. `Close`: connections are closed with
    /// a reset on both sides, the longest idle first. Default: Close.
    #[serde(default)]
    pub policy: DrainAction,
    /// The time by which the last connection is closed. Default: 60s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Duration>,
    /// The last part of `after`, over which the closes are spread so that clients do not reconnect all at once. At most
    /// `after`. Default: half of `after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<Duration>,
    /// The maximum number of connections closed per second by each replica. It may extend the drain beyond `after`, but
    /// not at shutdown, where connections still open after `after` are reset. 1 to 100000. Absent: the rate that
    /// `spread` requires.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_per_second: Option<u32>,
}

#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum DrainAction {
    Keep,
    #[default]
    Close,
}
