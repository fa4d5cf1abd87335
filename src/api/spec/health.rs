//! How unhealthy endpoints are found.

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

impl HealthCheck {
    /// The objects that it refers to.
    pub fn references(&self) -> impl Iterator<Item = Reference<'_>> {
        self.password_ref().and_then(PasswordRef::reference).into_iter()
    }

    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.password_ref().and_then(|password| password.file.as_deref()).into_iter()
    }

    fn password_ref(&self) -> Option<&PasswordRef> {
        self.active.as_ref().and_then(ActiveCheck::password_ref)
    }
}

/// How unhealthy endpoints of one backend are found.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BackendHealthCheck {
    /// Probes, in place of all that the load balancer's own `healthCheck.active` says. Default: that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<ActiveCheck>,
}

/// Probes of each endpoint, never two at a time.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Order { short: "timeout", long: "interval", long_default: Some("5s") }.not_longer(),
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
    /// `TCP`: open a connection and close it. `None`: no probes. `Exchange`: send bytes and expect others. `HTTP`: a
    /// request, and its status. `TLS`: a handshake. `GRPC`: ask the health service. `Postgres`, `MySQL`, `Redis`: ask the
    /// server, also whether it is a primary or a replica. With Exchange, HTTP, GRPC and where a role is asked for, a new
    /// endpoint gets no connections before its first probe, which decides alone. Default: TCP.
    #[serde(rename = "type", default)]
    pub type_: CheckType,
    /// The time between two probes, from 100ms to 1h. Default: 5s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::within("100ms", "1h"))]
    pub interval: Option<Duration>,
    /// The time between two probes of an endpoint that is unhealthy, from 100ms to 1h. Default: the interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::within("100ms", "1h"))]
    pub unhealthy_interval: Option<Duration>,
    /// Each interval is longer or shorter by a random share of up to this many percent, so that probes do not stay in
    /// step. At most 50. Default: 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 50))]
    pub jitter_percent: Option<u8>,
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
    /// The port that is probed in place of each endpoint's own, of the same address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// `Plain`, or `TLS` as connections to the backend have it, which needs the backend's `tls`. Not with types TCP, which
    /// says nothing, and TLS, which is always TLS. Default: TLS where the backend has `tls`, unless `port` is another than
    /// the endpoint's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<CheckTransport>,
    /// What is sent and expected (type Exchange).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchange: Option<ExchangeCheck>,
    /// The request (type HTTP).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpCheck>,
    /// The handshake (type TLS).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsCheck>,
    /// The question (type GRPC).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcCheck>,
    /// The session (type Postgres).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresCheck>,
    /// The session (type MySQL).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mysql: Option<MySqlCheck>,
    /// The session (type Redis).
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
