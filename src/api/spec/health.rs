//! How unhealthy endpoints are found.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{
    Duration,
    rules::{self, Order},
};

/// How unhealthy endpoints are found.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// Probes. Default: TCP every 5s in standalone; none in a cluster, where Kubernetes' readiness rules.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<ActiveCheck>,
    /// Ejection of endpoints that clients' connections fail to reach. On by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passive: Option<PassiveCheck>,
}

/// Probes of each endpoint.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Order { short: "timeout", long: "interval", long_default: Some("5s") }.not_longer())]
pub struct ActiveCheck {
    /// `TCP`: open a connection and close it. `None`: no probes. Default: TCP.
    #[serde(rename = "type", default)]
    pub type_: CheckType,
    /// The time between two probes, from 100ms to 1h. Default: 5s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::within("100ms", "1h"))]
    pub interval: Option<Duration>,
    /// How long a probe may take, from 1ms to the interval. Default: 1s, or the interval if that is shorter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::at_least("1ms"))]
    pub timeout: Option<Duration>,
    /// Passes in a row that make an unhealthy endpoint healthy. Default: 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub healthy_after: Option<u16>,
    /// Failures in a row that make a healthy endpoint unhealthy. Default: 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub unhealthy_after: Option<u16>,
}

#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum CheckType {
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    None,
}

/// Ejection of endpoints that clients' connections fail to reach.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Order { short: "ejectFor", long: "maxEjectFor", long_default: None }.not_shorter())]
pub struct PassiveCheck {
    /// Failed attempts in a row that eject an endpoint. Default: 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub consecutive_failures: Option<u16>,
    /// How long the first ejection lasts, at least 1s; each following one lasts twice as long. Default: 30s,
    /// or maxEjectFor if that is shorter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::at_least("1s"))]
    pub eject_for: Option<Duration>,
    /// How long an ejection may last at most; at least ejectFor. Default: 5m, or ejectFor if that is longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::at_least("1s"))]
    pub max_eject_for: Option<Duration>,
    /// The largest share of endpoints ejected at a time; the last usable one never is. 0: no ejection. Default: 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub max_ejected_percent: Option<u8>,
}
