use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use jiff::fmt::serde::unsigned_duration::friendly::compact as duration;
use serde::Serialize;

use super::{Certificate, ClientValidation, ListenerDrain, Networks, StartTls, UpstreamKey};

/// A port that clients connect to. A connection keeps the configuration from its accept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// The name in logs and metrics: the declared one, otherwise the port.
    pub name: Arc<str>,
    /// The address to bind. `[::]`: all addresses of both families.
    pub bind: SocketAddr,
    pub upstream: UpstreamKey,
    /// The uid of its load balancer, if there is one. A load balancer of the same name with another uid inherits
    /// nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<Arc<str>>,
    /// `None`: plain TCP.
    pub tls: Option<Tls>,
    /// `None`: no PROXY header is expected, and a received one is forwarded as data.
    pub proxy_protocol: Option<ProxyProtocol>,
    pub access: Access,
    pub limits: Limits,
    pub timeouts: Timeouts,
    /// TCP keepalive of client connections.
    pub keepalive: Option<Keepalive>,
    pub drain: ListenerDrain,
    #[serde(skip_serializing_if = "AccessLogSettings::is_default")]
    pub access_log: AccessLogSettings,
}

#[cfg(test)]
impl Listener {
    /// A plain TCP listener of the load balancer `object`, without limits and timeouts.
    pub fn plain(object: super::ObjectKey, bind: SocketAddr) -> Self {
        Self {
            name: "test".into(),
            bind,
            upstream: UpstreamKey { object },
            owner: None,
            tls: None,
            proxy_protocol: None,
            access: Access::default(),
            limits: Limits::default(),
            timeouts: Timeouts {
                handshake: Duration::ZERO,
                idle: None,
                half_closed: None,
                max_duration: None,
                jitter_percent: 0,
            },
            keepalive: None,
            drain: ListenerDrain::default(),
            access_log: AccessLogSettings::default(),
        }
    }
}

/// True if listeners on these addresses would compete for connections.
pub fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    covers(one, other) || covers(other, one)
}

/// True if a listener on `wide` receives all connections for `narrow`. `[::]` receives the connections of both
/// families.
pub fn covers(wide: SocketAddr, narrow: SocketAddr) -> bool {
    let covers = match wide.ip() {
        IpAddr::V6(wide) if wide.is_unspecified() => true,
        IpAddr::V4(wide) if wide.is_unspecified() => narrow.ip().to_canonical().is_ipv4(),
        wide => wide == narrow.ip(),
    };
    covers && wide.port() == narrow.port()
}

/// True if connections from this host to `address` certainly reach a listener at `bind`. At other addresses of the host,
/// which are not known here, they may reach it too.
pub fn covers_locally(bind: SocketAddr, address: SocketAddr) -> bool {
    covers(bind, address) && (bind.ip() == address.ip() || address.ip().is_loopback())
}

/// The addresses that cover this one, itself last.
pub fn covering(address: SocketAddr) -> impl Iterator<Item = SocketAddr> {
    let ips = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED), address.ip()];
    let wide = ips.into_iter().map(move |ip| SocketAddr::new(ip, address.port()));
    wide.filter(move |wide| covers(*wide, address))
}

/// The TLS settings of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// At least one if any route terminates TLS. The first one is presented if no name matches.
    pub certificates: Vec<Arc<Certificate>>,
    pub min_version: TlsVersion,
    /// The application protocols (ALPN), preferred first. Empty: no negotiation.
    pub alpn: Vec<Arc<str>>,
    /// The protocol that starts TLS within a plaintext connection. `None`: TLS starts with the first byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_tls: Option<StartTls>,
    /// The requirements for client certificates where the proxy terminates TLS. `None`: no certificate is requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_validation: Option<Arc<ClientValidation>>,
    /// At least one. A client without a matching route is refused.
    pub routes: Vec<Route>,
}

