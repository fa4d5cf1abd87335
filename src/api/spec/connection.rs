//! How connections begin, last and end.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::api::{
    Duration,
    rules::{self, Order},
};

/// How endpoints are dialled.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Order { short: "timeout", long: "deadline", long_default: None }.not_shorter())]
pub struct Connect {
    /// For one attempt, at least 1ms. Default: 3s, or the deadline if that is shorter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::at_least("1ms"))]
    pub timeout: Option<Duration>,
    /// For all attempts of a client's connection together; at least the timeout. Default: 10s, or the timeout if that
    /// is longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::at_least("1ms"))]
    pub deadline: Option<Duration>,
    /// How many endpoints are tried before the client is refused. Default: 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub attempts: Option<u16>,
    /// Connections opened before a client needs them. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preconnect: Option<Preconnect>,
}

/// Connections opened before a client needs them, each used by one client only.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Preconnect {
    /// How many are kept ready for each endpoint.
    #[schemars(range(min = 1, max = 1000))]
    pub per_endpoint: u16,
    /// One that no client took for this long is closed and replaced; keep it below the backend's own timeout for
    /// silent clients. At least 100ms. Default: 5s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::at_least("100ms"))]
    pub idle_timeout: Option<Duration>,
}

/// How long a connection may take, be silent and last.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// For the PROXY header, and for the TLS handshake; at least 1ms. Default: 10s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::at_least("1ms"))]
    pub handshake: Option<Duration>,
    /// Without a byte in either direction; 0s: for ever. Default: 0s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Duration>,
    /// Without a byte in the remaining direction after one side has ended its own; 0s: for ever. Default: 5m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half_closed: Option<Duration>,
    /// For the whole connection; 0s: for ever. Default: 0s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_duration: Option<Duration>,
    /// maxDuration is shortened by a random share of up to this many percent. Default: 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub jitter_percent: Option<u8>,
}

/// Keepalive probes; TCP_USER_TIMEOUT is set to the time they take to give up.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TcpKeepalive {
    /// Silence before the first probe, in whole seconds, at most 32767s; 0s: no probes, and no TCP_USER_TIMEOUT.
    /// Default: 60s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = rules::at_most("32767s"),
        validation = rules::whole_seconds()
    )]
    pub idle: Option<Duration>,
    /// Time between probes, in whole seconds, 1s to 32767s. Default: 15s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = rules::within("1s", "32767s"),
        validation = rules::whole_seconds()
    )]
    pub interval: Option<Duration>,
    /// Unanswered probes after which the peer counts as dead. Default: 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub probes: Option<u8>,
}
