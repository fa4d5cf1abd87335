use std::{collections::BTreeMap, net::IpAddr};

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    AddressPort, Duration, Name, Network, ObjectName, PortRef, TcpLoadBalancerStatus,
    rules::{self, Order},
    scalar::{IpAddress, QualifiedName, ip_address},
};

/// The class of objects that name none: the published schema fills it in.
pub const DEFAULT_CLASS: &str = "tcplb";

/// A TCP load balancer: listeners that clients connect to, and backends that serve them.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "tcplb.io",
    version = "v1alpha1",
    kind = "TcpLoadBalancer",
    namespaced,
    status = "TcpLoadBalancerStatus",
    shortname = "tcplb",
    category = "all",
    derive = "PartialEq",
    doc = "Spreads TCP connections over healthy backends.",
    validation = Rule::new("size(self.metadata.name) <= 52")
        .message("metadata.name has more than 52 characters: write at most 52"),
    // As JSON: the same type in several columns is a duplicated attribute for clippy.
    printcolumn = r#"{"name": "Ports", "type": "string", "jsonPath": ".status.summary.ports",
        "description": "The ports clients connect to"}"#,
    printcolumn = r#"{"name": "Address", "type": "string", "jsonPath": ".status.summary.address",
        "description": "The first of the addresses clients connect to"}"#,
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.summary.ready",
        "description": "Healthy endpoints of all endpoints"}"#,
    printcolumn = r#"{"name": "Status", "type": "string", "jsonPath": ".status.summary.status",
        "description": "Programmed, or the first thing that is wrong"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.service) || self.placement == 'Gateway'")
        .message("only placement Gateway keeps a Service: leave `service` out, or write `placement: Gateway`")
        .field_path(".service"),
    validation = Rule::new(
        "self.listeners.all(l, !has(l.nodePort)) || (has(self.service) && self.service.type != 'ClusterIP')",
    )
        .message("a nodePort needs a Service that has one: write `service: {type: NodePort}` or `LoadBalancer`, or \
                  leave `nodePort` out")
        .field_path(".listeners"),
    validation = rules::unless_addresses_are_nodes(
        "access and limits per source go",
        "self.listeners.all(l, has(l.proxyProtocol) || \
         !((has(l.access) && has(l.access.allow) && size(l.access.allow) > 0) || \
         (has(l.access) && has(l.access.deny) && size(l.access.deny) > 0) || \
         (has(l.limits) && has(l.limits.maxConnectionsPerSource)) || \
         (has(l.limits) && has(l.limits.newConnectionsPerSource))))",
    ),
    validation = rules::unless_addresses_are_nodes(
        "Maglev goes",
        "!has(self.loadBalancing) || self.loadBalancing.algorithm != 'Maglev' || \
         self.listeners.all(l, has(l.proxyProtocol))",
    )
)]
pub struct TcpLoadBalancerSpec {
    /// Which controller serves this object (in a cluster). It cannot be changed. Default: tcplb.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "tcplb"))]
    #[x_kube(validation = rules::unchangeable("className"))]
    pub class_name: Option<Name>,
    /// Where the ports are opened (in a cluster). `Gateway`: in the controller's pods, behind a Service that is kept
    /// for this load balancer. `Host`: on the nodes' own ports. `Sidecar`: in an application's pod, by `tcplb sidecar`.
    /// It cannot be changed. Default: Gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "Gateway"))]
    #[x_kube(validation = rules::unchangeable("placement"))]
    pub placement: Option<Placement>,
    /// The Service that is kept for this load balancer (placement Gateway). What may be asked for is up to the
    /// administrator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceTemplate>,
    /// The ports clients connect to, each port once. At most 16.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["port".into()]),
        validation = rules::named_where_several("listeners"),
        validation = rules::unique("name", "two listeners have the same name: write another for one of them"),
        validation = rules::unique("nodePort", "two listeners have the same nodePort: write another for one of them")
    )]
    pub listeners: Vec<Listener>,
    /// Where connections go. At most 64.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(
        merge_strategy = ListMerge::Atomic,
        validation = rules::named_where_several("backends"),
        validation = rules::unique("name", "two backends have the same name: write another for one of them")
    )]
    pub backends: Vec<Backend>,
    /// How an endpoint is chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancing: Option<LoadBalancing>,
    /// How unhealthy endpoints are found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// How endpoints are dialled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<Connect>,
    /// How long a connection may take, be silent and last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// Keepalive probes to clients and backends, which find dead peers without an idle timeout. TCP_USER_TIMEOUT is set
    /// to the time they take to give up (idle + interval × probes, by default 2m), so a live peer that takes nothing of
    /// what waits for it is given up after that long too: raise them for peers that stop reading for longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// What happens to open connections when the proxy goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
}

