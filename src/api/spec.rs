//! The specification of a load balancer, and its parts.

mod backend;
mod balancing;
mod check;
mod connection;
mod drain;
mod health;
mod listener;
mod rebalance;
mod service;
mod tls;

pub use backend::*;
pub use balancing::*;
pub use check::*;
pub use connection::*;
pub use drain::*;
pub use health::*;
use kube::{CustomResource, KubeSchema};
pub use listener::*;
pub use rebalance::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
pub use service::*;
pub use tls::*;

use super::{EndpointRef, Name, rules, status::TcpLoadBalancerStatus};

/// The class of objects that set none. The published schema has it as the default.
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
    // JSON, because clippy reports the same type in several columns as a duplicated attribute.
    printcolumn = r#"{"name": "Ports", "type": "string", "jsonPath": ".status.summary.ports",
        "description": "The ports that clients connect to"}"#,
    printcolumn = r#"{"name": "Address", "type": "string", "jsonPath": ".status.summary.address",
        "description": "The first address that clients connect to"}"#,
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.summary.ready",
        "description": "Healthy endpoints / all endpoints"}"#,
    printcolumn = r#"{"name": "Status", "type": "string", "jsonPath": ".status.summary.status",
        "description": "Programmed, or the reason of the first problem"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name": "Placement", "type": "string", "jsonPath": ".spec.placement", "priority": 1,
        "description": "The place where its ports are opened"}"#,
    printcolumn = r#"{"name": "Class", "type": "string", "jsonPath": ".spec.className", "priority": 1,
        "description": "The controller that serves it"}"#,
    printcolumn = r#"{"name": "Message", "type": "string", "priority": 1,
        "jsonPath": ".status.conditions[?(@.type==\"Ready\")].message",
        "description": "The message of the Ready condition"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.service) || self.placement == 'Gateway'")
        .message("service requires placement Gateway: remove `service`, or write `placement: Gateway`")
        .field_path(".service"),
    validation = Rule::new(
        "self.listeners.all(l, !has(l.nodePort)) || (has(self.service) && self.service.type != 'ClusterIP')",
    )
        .message("nodePort requires a Service of type NodePort or LoadBalancer: write `service: {type: NodePort}`, \
                  or remove `nodePort`")
        .field_path(".listeners"),
    validation = Rule::new(
        "[self.backends.map(b, has(b.name) ? b.name : has(b.service) ? b.service.name : 'default')].all(names, \
         self.listeners.all(l, !has(l.routes) || l.routes.all(r, !has(r.backends) || r.backends.all(b, b in names))))",
    )
        .message("routes[].backends names an unknown backend: write the name of one of spec.backends")
        .field_path(".listeners"),
    validation = Rule::new(
        "!has(self.healthCheck) || !has(self.healthCheck.active) || !has(self.healthCheck.active.transport) || \
         self.healthCheck.active.transport != 'TLS' || \
         self.backends.all(b, has(b.tls) || (has(b.healthCheck) && has(b.healthCheck.active)))",
    )
        .message("transport TLS requires `tls` in every backend without a check of its own: set `tls` there, or \
                  remove `transport`")
        .field_path(".healthCheck.active.transport"),
    validation = Rule::new(
        "!has(self.loadBalancing) || !has(self.loadBalancing.failover) || \
         self.backends.exists(b, b.priority != self.backends[0].priority)",
    )
        .message("failover has no effect, since all backends have the same priority: write a higher `priority` for \
                  the standby backends, or remove `failover`")
        .field_path(".loadBalancing"),
    validation = rules::unless_addresses_are_nodes(
        "access and limits per source depend",
        "self.listeners.all(l, has(l.proxyProtocol) || \
         !((has(l.access) && has(l.access.allow) && size(l.access.allow) > 0) || \
         (has(l.access) && has(l.access.deny) && size(l.access.deny) > 0) || \
         (has(l.limits) && has(l.limits.maxConnectionsPerSource)) || \
         (has(l.limits) && has(l.limits.newConnectionsPerSource))))",
    ),
    validation = Rule::new("!has(self.rebalance) || !has(self.loadBalancing) || self.loadBalancing.algorithm != \
                            'Maglev'")
        .message("rebalance has no effect with algorithm Maglev, where clients return to the same endpoint: remove \
                  `rebalance`, or write another algorithm")
        .field_path(".rebalance"),
    validation = rules::unless_addresses_are_nodes(
        "Maglev depends",
        "!has(self.loadBalancing) || self.loadBalancing.algorithm != 'Maglev' || \
         self.listeners.all(l, has(l.proxyProtocol))",
    )
)]
pub struct TcpLoadBalancerSpec {
    /// The class of the controller that serves this object (cluster only). Immutable. Default: tcplb.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "tcplb"))]
    #[x_kube(validation = rules::unchangeable("className"))]
    pub class_name: Option<Name>,
    /// The place where the ports are opened (cluster only). `Gateway`: in the controller's pods, behind a Service that
    /// the controller manages for this load balancer. `Host`: on the ports of the nodes. `Sidecar`: in an application's
    /// pod, by `tcplb sidecar`. Immutable. Default: Gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "Gateway"))]
    #[x_kube(validation = rules::unchangeable("placement"))]
    pub placement: Option<Placement>,
    /// The Service that the controller manages for this load balancer (placement Gateway only). The administrator
    /// limits the permitted values. Absent: a Service of type ClusterIP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceTemplate>,
    /// The ports that clients connect to. Each port may be listed once. 1 to 16.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["port".into()]),
        validation = rules::named_where_several("listeners"),
        validation = rules::unique("name", "two listeners have the same name: write another for one of them"),
        validation = rules::unique("nodePort", "two listeners have the same nodePort: write another for one of them")
    )]
    pub listeners: Vec<Listener>,
    /// The backends that receive connections. 1 to 64.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(
        merge_strategy = ListMerge::Atomic,
        validation = rules::named_where_several("backends"),
        validation = rules::unique("name", "two backends have the same name: write another for one of them")
    )]
    pub backends: Vec<Backend>,
    /// The selection of an endpoint for each new connection. Absent: RoundRobin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancing: Option<LoadBalancing>,
    /// The detection of unhealthy endpoints, by probes (active) and by failed connections of clients (passive). Absent:
    /// the defaults of `active` and `passive`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Timeouts, retries and preconnected sockets of connections to endpoints. Absent: the defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<Connect>,
    /// Timeouts of the handshakes, of idle connections and of whole connections. Absent: the defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// TCP keepalive probes to clients and backends. They detect dead peers without an idle timeout. TCP_USER_TIMEOUT
    /// is set to the time until the probes give up (idle + interval × probes, 2m by default). A live peer that does not
    /// read pending data for that long is disconnected too: raise the values for peers that pause for longer. Absent:
    /// the defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// The draining of open connections when an endpoint, a listener or the proxy goes away. Absent: connections are
    /// kept, except at shutdown, where `shutdown` has its defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// Redistribution of long-lived connections when endpoints have more than their share. Absent: connections are not
    /// moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebalance: Option<Rebalance>,
    /// Endpoints that get no new connections, for maintenance: names of pods (`db-0`), addresses with a port
    /// (`192.0.2.7:5432`), or addresses with any port (`192.0.2.7`). Their open connections are closed as
    /// `drain.endpointDrained` says. `kubectl tcplb drain` and `undrain` write this list. At most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub drained_endpoints: Vec<EndpointRef>,
}