impl Tls {
    /// The route, if there is exactly one and it terminates TLS for all server names. It applies before the proxy reads
    /// anything from the client.
    pub fn only_route(&self) -> Option<&Route> {
        match &self.routes[..] {
            [route]
                if self.start_tls.is_none() && route.server_names.is_empty() && route.mode == TlsMode::Terminate =>
            {
                Some(route)
            }
            _ => None,
        }
    }
}

/// The handling of connections with certain server names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// In lower case. `*.example.com` matches all names below `example.com`. Unique across routes. Empty: the default
    /// route, for clients that match no other route or send no name.
    pub server_names: Vec<Arc<str>>,
    pub mode: TlsMode,
    /// The names of its backends. `None`: all.
    pub backends: Option<Arc<[Arc<str>]>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum TlsMode {
    /// The proxy terminates TLS.
    Terminate,
    /// The proxy forwards the TLS bytes unchanged.
    Passthrough,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum TlsVersion {
    #[serde(rename = "TLS1.2")]
    V1_2,
    #[serde(rename = "TLS1.3")]
    V1_3,
}

/// The peers that may send the client's address in a PROXY header
/// ([specification](https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyProtocol {
    pub mode: ProxyMode,
    /// Not empty.
    pub trusted: Networks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ProxyMode {
    /// Trusted peers must send a header. All other peers are clients and must not send one.
    Optional,
    /// Only trusted peers may connect, and they must send a header.
    Required,
}

/// The clients that may connect. `deny` takes precedence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// Empty: all clients.
    pub allow: Networks,
    pub deny: Networks,
}

/// Limits of the number and rate of connections, for all workers together. `None`: unlimited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    pub max_connections: Option<NonZeroU32>,
    pub max_connections_per_source: Option<NonZeroU32>,
    pub new_connections: Option<Rate>,
    pub new_connections_per_source: Option<Rate>,
}

/// `count` events per `per`, with bursts of at most `burst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rate {
    pub count: NonZeroU32,
    /// Never zero.
    #[serde(serialize_with = "duration::required::serialize")]
    pub per: Duration,
    pub burst: NonZeroU32,
}

/// The time limits of a connection. `None`: unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// The time limit of the PROXY header and of the TLS handshake, each.
    #[serde(serialize_with = "duration::required::serialize")]
    pub handshake: Duration,
    /// The maximum time without a byte in either direction.
    #[serde(serialize_with = "duration::optional::serialize")]
    pub idle: Option<Duration>,
    /// The maximum time without a byte in the open direction after one side has closed its own.
    #[serde(serialize_with = "duration::optional::serialize")]
    pub half_closed: Option<Duration>,
    #[serde(serialize_with = "duration::optional::serialize")]
    pub max_duration: Option<Duration>,
    /// The maximum random reduction of `max_duration`, in percent, so that connections that were opened together do not
    /// end together.
    pub jitter_percent: u8,
}

/// TCP keepalive probes. TCP_USER_TIMEOUT is the time until the probes give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Keepalive {
    #[serde(serialize_with = "duration::required::serialize")]
    pub idle: Duration,
    #[serde(serialize_with = "duration::required::serialize")]
    pub interval: Duration,
    pub probes: u8,
}

/// The connections of a listener in the access log. Default: all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessLogSettings {
    pub mode: AccessLogMode,
    /// One in this number of the connections that did not fail is logged.
    pub sample: NonZeroU32,
}

impl Default for AccessLogSettings {
    fn default() -> Self {
        Self { mode: AccessLogMode::All, sample: NonZeroU32::MIN }
    }
}

impl AccessLogSettings {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum AccessLogMode {
    All,
    Failures,
    Off,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_overlap_when_a_connection_could_match_both() {
        for (one, other, expected) in [
            ("[::]:80", "0.0.0.0:80", true),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::]:80", "[::1]:80", true),
            ("[::]:80", "[::]:81", false),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "[::ffff:127.0.0.1]:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.1:80", true),
        ] {
            let (one, other) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!(overlap(one, other), expected, "{one} {other}");
            assert_eq!(overlap(other, one), expected, "{other} {one}");
        }
    }
}
