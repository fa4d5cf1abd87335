//! The ports that clients connect to, and the requirements for clients.

use std::net::IpAddr;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tls::{ListenerTls, Reference, RouteTls};
use crate::api::{
    Duration, Name, Network, ServerName, rules,
    scalar::{IpAddress, ip_address},
};

/// A port that clients connect to.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.address)")
        .message("address is for standalone only: remove it")
        .field_path(".address"),
    validation = Rule::new("!has(self.routes) || has(self.tls)")
        .message("routes require tls, since they match TLS server names: write for example \
                  `tls: {mode: Passthrough}`, or remove `routes`")
        .field_path(".routes"),
    // A route without `tls` uses the mode of the listener.
    validation = Rule::new(
        "!has(self.tls) || (has(self.tls.certificateRefs) && size(self.tls.certificateRefs) > 0) || \
         !(has(self.routes) && size(self.routes) > 0 ? \
         self.routes.exists(r, (has(r.tls) ? r.tls.mode : self.tls.mode) == 'Terminate') : \
         self.tls.mode == 'Terminate')",
    )
        .message("mode Terminate needs a certificate: write the name of a Secret of type kubernetes.io/tls, for \
                  example `certificateRefs: [{name: my-tls}]`")
        .field_path(".tls.certificateRefs")
)]
pub struct Listener {
    /// The name in logs and status. Required with several listeners. Default: the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// The port that clients connect to. 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// The node port of the Service (service type NodePort or LoadBalancer only). The administrator must permit it. 1
    /// to 65535. Default: Kubernetes chooses.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub node_port: Option<u16>,
    /// The IP address to bind (standalone only). Default: all IPv4 and IPv6 addresses.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "ip_address")]
    #[schemars(with = "Option<IpAddress>")]
    pub address: Option<IpAddr>,
    /// TLS of client connections. Absent: plain TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// Routes from the TLS server name that the client requests (SNI) to backends. A client without a matching route is
    /// refused. At most 16. Absent: all backends serve every server name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(
        merge_strategy = ListMerge::Atomic,
        validation = rules::one_default_route(),
        validation = rules::distinct_server_names()
    )]
    pub routes: Vec<Route>,
    /// The PROXY protocol header that a load balancer in front of this one sends. Absent: no header is expected, and a
    /// received header is forwarded as data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// The clients that may connect, by their address, or by the address in the PROXY header if one is expected.
    /// Absent: all clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// Limits of the number and rate of connections, in total and per source. A source is an IPv4 address or an IPv6
    /// /64 network. Absent: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// The connections of this listener in the access log. Absent: all, unless the process writes no access log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLogSettings>,
}

impl Listener {
    /// The referenced objects.
    pub fn references(&self) -> impl Iterator<Item = Reference<'_>> {
        self.tls.iter().flat_map(ListenerTls::references)
    }
}

/// A route from TLS server names to backends.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// The matching server names: `db.example.com`, or `*.example.com` for all names below it, at any depth. An exact
    /// name takes precedence over a wildcard, and a longer wildcard over a shorter one. Empty: the default route, for
    /// clients that match no other route or send no name. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub server_names: Vec<ServerName>,
    /// The names of the backends of this route. Empty: all backends. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub backends: Vec<Name>,
    /// TLS handling for this route. Absent: the mode of the listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<RouteTls>,
}

/// The PROXY protocol header (version 1 or 2) with the address of the client.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.trustedNetworks) && size(self.trustedNetworks) > 0")
    .message("trustedNetworks is missing, and without it anyone can forge a PROXY header: write the addresses of the \
              load balancers in front, for example \
              `trustedNetworks: [10.0.0.0/8]`, or remove `proxyProtocol`")
    .field_path(".trustedNetworks"))]
pub struct ProxyProtocol {
    /// `Required`: only peers in trustedNetworks may connect, and they must send a header. `Optional`: peers in
    /// trustedNetworks must send a header; all other peers are clients, and no header is expected from them.
    pub mode: ProxyProtocolMode,
    /// The networks or single addresses of the load balancers in front, the only peers that may send the header. Anyone
    /// else could forge it. 1 to 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub trusted_networks: Vec<Network>,
}

#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum ProxyProtocolMode {
    Optional,
    Required,
}

/// The clients that may connect, by address: the address in the PROXY header if the listener expects one.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// Networks or single addresses that may connect. Empty: all. At most 256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub allow: Vec<Network>,
    /// Networks or single addresses that may not connect, even if `allow` contains them. At most 256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub deny: Vec<Network>,
}

/// Limits of the number and rate of connections of a listener. A source is an IPv4 address or an IPv6 /64 of clients.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// The maximum number of open connections. 1 to 10000000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_connections: Option<u32>,
    /// The maximum number of open connections from one source. 1 to 10000000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_connections_per_source: Option<u32>,
    /// The maximum rate of new connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_connections: Option<Rate>,
    /// The maximum rate of new connections from one source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_connections_per_source: Option<Rate>,
}

/// A rate with a burst size.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Rate {
    /// The number of connections per period. 1 to 10000000.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub count: u32,
    /// The period. 1s to 1h.
    #[x_kube(validation = rules::within("1s", "1h"))]
    pub per: Duration,
    /// The number of new connections that may arrive at once. 1 to 10000000. Default: count.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub burst: Option<u32>,
}

/// The connections of a listener in the access log. All connections are counted in the metrics.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AccessLogSettings {
    /// `All`: all connections. `Failures`: connections that failed or were refused, and those that tried an endpoint
    /// without success. `Off`: none; write it in quotes, because YAML reads it as false otherwise. Default: All.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<AccessLogMode>,
    /// Log one in this number of the connections that did not fail; failures are always logged. For mode All. 1 to
    /// 1000000. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub sample: Option<u32>,
}

#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum AccessLogMode {
    #[default]
    All,
    Failures,
    Off,
}