impl TcpLoadBalancerSpec {
    pub fn class(&self) -> &str {
        self.class_name.as_ref().map_or(DEFAULT_CLASS, |name| &name.0)
    }
}

/// Where the ports of a load balancer are opened.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
pub enum Placement {
    #[default]
    Gateway,
    Host,
    Sidecar,
}

impl Placement {
    /// Whether those who serve the load balancers here have to say whether these are right: the gateway says it of the
    /// sidecars' too, for these write no status.
    pub fn judges(self, other: Self) -> bool {
        self == other || (self, other) == (Self::Gateway, Self::Sidecar)
    }
}

/// The Service that is kept for a load balancer.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.externalTrafficPolicy) || self.type != 'ClusterIP'")
        .message("type ClusterIP has no traffic from outside: leave it out, or write `type: NodePort` or `LoadBalancer`")
        .field_path(".externalTrafficPolicy"),
    validation = Rule::new("!has(self.loadBalancerClass) || self.type == 'LoadBalancer'")
        .message("only type LoadBalancer has a class: leave it out, or write `type: LoadBalancer`")
        .field_path(".loadBalancerClass"),
    // As Kubernetes has it for Services, which it would otherwise be that refuses the change.
    validation = Rule::new(
        "self.type != 'LoadBalancer' || oldSelf.type != 'LoadBalancer' || \
         (has(self.loadBalancerClass) ? self.loadBalancerClass : '') == \
         (has(oldSelf.loadBalancerClass) ? oldSelf.loadBalancerClass : '')",
    )
        .message("loadBalancerClass cannot be changed, added or removed while the type is LoadBalancer: make a new \
                  object, or write what it was before")
        .field_path(".loadBalancerClass")
)]
pub struct ServiceTemplate {
    /// `ClusterIP`: for clients within the cluster. `NodePort`: also at a port of every node. `LoadBalancer`: also at
    /// an address that the cloud gives. Default: ClusterIP.
    #[serde(rename = "type", default)]
    pub type_: ServiceType,
    /// Further annotations of the Service, for example for the cloud's load balancer. At most 32, each of at most 4096
    /// characters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 4096}))]
    #[x_kube(
        validation = rules::qualified_keys("annotations"),
        validation = rules::foreign_keys("annotations")
    )]
    pub annotations: BTreeMap<String, String>,
    /// Further labels of the Service. At most 32.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 63}))]
    #[x_kube(
        validation = rules::qualified_keys("labels"),
        validation = rules::foreign_keys("labels"),
        validation = rules::label_values()
    )]
    pub labels: BTreeMap<String, String>,
    /// `Local`: only nodes with a proxy take connections, and clients keep their addresses. `Cluster`: all nodes do, and
    /// the proxy sees nodes' addresses in place of the clients'. Default: Local for LoadBalancer, Cluster for NodePort.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<ExternalTrafficPolicy>,
    /// Which implementation gives the address (type LoadBalancer only). It cannot be changed, added or removed while the
    /// type is LoadBalancer. Default: the cluster's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<QualifiedName>")]
    pub load_balancer_class: Option<String>,
    /// `SingleStack`, `PreferDualStack` or `RequireDualStack`. Default: SingleStack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_family_policy: Option<IpFamilyPolicy>,
}

#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServiceType {
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    NodePort,
    LoadBalancer,
}

