//! What happens to open connections when what they go through goes.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Duration, rules::Order};

/// What happens to open connections when what they go through goes. Each case has the same fields, which mean the same.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// When an endpoint's pod is being deleted: it still runs, and may still serve. Absent: connections are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_terminating: Option<DrainPolicy>,
    /// When an endpoint is no longer listed: by its Service, by DNS, or in this object. Absent: connections are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_removed: Option<DrainPolicy>,
    /// When an endpoint becomes unhealthy: its active check fails, it is ejected because connections to it fail, or its
    /// pod is not ready. One that is healthy again before their turn keeps its connections, and so does each while no
    /// other endpoint is usable. Absent: connections are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_unhealthy: Option<DrainPolicy>,
    /// When an endpoint gets no more connections because backends of a lower `priority` serve again. Absent:
    /// connections are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failback: Option<DrainPolicy>,
    /// When a listener, or the whole object, is deleted. Absent: connections are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener_removed: Option<DrainPolicy>,
    /// When the process shuts down: it stops accepting, and connections may go on for a while; what is left then is
    /// reset. The process's --max-drain caps `after`, and is what `Keep` waits for. Absent: they are closed with the
    /// defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<DrainPolicy>,
}

/// What happens to the connections of one that goes.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Order { short: "spread", long: "after", long_default: Some("60s") }.not_longer(),
    validation = Rule::new("self.policy == 'Close' || !(has(self.after) || has(self.spread) || has(self.maxPerSecond))")
        .message("after, spread and maxPerSecond have no effect with policy Keep: write `policy: Close`, or remove \
                  them")
        .field_path(".policy")
)]
pub struct DrainPolicy {
    /// `Keep`: connections go on until one of their ends ends them. `Close`: they are closed (both sides get a reset),
    /// those first that were silent for the longest time. Default: Close.
    #[serde(default)]
    pub policy: DrainAction,
    /// By then the last connection is closed. Default: 60s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Duration>,
    /// Over this last part of `after` connections are closed bit by bit, so that their clients do not all come back in
    /// the same moment; at most `after`. Default: half of `after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<Duration>,
    /// No more than this many are closed in a second, by each replica, though it takes longer than `after` then (not at
    /// shutdown: what is still open after `after` is reset). Absent: as many as `spread` asks for.
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
