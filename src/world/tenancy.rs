use std::{collections::BTreeSet, net::IpAddr, ops::RangeInclusive, sync::Arc};

use crate::{
    api::ServiceType,
    model::{Networks, ObjectKey},
};

/// The administrator's rules: the permissions of load balancers, and the denied addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenancy {
    /// The permitted values of `spec.service.type`.
    pub service_types: BTreeSet<ServiceType>,
    /// The permitted keys of `spec.service.annotations`. A key that ends in `*` is a prefix.
    pub annotations: Vec<String>,
    /// The permitted keys of `spec.service.labels`, with the same notation.
    pub labels: Vec<String>,
    /// The permitted values of `spec.service.loadBalancerClass`, with the same notation.
    pub load_balancer_classes: Vec<String>,
    /// True if `nodePort` is permitted.
    pub node_ports: bool,
    /// The networks of backends that are not pods of the load balancer's namespace: `addresses`, and EndpointSlices
    /// that users write.
    pub backend_networks: Networks,
    /// The networks that no backend may use. Loopback, link-local, multicast and unspecified addresses are always
    /// denied.
    pub denied_networks: Networks,
    /// The maximum number of load balancers of each namespace.
    pub load_balancers_per_namespace: Option<u32>,
    /// The maximum number of listeners of all load balancers of each namespace.
    pub listeners_per_namespace: Option<u32>,
    /// The maximum number of Secrets that are read for each namespace. Each needs a connection to the API server.
    pub secrets_per_namespace: Option<u32>,
    /// The ports that placement Host may open.
    pub host_ports: Vec<RangeInclusive<u16>>,
    /// The namespaces that may use placement Host. `None`: all.
    pub host_namespaces: Option<BTreeSet<String>>,
    /// The Service whose EndpointSlices list the proxies' own pods, which no backend may use.
    pub replicas: Option<ObjectKey>,
    /// The proxies' own addresses that are known from other sources, and the addresses of the API server.
    pub own_addresses: BTreeSet<IpAddr>,
    /// The port of the admin pages.
    pub admin_port: Option<u16>,
    /// The namespace of the controller.
    pub namespace: Arc<str>,
}
