//! The selection of an endpoint for a connection.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{DateTime, Duration, rules};

/// The selection of an endpoint for each new connection.
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
    /// `RoundRobin`: endpoints in turn. `LeastConnections`: the endpoint with the fewest open connections for its
    /// weight. `PowerOfTwo`: the less loaded of two random endpoints. `Random`: a random endpoint. `Maglev`: always the
    /// same endpoint for the same client (sticky). Default: RoundRobin.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// The input of the Maglev hash (algorithm Maglev only). Absent: the address of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<Hash>,
    /// The time during which the share of a new or recovered endpoint grows from a tenth to its full share. 1s to 1h.
    /// Not with Maglev. Absent: the full share at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::within("1s", "1h"))]
    pub slow_start: Option<Duration>,
    /// Preference for endpoints near the proxy. Not with Maglev. Absent: no preference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locality: Option<Locality>,
    /// The conditions for failover between priority levels. Absent: a level is active while no lower number has a
    /// usable endpoint.
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

/// The input of the Maglev hash.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Hash {
    /// `SourceIP`: the address of the client. Default: SourceIP.
    #[serde(rename = "type", default)]
    pub type_: HashType,
    /// The number of leading bits of an IPv6 address that are hashed. With 64, a client that changes its address within
    /// its network stays on its endpoint. 1 to 128. Default: 128.
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

/// The conditions for failover between priority levels.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Failover {
    /// The minimum share of usable endpoints, in percent, with which a priority level can serve. Endpoints that are not
    /// ready count as unusable. At least one endpoint must be usable. If no level reaches the share, the lowest number
    /// with a usable endpoint serves. 0 to 100. Default: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub min_usable_percent: Option<u8>,
    /// The conditions for the return to a lower priority number. Absent: as soon as it can serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failback: Option<Failback>,
}

/// The conditions for the return to a lower priority number.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.after) || self.policy != 'Never'")
        .message("after has no effect with policy Never: write `policy: Automatic`, or remove `after`")
        .field_path(".after")
)]
pub struct Failback {
    /// `Automatic`: the lower number becomes active after it could serve for `after`. `Never`: it becomes active only
    /// when the active level cannot serve any more, or on request (`requestedAt`). Default: Automatic.
    #[serde(default)]
    pub policy: FailbackPolicy,
    /// The time for which the lower number must be able to serve without interruption. At most 24h. Default: 0s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::at_most("24h"))]
    pub after: Option<Duration>,
    /// The time of a request to fail back now (RFC 3339). Each new value makes the lowest number that can serve active,
    /// whatever the policy; if none can at that moment, the request is valid for one more minute. `kubectl tcplb
    /// failback` writes the current time. Removing it has no effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested_at: Option<DateTime>,
}

#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum FailbackPolicy {
    #[default]
    Automatic,
    Never,
}

/// Preference for endpoints near the proxy. It applies to endpoints of Services. Other endpoints get connections only
/// while no near endpoint is usable, or while near endpoints are overloaded (`overloadedAt`).
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Locality {
    /// `SameZone`: endpoints in the zone of the proxy. `SameNode`: endpoints on its node, then endpoints in its zone.
    /// `Hints`: endpoints with a topology hint for its node or zone in their EndpointSlice, as Kubernetes sets it for
    /// `trafficDistribution`.
    pub prefer: Prefer,
    /// The number of connections of one proxy at which a near endpoint is overloaded. It then gets no new connections
    /// from that proxy while a more distant endpoint has fewer. 1 to 10000000. Absent: no endpoint is overloaded.
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
