//! Detection of unhealthy endpoints.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{
    check::{
        CheckTransport, CheckType, ExchangeCheck, GrpcCheck, HttpCheck, MySqlCheck, PasswordRef, PostgresCheck,
        RedisCheck, TlsCheck,
    },
    tls::Reference,
};
use crate::api::{
    Duration,
    rules::{self, DurationOrder},
};

/// The detection of unhealthy endpoints.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// Probes of endpoints. Default: TCP every 5s in standalone mode; none in a cluster, where the readiness of pods
    /// counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<ActiveCheck>,
    /// Ejection of endpoints that connections of clients fail to reach. Enabled by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passive: Option<PassiveCheck>,
}

impl HealthCheck {
    /// The referenced objects.
    pub fn references(&self) -> impl Iterator<Item = Reference<'_>> {
        self.password_ref().and_then(PasswordRef::reference).into_iter()
    }

    /// The files that the checks name.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.password_ref().and_then(|password| password.file.as_deref()).into_iter()
    }

    fn password_ref(&self) -> Option<&PasswordRef> {
        self.active.as_ref().and_then(ActiveCheck::password_ref)
    }
}

/// Health checks of one backend.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BackendHealthCheck {
    /// Probes that replace all of the load balancer's `healthCheck.active`. Default: the probes of the load balancer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<ActiveCheck>,
}

/// Probes of each endpoint, one at a time.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = DurationOrder { short: "timeout", long: "interval", long_default: Some("5s") }.not_longer(),
    validation = rules::block_of_type("exchange", "Exchange"),
    validation = rules::block_of_type("http", "HTTP"),
    validation = rules::block_of_type("tls", "TLS"),
    validation = rules::block_of_type("grpc", "GRPC"),
    validation = rules::block_of_type("postgres", "Postgres"),
    validation = rules::block_of_type("mysql", "MySQL"),
    validation = rules::block_of_type("redis", "Redis"),
    validation = Rule::new("!has(self.transport) || (self.type != 'TCP' && self.type != 'TLS' && self.type != 'None')")
        .message("transport has no effect with types TCP, TLS and None: write another type, or remove `transport`")
        .field_path(".transport"),
    validation = Rule::new("self.type != 'Exchange' || has(self.exchange)")
        .message("type Exchange requires `exchange`: write for example \
                  `exchange: {send: {text: \"PING\\r\\n\"}, expect: {text: \"+PONG\"}}`")
        .field_path(".exchange"),
    validation = Rule::new("self.type != 'MySQL' || has(self.mysql)")
        .message("type MySQL requires an account, since the server counts connections that do not log in as errors: \
                  write for example `mysql: {user: tcplb}`")
        .field_path(".mysql")
)]
pub struct ActiveCheck {
    /// The type of probe. `TCP`: open a connection and close it. `None`: no probes. `Exchange`: send bytes and expect
    /// an answer. `HTTP`: send a request and check the status. `TLS`: complete a handshake. `GRPC`: query the health
    /// service. `Postgres`, `MySQL`, `Redis`: query the server, and optionally require the primary or replica role.
    /// With Exchange, HTTP, GRPC or a required role, a new endpoint gets no connections before its first probe, and
    /// that probe alone decides. Default: TCP.
    #[serde(rename = "type", default)]
    pub type_: CheckType,
    /// The time between probes. 100ms to 1h. Default: 5s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::within("100ms", "1h"))]
    pub interval: Option<Duration>,
    /// The time between probes of an unhealthy endpoint. 100ms to 1h. Default: the interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::within("100ms", "1h"))]
    pub unhealthy_interval: Option<Duration>,
    /// The maximum random variation of each interval, in percent, so that probes do not stay synchronized. 0 to 50.
    /// Default: 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 50))]
    pub jitter_percent: Option<u8>,
    /// The time limit of a probe. 1ms to the interval. Default: 1s, or the interval if that is shorter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::at_least("1ms"))]
    pub timeout: Option<Duration>,
    /// The number of consecutive passes that make an unhealthy endpoint healthy. 1 to 100. Default: 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub healthy_after: Option<u16>,
    /// The number of consecutive failures that make a healthy endpoint unhealthy. 1 to 100. Default: 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub unhealthy_after: Option<u16>,
    /// The port to probe at the address of the endpoint. 1 to 65535. Default: the port of the endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// The transport of probes: `Plain`, or `TLS` with the settings of the backend's `tls`. Not with types TCP, which
    /// sends nothing, and TLS, which always uses TLS. Default: TLS if the backend has `tls` and `port` is the port of
    /// the endpoint, otherwise Plain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<CheckTransport>,
    /// The bytes to send and to expect (type Exchange only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchange: Option<ExchangeCheck>,
    /// The request (type HTTP only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpCheck>,
    /// The handshake (type TLS only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsCheck>,
    /// The request (type GRPC only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcCheck>,
    /// The session (type Postgres only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresCheck>,
    /// The session (type MySQL only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mysql: Option<MySqlCheck>,
    /// The session (type Redis only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisCheck>,
}

impl ActiveCheck {
    pub fn password_ref(&self) -> Option<&PasswordRef> {
        let postgres = self.postgres.as_ref().and_then(|session| session.password_ref.as_ref());
        let mysql = || self.mysql.as_ref().and_then(|session| session.password_ref.as_ref());
        let redis = || self.redis.as_ref().and_then(|session| session.password_ref.as_ref());
        postgres.or_else(mysql).or_else(redis)
    }
}

/// Ejection of endpoints that connections of clients fail to reach.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = DurationOrder { short: "ejectFor", long: "maxEjectFor", long_default: None }.not_shorter())]
pub struct PassiveCheck {
    /// The number of consecutive failed attempts that eject an endpoint. 1 to 1000. Default: 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub consecutive_failures: Option<u16>,
    /// The duration of the first ejection. Each consecutive ejection lasts twice as long as the one before. At least
    /// 1s. Default: 30s, or maxEjectFor if that is shorter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::at_least("1s"))]
    pub eject_for: Option<Duration>,
    /// The maximum duration of an ejection. At least ejectFor. Default: 5m, or ejectFor if that is longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::at_least("1s"))]
    pub max_eject_for: Option<Duration>,
    /// The maximum share of ejected endpoints of a priority level, in percent. It does not apply while another level
    /// has a usable endpoint. The last usable endpoint is never ejected. 0 to 100. 0: no ejection. Default: 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub max_ejected_percent: Option<u8>,
}