impl ServiceType {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum ExternalTrafficPolicy {
    Cluster,
    Local,
}

#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum IpFamilyPolicy {
    SingleStack,
    PreferDualStack,
    RequireDualStack,
}

/// A port clients connect to.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.address)")
    .message("an address is for standalone, and a cluster has its own: leave it out")
    .field_path(".address"))]
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

/// TLS on the clients' side.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "self.mode != 'Terminate' || (has(self.certificateRefs) && size(self.certificateRefs) > 0)",
)
    .message("mode Terminate needs a certificate: write the name of a Secret of type kubernetes.io/tls, for example \
              `certificateRefs: [{name: my-tls}]`")
    .field_path(".certificateRefs"))]
pub struct ListenerTls {
    /// `Terminate`: TLS ends here, with a certificate from a Secret or from files. Default: Terminate.
    #[serde(default)]
    pub mode: TlsMode,
    /// The certificates to present, chosen by the client's server name; the first one when none matches. Required, 1 to
    /// 32, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(
        merge_strategy = ListMerge::Atomic,
        validation = rules::unique("name", "a Secret is named twice: leave one out")
    )]
    pub certificate_refs: Vec<CertificateRef>,
    /// The oldest TLS version accepted: `TLS1.2` or `TLS1.3`. Default: TLS1.2.
    #[serde(default)]
    pub min_version: TlsVersion,
    /// The application protocols offered (ALPN), preferred first, each of at most 63 characters. Default: none. At
    /// most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub alpn: Vec<String>,
}

#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum TlsMode {
    #[default]
    Terminate,
}

#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum TlsVersion {
    #[default]
    #[serde(rename = "TLS1.2")]
    V1_2,
    #[serde(rename = "TLS1.3")]
    V1_3,
}

/// A certificate chain and its key: exactly one of `name` and `files`.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.name) || has(self.files)")
        .message("a certificate has no name: write that of a Secret of type kubernetes.io/tls"),
    validation = Rule::new("!has(self.files)")
        .message("files are for standalone: write the `name` of a Secret of type kubernetes.io/tls")
        .field_path(".files")
)]
pub struct CertificateRef {
    /// A Secret of type kubernetes.io/tls (keys tls.crt and tls.key) in the same namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<ObjectName>,
    /// Two PEM files (standalone only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<CertificateFiles>,
}

/// PEM files. A relative path is relative to the manifest's folder.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CertificateFiles {
    /// The certificate, followed by its intermediates.
    #[schemars(length(min = 1, max = 4096))]
    pub certificate: String,
    /// The private key (PKCS#8, PKCS#1 or SEC1).
    #[schemars(length(min = 1, max = 4096))]
    pub key: String,
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

/// A group of endpoints: exactly one of `service` and `addresses`.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.service) || has(self.addresses)")
        .message("it has neither service nor addresses: write where its connections go"),
    validation = Rule::new("!has(self.service) || !has(self.addresses)")
        .message("it has both service and addresses: write one of them, or two backends")
)]
pub struct Backend {
    /// A name for logs, metrics and status. Required when there are several backends. Default: the Service's name, or
    /// `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// A Service of the same namespace, followed through its EndpointSlices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<BackendService>,
    /// host:port pairs; a host is an IP address or a DNS name, all of whose addresses are used. At most 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub addresses: Option<Vec<AddressPort>>,
    /// How often DNS names in `addresses` are looked up, from 1s to 24h. Default: 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::within("1s", "24h"))]
    pub resolve_interval: Option<Duration>,
    /// The share of new connections, relative to the other backends. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: u16,
    /// The PROXY protocol header sent to the backend: `V1` or `V2`. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocolVersion>,
}

fn one() -> u16 {
    1
}

impl Default for Backend {
    fn default() -> Self {
        Self { name: None, service: None, addresses: None, resolve_interval: None, weight: one(), proxy_protocol: None }
    }
}

/// A Service's port.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BackendService {
    /// The Service, in the same namespace.
    pub name: Name,
    /// The Service's port, by number or name.
    pub port: PortRef,
}

#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum ProxyProtocolVersion {
    V1,
    V2,
}