/// Equality is reflexive: no field is a floating-point number.
impl Eq for TcpLoadBalancerSpec {}

impl TcpLoadBalancerSpec {
    pub fn class(&self) -> &str {
        self.class_name.as_ref().map_or(DEFAULT_CLASS, |name| &name.0)
    }

    /// The referenced objects with certificates and passwords.
    pub fn references(&self) -> impl Iterator<Item = Reference<'_>> {
        let of_listeners = self.listeners.iter().flat_map(Listener::references);
        let of_backends = self.backends.iter().flat_map(Backend::references);
        let of_checks = self.health_check.iter().flat_map(HealthCheck::references);
        of_listeners.chain(of_backends).chain(of_checks)
    }

    /// The files that the spec names.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let of_listeners = self.listeners.iter().filter_map(|listener| listener.tls.as_ref());
        let of_backends = self.backends.iter().flat_map(Backend::files);
        let of_checks = self.health_check.iter().flat_map(HealthCheck::files);
        of_listeners.flat_map(ListenerTls::files).chain(of_backends).chain(of_checks)
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
    /// True if the controller for `self` also validates load balancers of placement `other`. The gateway validates
    /// those of sidecars, because sidecars write no status.
    pub fn judges(self, other: Self) -> bool {
        self == other || (self, other) == (Self::Gateway, Self::Sidecar)
    }
}
