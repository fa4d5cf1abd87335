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

use super::{Name, rules, status::TcpLoadBalancerStatus};

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
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name": "Placement", "type": "string", "jsonPath": ".spec.placement", "priority": 1,
        "description": "Where its ports are opened"}"#,
    printcolumn = r#"{"name": "Class", "type": "string", "jsonPath": ".spec.className", "priority": 1,
        "description": "The controller that serves it"}"#,
    printcolumn = r#"{"name": "Message", "type": "string", "priority": 1,
        "jsonPath": ".status.conditions[?(@.type==\"Ready\")].message",
        "description": "The message of the condition Ready"}"#
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
    /// What happens to open connections when what they go through goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// Spreads connections that last anew when endpoints have more than their share. Absent: connections stay where they
    /// are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebalance: Option<Rebalance>,
}

impl TcpLoadBalancerSpec {
    pub fn class(&self) -> &str {
        self.class_name.as_ref().map_or(DEFAULT_CLASS, |name| &name.0)
    }

    /// The objects with certificates and passwords that it refers to.
    pub fn references(&self) -> impl Iterator<Item = Reference<'_>> {
        let of_listeners = self.listeners.iter().flat_map(Listener::references);
        let of_backends = self.backends.iter().flat_map(Backend::references);
        let of_checks = self.health_check.iter().flat_map(HealthCheck::references);
        of_listeners.chain(of_backends).chain(of_checks)
    }

    /// The files that it names.
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
    /// Whether those who serve the load balancers here have to say whether these are right: the gateway says it of the
    /// sidecars' too, for these write no status.
    pub fn judges(self, other: Self) -> bool {
        self == other || (self, other) == (Self::Gateway, Self::Sidecar)
    }
}
