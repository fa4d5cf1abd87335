use std::{fmt, mem, num::NonZeroU16, ops::RangeInclusive, sync::Arc, time::Duration};

use hyper::http::{HeaderName, HeaderValue, uri::PathAndQuery};
use jiff::fmt::serde::unsigned_duration::friendly::compact as duration;
use rustls::pki_types::ServerName;
use serde::{Serialize, Serializer};

/// How an endpoint is probed, how often, and how many probes decide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ActiveCheck {
    pub probe: Probe,
    /// Where probes go instead of the endpoint's own port.
    pub port: Option<NonZeroU16>,
    pub transport: Transport,
    #[serde(serialize_with = "duration::required::serialize")]
    pub interval: Duration,
    /// Between probes of an endpoint that is not healthy.
    #[serde(serialize_with = "duration::required::serialize")]
    pub unhealthy_interval: Duration,
    /// Each interval is longer or shorter by a random share of up to this (at most 50).
    pub jitter_percent: u8,
    #[serde(serialize_with = "duration::required::serialize")]
    pub timeout: Duration,
    /// Passes in a row that make an unhealthy endpoint healthy.
    pub healthy_after: NonZeroU16,
    /// Failures in a row that make a healthy endpoint unhealthy.
    pub unhealthy_after: NonZeroU16,
}

impl ActiveCheck {
    /// Whether it may tell servers apart that all take connections, as a primary from a replica: then nobody may be sent
    /// to an endpoint of which that is not known.
    pub fn tells_servers_apart(&self) -> bool {
        match self.probe {
            // Patroni's `/primary` is one of these.
            Probe::Exchange(_) | Probe::Http(_) | Probe::Grpc(_) => true,
            Probe::Tcp | Probe::Tls(_) | Probe::Postgres(_) | Probe::MySql(_) | Probe::Redis(_) => {
                self.probe.role() != Role::Any
            }
        }
    }

    /// How long it takes at most to find an endpoint healthy that has recovered.
    pub fn sees_recovery_within(&self) -> Duration {
        let longest = self.unhealthy_interval.mul_f64(1.0 + f64::from(self.jitter_percent) / 100.0) + self.timeout;
        longest.saturating_mul(self.healthy_after.get().into())
    }

    /// Whether it asks what `other` asks, be it as somebody else: what is known from the one is true for the other.
    pub fn asks_like(&self, other: &Self) -> bool {
        let question =
            |check: &Self| (mem::discriminant(&check.probe), check.probe.role(), check.port, check.transport);
        question(self) == question(other)
    }
}

/// What a probe's bytes go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Transport {
    Plain,
    /// What connections to the backend go through.
    AsConnections,
    /// The same at the endpoint's own port. Another port is another server, which probes speak to in the clear.
    ByPort,
    /// The same, and the backend has it.
    Tls,
}

/// What a probe asks, and which answer passes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Probe {
    /// The connection itself.
    Tcp,
    Exchange(Exchange),
    Http(HttpRequest),
    /// A TLS handshake, for this name.
    Tls(#[serde(serialize_with = "server_name")] Option<ServerName<'static>>),
    Grpc(GrpcHealth),
    /// Without an account only whether it is PostgreSQL that answers.
    Postgres(Option<PostgresSession>),
    #[serde(rename = "mysql")]
    MySql(MySqlSession),
    Redis(RedisSession),
}

impl Probe {
    pub fn role(&self) -> Role {
        match self {
            Self::Tcp | Self::Exchange(_) | Self::Http(_) | Self::Tls(_) | Self::Grpc(_) | Self::Postgres(None) => {
                Role::Any
            }
            Self::Postgres(Some(session)) => session.role,
            Self::MySql(session) => session.role,
            Self::Redis(session) => session.role,
        }
    }

    /// As users write its type.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Exchange(_) => "Exchange",
            Self::Http(_) => "HTTP",
            Self::Tls(_) => "TLS",
            Self::Grpc(_) => "GRPC",
            Self::Postgres(_) => "Postgres",
            Self::MySql(_) => "MySQL",
            Self::Redis(_) => "Redis",
        }
    }
}

/// What a database server is to its others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Role {
    /// Whatever it is.
    #[default]
    Any,
    /// It takes writes.
    Primary,
    Replica,
}

/// Bytes to send, and bytes that have to be in the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exchange {
    /// Empty: the server speaks first. It may hold a password.
    pub send: Hidden<Arc<[u8]>>,
    #[serde(serialize_with = "escaped")]
    pub expect: Arc<[u8]>,
}

/// A GET request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HttpRequest {
    #[serde(serialize_with = "displayed")]
    pub path: PathAndQuery,
    /// Their values may hold a password. No `host`: the address that is probed.
    #[serde(serialize_with = "names_alone")]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The statuses that pass.
    pub statuses: Vec<RangeInclusive<u16>>,
}

/// A question to `grpc.health.v1.Health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GrpcHealth {
    /// Empty: the server as a whole.
    pub service: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PostgresSession {
    pub user: Arc<str>,
    pub password: Option<Password>,
    pub database: Arc<str>,
    pub role: Role,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MySqlSession {
    pub user: Arc<str>,
    pub password: Option<Password>,
    pub role: Role,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RedisSession {
    /// `None`: the default user.
    pub user: Option<Arc<str>>,
    pub password: Option<Password>,
    pub role: Role,
}

pub type Password = Hidden<Arc<str>>;

/// What is not to be read in any log, page or message.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden<T>(T);

impl<T> Hidden<T> {
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    pub const fn reveal(&self) -> &T {
        &self.0
    }
}

const HIDDEN: &str = "(hidden)";

impl<T> fmt::Debug for Hidden<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl<T> Serialize for Hidden<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(HIDDEN)
    }
}

fn escaped<S: Serializer>(bytes: &Arc<[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&bytes.escape_ascii())
}

fn displayed<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn names_alone<S: Serializer>(headers: &[(HeaderName, HeaderValue)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(headers.iter().map(|(name, _)| name.as_str()))
}

fn server_name<S: Serializer>(name: &Option<ServerName<'static>>, serializer: S) -> Result<S::Ok, S::Error> {
    name.as_ref().map(ServerName::to_str).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_password_is_in_no_text() {
        let secret = "opensesame";
        let mut header = HeaderValue::from_static("opensesame");
        header.set_sensitive(true);
        for probe in [
            Probe::Exchange(Exchange { send: Hidden::new(secret.as_bytes().into()), expect: b"+OK"[..].into() }),
            Probe::Http(HttpRequest {
                path: PathAndQuery::from_static("/"),
                headers: vec![(hyper::header::AUTHORIZATION, header)],
                statuses: vec![200..=200],
            }),
            Probe::Postgres(Some(PostgresSession {
                user: "tcplb".into(),
                password: Some(Hidden::new(secret.into())),
                database: "postgres".into(),
                role: Role::Primary,
            })),
            Probe::MySql(MySqlSession {
                user: "tcplb".into(),
                password: Some(Hidden::new(secret.into())),
                role: Role::Any,
            }),
            Probe::Redis(RedisSession { user: None, password: Some(Hidden::new(secret.into())), role: Role::Any }),
        ] {
            let texts = [format!("{probe:?}"), serde_json::to_string(&probe).unwrap()];
            assert!(!texts.iter().any(|text| text.contains(secret)), "{texts:?}");
        }
    }
}
