use std::{fmt, mem, num::NonZeroU16, ops::RangeInclusive, sync::Arc, time::Duration};

use hyper::http::{HeaderName, HeaderValue, uri::PathAndQuery};
use jiff::fmt::serde::unsigned_duration::friendly::compact as duration;
use rustls::pki_types::ServerName;
use serde::{Serialize, Serializer};

/// The probe of an endpoint, its interval, and the thresholds of consecutive results.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ActiveCheck {
    pub probe: Probe,
    /// The port to probe instead of the endpoint's own port.
    pub port: Option<NonZeroU16>,
    pub transport: Transport,
    #[serde(serialize_with = "duration::required::serialize")]
    pub interval: Duration,
    /// The interval for unhealthy endpoints.
    #[serde(serialize_with = "duration::required::serialize")]
    pub unhealthy_interval: Duration,
    /// The maximum random variation of each interval, in percent (at most 50).
    pub jitter_percent: u8,
    #[serde(serialize_with = "duration::required::serialize")]
    pub timeout: Duration,
    /// The number of consecutive passes that make an unhealthy endpoint healthy.
    pub healthy_after: NonZeroU16,
    /// The number of consecutive failures that make a healthy endpoint unhealthy.
    pub unhealthy_after: NonZeroU16,
}

impl ActiveCheck {
    /// True if the check may distinguish servers that all accept connections, such as a primary and its replicas.
    /// Endpoints then get no connections before their first result.
    pub fn tells_servers_apart(&self) -> bool {
        match self.probe {
            // Patroni's `/primary` is an example.
            Probe::Exchange(_) | Probe::Http(_) | Probe::Grpc(_) => true,
            Probe::Tcp | Probe::Tls(_) | Probe::Postgres(_) | Probe::MySql(_) | Probe::Redis(_) => {
                self.probe.role() != Role::Any
            }
        }
    }

    /// The maximum time until a recovered endpoint counts as healthy.
    pub fn sees_recovery_within(&self) -> Duration {
        let longest = self.unhealthy_interval.mul_f64(1.0 + f64::from(self.jitter_percent) / 100.0) + self.timeout;
        longest.saturating_mul(self.healthy_after.get().into())
    }

    /// True if `other` sends the same request, possibly with other credentials. The results of one then apply to the
    /// other.
    pub fn asks_like(&self, other: &Self) -> bool {
        let question =
            |check: &Self| (mem::discriminant(&check.probe), check.probe.role(), check.port, check.transport);
        question(self) == question(other)
    }
}

/// The transport of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Transport {
    Plain,
    /// The transport of connections to the backend.
    AsConnections,
    /// The transport of connections on the endpoint's own port. Another port is another server, which is probed in
    /// plaintext.
    ByPort,
    /// TLS, which the backend has configured.
    Tls,
}

/// The request of a probe, and the responses that pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Probe {
    /// Opens a connection only.
    Tcp,
    Exchange(Exchange),
    Http(HttpRequest),
    /// Completes a TLS handshake with this server name.
    Tls(#[serde(serialize_with = "server_name")] Option<ServerName<'static>>),
    Grpc(GrpcHealth),
    /// Without a session, verifies only that PostgreSQL answers.
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

    /// The type in the notation of the manifest.
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

/// The replication role of a database server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Role {
    /// Either role.
    #[default]
    Any,
    /// Accepts writes.
    Primary,
    Replica,
}

/// The bytes to send, and the bytes that the response must contain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exchange {
    /// Empty: the server sends first. May contain a password.
    pub send: Hidden<Arc<[u8]>>,
    /// Hidden in documents, but quoted by the failures of probes.
    #[serde(serialize_with = "hidden")]
    pub expect: Arc<[u8]>,
}

/// A GET request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HttpRequest {
    #[serde(serialize_with = "displayed")]
    pub path: PathAndQuery,
    /// The values may contain a password. Without `host`, the Host header is the probed address.
    #[serde(serialize_with = "names_alone")]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The HTTP statuses that pass.
    pub statuses: Vec<RangeInclusive<u16>>,
}

/// A request to `grpc.health.v1.Health`.
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

/// A value that must not appear in logs, pages or messages.
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

fn hidden<S: Serializer>(_: &Arc<[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(HIDDEN)
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
    fn possible_passwords_are_never_in_text() {
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

    #[test]
    fn documents_do_not_contain_the_bytes_of_an_exchange() {
        let exchange = Exchange { send: Hidden::new(b"PING"[..].into()), expect: b"+PONG"[..].into() };
        let expected = serde_json::json!({"send": HIDDEN, "expect": HIDDEN});
        assert_eq!(serde_json::to_value(exchange).unwrap(), expected);
    }
}
