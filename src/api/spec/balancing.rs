//! How an endpoint is chosen.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Duration, rules};

/// How an endpoint is chosen.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.hash) || self.algorithm == 'Maglev'")
        .message("hash has no effect with this algorithm: write `algorithm: Maglev`, or remove `hash`")
        .field_path(".hash"),
    validation = Rule::new("!has(self.slowStart) || self.algorithm != 'Maglev'")
        .message("slowStart has no effect with algorithm Maglev: write another algorithm, or remove `slowStart`")
        .field_path(".slowStart"),
    validation = Rule::new("!has(self.locality) || self.algorithm != 'Maglev'")
        .message("locality has no effect with algorithm Maglev: write another algorithm, or remove `locality`")
        .field_path(".locality")
)]
pub struct LoadBalancing {
    /// `RoundRobin`: in turn. `LeastConnections`: the one with the fewest open connections for its weight.
    /// `PowerOfTwo`: the better one of two taken at random. `Random`. `Maglev`: always the same one for the same
    /// client (sticky). Default: RoundRobin.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// What Maglev looks at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<Hash>,
    /// How long the share of an endpoint grows that is new or usable again, from a tenth to all of it; 1s to 1h. Not with
    /// Maglev. Absent: it gets all of its share at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::within("1s", "1h"))]
    pub slow_start: Option<Duration>,
    /// Endpoints near the proxy come first. Not with Maglev. Absent: it does not matter where they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locality: Option<Locality>,
    /// When backends of another priority serve. Absent: while none of a lower number has a usable endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failover: Option<Failover>,
}

#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum Algorithm {
    #[default]
    RoundRobin,
    LeastConnections,
    PowerOfTwo,
    Random,
    Maglev,
}

/// What Maglev looks at.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Hash {
    /// `SourceIP`: the client's address. Default: SourceIP.
    #[serde(rename = "type", default)]
    pub type_: HashType,
    /// How many leading bits of an IPv6 address count: 64 keeps a client that changes its address within its network
    /// on its endpoint. Default: 128.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 128))]
    pub prefix_v6: Option<u8>,
}

#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum HashType {
    #[default]
    #[serde(rename = "SourceIP")]
    SourceIp,
}

/// When backends of another priority serve.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Failover {
    /// Backends of one priority can serve if at least this share of their endpoints is usable, those that are not ready
    /// counted; and at least one. If none of any priority can, the lowest number with a usable endpoint serves.
    /// Default: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub min_usable_percent: Option<u8>,
    /// When those of a lower number serve again. Absent: as soon as they can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failback: Option<Failback>,
}

/// When backends of a lower priority serve again.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.after) || self.policy != 'Never'")
        .message("after has no effect with policy Never: write `policy: Automatic`, or remove `after`")
        .field_path(".after")
)]
pub struct Failback {
    /// `Automatic`: once they have been able to for `after`. `Never`: when those that serve cannot any more; until then,
    /// whoever wants it writes `Automatic`. Default: Automatic.
    #[serde(default)]
    pub policy: FailbackPolicy,
    /// How long they must have been able to serve without a break, at most 24h. Default: 0s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::at_most("24h"))]
    pub after: Option<Duration>,
}

#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum FailbackPolicy {
    #[default]
    Automatic,
    Never,
}

/// Endpoints near the proxy come first, as far as they are those of Services; the others while none of them is usable.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Locality {
    /// `SameZone`: those in the proxy's zone. `SameNode`: those on its node, then those in its zone. `Hints`: those that
    /// their EndpointSlices hint at for its node or zone, as Kubernetes writes them for `trafficDistribution`.
    pub prefer: Prefer,
    /// A near endpoint with so many connections of one proxy is overloaded, and gets no more from it while a farther one
    /// has less. Absent: none is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub overloaded_at: Option<u32>,
}

#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum Prefer {
    SameZone,
    SameNode,
    Hints,
}