/// How an endpoint is chosen.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.hash) || self.algorithm == 'Maglev'")
        .message("it does nothing with another algorithm: write `algorithm: Maglev`, or leave `hash` out")
        .field_path(".hash")
)]
pub struct LoadBalancing {
    /// `RoundRobin`: in turn. `LeastConnections`: the one with the fewest open connections for its weight.
    /// `PowerOfTwo`: the better one of two taken at random. `Random`. `Maglev`: always the same one for the same
    /// client (sticky). Default: RoundRobin.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// What Maglev looks at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<Hash>,
}

#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum Algorithm {
    #[default]
    RoundRobin,
    LeastConnections,
    PowerOfTwo,
    Random,
    Maglev,
}

/// What Maglev looks at.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Hash {
    /// `SourceIP`: the client's address. Default: SourceIP.
    #[serde(rename = "type", default)]
    pub type_: HashType,
    /// How many leading bits of an IPv6 address count: 64 keeps a client that changes its address within its network
    /// on its endpoint. Default: 128.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 128))]
    pub prefix_v6: Option<u8>,
}

#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum HashType {
    #[default]
    #[serde(rename = "SourceIP")]
    SourceIp,
}

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

/// How endpoints are dialled.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Order { short: "timeout", long: "deadline", long_default: None }.not_shorter())]
pub struct Connect {
    /// For one attempt, at least 1ms. Default: 3s, or the deadline if that is shorter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::at_least("1ms"))]
    pub timeout: Option<Duration>,
    /// For all attempts of a client's connection together; at least the timeout. Default: 10s, or the timeout if that
    /// is longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::at_least("1ms"))]
    pub deadline: Option<Duration>,
    /// How many endpoints are tried before the client is refused. Default: 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub attempts: Option<u16>,
    /// Connections opened before a client needs them. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preconnect: Option<Preconnect>,
}

/// Connections opened before a client needs them, each used by one client only.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Preconnect {
    /// How many are kept ready for each endpoint.
    #[schemars(range(min = 1, max = 1000))]
    pub per_endpoint: u16,
    /// One that no client took for this long is closed and replaced; keep it below the backend's own timeout for
    /// silent clients. At least 100ms. Default: 5s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::at_least("100ms"))]
    pub idle_timeout: Option<Duration>,
}

/// How long a connection may take, be silent and last.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// For the PROXY header, and for the TLS handshake; at least 1ms. Default: 10s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::at_least("1ms"))]
    pub handshake: Option<Duration>,
    /// Without a byte in either direction; 0s: for ever. Default: 0s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Duration>,
    /// Without a byte in the remaining direction after one side has ended its own; 0s: for ever. Default: 5m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half_closed: Option<Duration>,
    /// For the whole connection; 0s: for ever. Default: 0s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_duration: Option<Duration>,
    /// maxDuration is shortened by a random share of up to this many percent. Default: 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub jitter_percent: Option<u8>,
}

/// Keepalive probes; TCP_USER_TIMEOUT is set to the time they take to give up.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TcpKeepalive {
    /// Silence before the first probe, in whole seconds, at most 32767s; 0s: no probes, and no TCP_USER_TIMEOUT.
    /// Default: 60s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = rules::at_most("32767s"),
        validation = rules::whole_seconds()
    )]
    pub idle: Option<Duration>,
    /// Time between probes, in whole seconds, 1s to 32767s. Default: 15s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = rules::within("1s", "32767s"),
        validation = rules::whole_seconds()
    )]
    pub interval: Option<Duration>,
    /// Unanswered probes after which the peer counts as dead. Default: 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub probes: Option<u8>,
}

/// What happens to open connections.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// When the process shuts down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<ShutdownDrain>,
}

/// When the process shuts down: it stops accepting, and connections may go on for a while.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Order { short: "spread", long: "after", long_default: Some("60s") }.not_longer())]
pub struct ShutdownDrain {
    /// Connections still open after this long are reset; the process's --max-drain caps it. Default: 60s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Duration>,
    /// Over this last part of `after` connections are closed bit by bit, idle ones first; at most `after`. Default:
    /// half of `after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<Duration>,
}
