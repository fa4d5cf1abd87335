use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use jiff::fmt::serde::unsigned_duration::friendly::compact as duration;
use serde::Serialize;

use super::{Certificate, ClientValidation, ListenerDrain, Networks, StartTls, UpstreamKey};

/// A port that clients connect to. Frozen for a connection when it is accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// Its name in logs and metrics: the declared one, else the port.
    pub name: Arc<str>,
    /// Where it is bound. `[::]` means every address of both families.
    pub bind: SocketAddr,
    pub upstream: UpstreamKey,
    /// The uid of its load balancer, where it has one: another one of the same name inherits nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<Arc<str>>,
    /// `None`: plain TCP.
    pub tls: Option<Tls>,
    /// `None`: no PROXY header is expected, and one is passed on like any other bytes.
    pub proxy_protocol: Option<ProxyProtocol>,
    pub access: Access,
    pub limits: Limits,
    pub timeouts: Timeouts,
    /// TCP keepalive on the client's side.
    pub keepalive: Option<Keepalive>,
    pub drain: ListenerDrain,
}

/// Whether listeners bound to these would compete for the same connections.
pub fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    covers(one, other) || covers(other, one)
}

/// Whether a listener bound to the one takes all connections that one bound to the other takes: `[::]` takes those of
/// both families.
pub fn covers(wide: SocketAddr, narrow: SocketAddr) -> bool {
    let covers = match wide.ip() {
        IpAddr::V6(wide) if wide.is_unspecified() => true,
        IpAddr::V4(wide) if wide.is_unspecified() => narrow.ip().to_canonical().is_ipv4(),
        wide => wide == narrow.ip(),
    };
    covers && wide.port() == narrow.port()
}

/// What a listener does with TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// At least one if any route terminates; the first is presented when no name matches.
    pub certificates: Vec<Arc<Certificate>>,
    pub min_version: TlsVersion,
    /// Application protocols, preferred first; empty: none negotiated.
    pub alpn: Vec<Arc<str>>,
    /// How clients ask for TLS before it begins; `None`: they do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_tls: Option<StartTls>,
    /// What certificates clients have to show where TLS ends here; `None`: they are not asked for any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_validation: Option<Arc<ClientValidation>>,
    /// At least one. A client that none of them is for is refused.
    pub routes: Vec<Route>,
}

impl Tls {
    /// The only route there is, if it terminates all connections, whatever their server names: it can be taken without
    /// looking at what a client sends.
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

/// What is done with connections that ask for certain server names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// In lower case; `*.example.com` is for all names below `example.com`. No two routes have the same. Empty: for
    /// clients that no other route is for, also those that ask for no name.
    pub server_names: Vec<Arc<str>>,
    pub mode: TlsMode,
    /// The backends it leads to, by name; `None`: all.
    pub backends: Option<Arc<[Arc<str>]>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum TlsMode {
    /// TLS ends here.
    Terminate,
    /// What the client and the backend say to one another is passed on as it is.
    Passthrough,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum TlsVersion {
    #[serde(rename = "TLS1.2")]
    V1_2,
    #[serde(rename = "TLS1.3")]
    V1_3,
}

/// Who may announce the client's address in a PROXY header
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
    /// Trusted peers must send a header; all others are clients themselves and may not send one.
    Optional,
    /// Only trusted peers may connect, and they must send a header.
    Required,
}

/// Which clients may connect. `deny` wins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// Empty: everyone.
    pub allow: Networks,
    pub deny: Networks,
}

/// How many connections, and how fast; `None`: unlimited. Shared by all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    pub max_connections: Option<NonZeroU32>,
    pub max_connections_per_source: Option<NonZeroU32>,
    pub new_connections: Option<Rate>,
    pub new_connections_per_source: Option<Rate>,
}

/// `count` events per `per`, of which `burst` may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rate {
    pub count: NonZeroU32,
    /// Not zero.
    #[serde(serialize_with = "duration::required::serialize")]
    pub per: Duration,
    pub burst: NonZeroU32,
}

/// How long a connection may take, be silent and last; `None`: for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// For the PROXY header and for the TLS handshake, each.
    #[serde(serialize_with = "duration::required::serialize")]
    pub handshake: Duration,
    /// Without a byte in either direction.
    #[serde(serialize_with = "duration::optional::serialize")]
    pub idle: Option<Duration>,
    /// Without a byte in the remaining direction after the other has ended.
    #[serde(serialize_with = "duration::optional::serialize")]
    pub half_closed: Option<Duration>,
    #[serde(serialize_with = "duration::optional::serialize")]
    pub max_duration: Option<Duration>,
    /// `max_duration` is shortened by a random share of up to this many percent, so that connections opened together
    /// do not end together.
    pub jitter_percent: u8,
}

/// TCP keepalive probes; TCP_USER_TIMEOUT is set to the time they take to give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Keepalive {
    #[serde(serialize_with = "duration::required::serialize")]
    pub idle: Duration,
    #[serde(serialize_with = "duration::required::serialize")]
    pub interval: Duration,
    pub probes: u8,
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
