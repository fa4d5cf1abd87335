//! How an endpoint is chosen.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How an endpoint is chosen.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.hash) || self.algorithm == 'Maglev'")
        .message("it does nothing with another algorithm: write `algorithm: Maglev`, or leave `hash` out")
        .field_path(".hash")
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
