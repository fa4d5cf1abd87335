//! The ports clients connect to, and what is asked of clients there.

use std::net::IpAddr;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tls::{ListenerTls, Reference, RouteTls};
use crate::api::{
    Duration, Name, Network, ServerName, rules,
    scalar::{IpAddress, ip_address},
};

/// A port clients connect to.
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
    // A route that says nothing of TLS does as the listener does.
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
    /// A name for logs, metrics and status. Required when there are several listeners. Default: the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// The port clients connect to.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// The nodes' port of the Service (service type NodePort or LoadBalancer), where the administrator allows naming
    /// one. Default: Kubernetes chooses.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub node_port: Option<u16>,
    /// The IP address to bind (standalone only). Default: all addresses, IPv4 and IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "ip_address")]
    #[schemars(with = "Option<IpAddress>")]
    pub address: Option<IpAddr>,
    /// TLS on the clients' side. Absent: plain TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// Which backends connections go to, by the TLS server name that the client asks for (SNI). A client that none of
    /// them is for is refused. Absent: all backends, whatever the name. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(
        merge_strategy = ListMerge::Atomic,
        validation = rules::one_default_route(),
        validation = rules::distinct_server_names()
    )]
    pub routes: Vec<Route>,
    /// The PROXY protocol header that a load balancer in front of this one sends. Absent: none is expected, and one
    /// that comes is passed on like any other bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Which clients may connect. Absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// How many connections, and how fast. Absent: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
}

impl Listener {
    /// The objects that it refers to.
    pub fn references(&self) -> impl Iterator<Item = Reference<'_>> {
        self.tls.iter().flat_map(ListenerTls::references)
    }
}

/// Where connections go that ask for certain TLS server names.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// The names it is for: `db.example.com`, or `*.example.com` for all names below it, at any depth. An exact name
    /// comes before a wildcard, and a longer wildcard before a shorter one. Empty: for clients that no other route is
    /// for, also those that ask for no name. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub server_names: Vec<ServerName>,
    /// The names of the backends it leads to. Empty: all. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub backends: Vec<Name>,
    /// What is done with TLS, other than the listener says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<RouteTls>,
}

/// The PROXY protocol header (version 1 or 2) that tells the client's address.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.trustedNetworks) && size(self.trustedNetworks) > 0")
    .message("anyone could forge a PROXY header: write the addresses of the load balancers in front, for example \
              `trustedNetworks: [10.0.0.0/8]`, or leave proxyProtocol out")
    .field_path(".trustedNetworks"))]
pub struct ProxyProtocol {
    /// `Required`: only peers in trustedNetworks may connect, and they must send a header. `Optional`: peers in
    /// trustedNetworks must send a header; all others are clients themselves and are never waited for.
    pub mode: ProxyProtocolMode,
    /// Who may send the header, since anyone could forge one: the addresses of the load balancers in front. Required, 1
    /// to 64.
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

/// Which clients may connect, by address: that of the PROXY header where one is expected.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// Networks or single addresses that may connect. Empty: all. At most 256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub allow: Vec<Network>,
    /// Networks or single addresses that may not, even if `allow` has them. At most 256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub deny: Vec<Network>,
}

/// How many connections a listener takes, and how fast. A source is a client's IPv4 address or IPv6 /64.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Connections open at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_connections: Option<u32>,
    /// Connections open at a time from one source.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_connections_per_source: Option<u32>,
    /// The rate of new connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_connections: Option<Rate>,
    /// The rate of new connections from one source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_connections_per_source: Option<Rate>,
}

/// A rate, with the number that may come at once.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Rate {
    /// How many in each period.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub count: u32,
    /// The period, from 1s to 1h.
    #[x_kube(validation = rules::within("1s", "1h"))]
    pub per: Duration,
    /// How many may come at once. Default: count.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub burst: Option<u32>,
}
