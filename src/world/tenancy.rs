use std::{collections::BTreeSet, net::IpAddr, ops::RangeInclusive, sync::Arc};

use crate::{
    api::ServiceType,
    model::{Networks, ObjectKey},
};

/// The rules of the administrator: what load balancers may do, and which addresses none may reach.
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
    /// True if `nodePort` may be set.
    pub node_ports: bool,
    /// The networks of backends that are no pods of the load balancer's own namespace: `addresses`, and EndpointSlices
    /// that users wrote.
    pub backend_networks: Networks,
    /// The networks that no backend may use; loopback, link-local, multicast and unspecified addresses are always denied.
    pub denied_networks: Networks,
    /// The number of load balancers that each namespace may have.
    pub load_balancers_per_namespace: Option<u32>,
    /// The number of listeners that the load balancers of each namespace may have together.
    pub listeners_per_namespace: Option<u32>,
    /// The number of Secrets that are read for each namespace: each needs a connection to the API server.
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
