use std::{collections::BTreeSet, net::IpAddr, ops::RangeInclusive, sync::Arc};

use crate::{
    api::ServiceType,
    model::{Networks, ObjectKey},
};

/// What the administrator lets load balancers do, and what none may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenancy {
    /// The types that `spec.service.type` may have.
    pub service_types: BTreeSet<ServiceType>,
    /// Keys of annotations that `spec.service.annotations` may have; one that ends in `*` stands for all that begin so.
    pub annotations: Vec<String>,
    /// Keys of labels that `spec.service.labels` may have, in the same way.
    pub labels: Vec<String>,
    /// Classes that `spec.service.loadBalancerClass` may name, in the same way.
    pub load_balancer_classes: Vec<String>,
    /// Whether `nodePort` may be named.
    pub node_ports: bool,
    /// Where backends may be that are no pods of the load balancer's own namespace: `addresses`, and EndpointSlices
    /// that somebody wrote.
    pub backend_networks: Networks,
    /// Where no backend may be, whatever it is; loopback, link-local, multicast and unspecified addresses are always so.
    pub denied_networks: Networks,
    /// How many load balancers each namespace may have.
    pub load_balancers_per_namespace: Option<u32>,
    /// How many listeners the load balancers of each namespace may have together.
    pub listeners_per_namespace: Option<u32>,
    /// How many Secrets the load balancers of each namespace may have read: each costs a connection to the API server.
    pub secrets_per_namespace: Option<u32>,
    /// The ports that placement Host may open.
    pub host_ports: Vec<RangeInclusive<u16>>,
    /// The namespaces that may use placement Host. `None`: all.
    pub host_namespaces: Option<BTreeSet<String>>,
    /// The Service whose EndpointSlices list the proxies' own pods, which no backend may be.
    pub replicas: Option<ObjectKey>,
    /// The proxies' own addresses as far as they are known otherwise, and those of the API server.
    pub own_addresses: BTreeSet<IpAddr>,
    /// The port of the admin pages.
    pub admin_port: Option<u16>,
    /// The namespace that the controller runs in.
    pub namespace: Arc<str>,
}
