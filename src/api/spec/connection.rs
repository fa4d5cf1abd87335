//! Connection settings: connecting, timeouts and keepalive.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::api::{
    Duration,
    rules::{self, DurationOrder},
};

/// Timeouts, retries and preconnected sockets of connections to endpoints.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = DurationOrder { short: "timeout", long: "deadline", long_default: None }.not_shorter())]
pub struct Connect {
    /// The timeout of one connection attempt. At least 1ms. Default: 3s, or the deadline if that is shorter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::at_least("1ms"))]
    pub timeout: Option<Duration>,
    /// The time limit for all attempts for one client. At least the timeout. Default: 10s, or the timeout if that is
    /// longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::at_least("1ms"))]
    pub deadline: Option<Duration>,
    /// The number of endpoints that are tried before the client is refused. 1 to 10. Default: 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub attempts: Option<u16>,
    /// Connections that are opened before a client needs them. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preconnect: Option<Preconnect>,
}

/// Connections that are opened before a client needs them. Each is used by one client only.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Preconnect {
    /// The number of connections kept ready for each endpoint. 1 to 1000.
    #[schemars(range(min = 1, max = 1000))]
    pub per_endpoint: u16,
    /// The time after which an unused connection is closed and replaced. It should be below the timeout of the backend
    /// for silent clients. At least 100ms. Default: 5s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::at_least("100ms"))]
    pub idle_timeout: Option<Duration>,
}

/// Timeouts of the handshakes, of idle connections and of whole connections.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// The time limit for the PROXY header, and again for the TLS handshake. At least 1ms. Default: 10s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::at_least("1ms"))]
    pub handshake: Option<Duration>,
    /// The maximum time without a byte in either direction. 0s: no limit. Default: 0s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Duration>,
    /// The maximum time without a byte in the open direction after one side has closed the other direction. 0s: no
    /// limit. Default: 5m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half_closed: Option<Duration>,
    /// The maximum duration of a connection. 0s: no limit. Default: 0s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_duration: Option<Duration>,
    /// The maximum random reduction of maxDuration, in percent. 0 to 100. Default: 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub jitter_percent: Option<u8>,
}

/// TCP keepalive probes. TCP_USER_TIMEOUT is set to the time until they give up.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TcpKeepalive {
    /// The idle time before the first probe, in whole seconds. At most 32767s. 0s: no probes and no TCP_USER_TIMEOUT.
    /// Default: 60s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = rules::at_most("32767s"),
        validation = rules::whole_seconds()
    )]
    pub idle: Option<Duration>,
    /// The time between probes, in whole seconds. 1s to 32767s. Default: 15s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = rules::within("1s", "32767s"),
        validation = rules::whole_seconds()
    )]
    pub interval: Option<Duration>,
    /// The number of unanswered probes after which the peer counts as dead. 1 to 100. Default: 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub probes: Option<u8>,
}
