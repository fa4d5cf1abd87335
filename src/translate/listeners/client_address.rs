//! Refusal of settings that need client addresses where the proxies only see node addresses.

use crate::{
    api::{Algorithm, Listener, ServiceType, TcpLoadBalancerSpec},
    translate::{field_errors::FieldPath, verdict::Part},
    world::{ProcessMode, World},
};

const CLIENT_ADDRESS_HINT: &str = "a Service of type NodePort hides client addresses, so all clients of a node would \
                                   count as one: set service.externalTrafficPolicy to Local to preserve them (only \
                                   nodes with a proxy then accept connections), or to Cluster to use the addresses of \
                                   nodes, or set proxyProtocol";

/// Refuses listener settings that depend on the client address where node addresses replace it, unless the Service
/// states a traffic policy.
pub(super) fn check(declared: &Listener, spec: &TcpLoadBalancerSpec, world: &World, path: &mut FieldPath) {
    if !is_lost(spec, world) || declared.proxy_protocol.is_some() {
        return;
    }
    if declared.access.as_ref().is_some_and(|access| !access.allow.is_empty() || !access.deny.is_empty()) {
        path.at("access").with_part(Part::ClientRule).refuse(CLIENT_ADDRESS_HINT);
    }
    let (limits, mut path) = (declared.limits.as_ref(), path.at("limits"));
    if limits.is_some_and(|limits| limits.max_connections_per_source.is_some()) {
        path.at("maxConnectionsPerSource").with_part(Part::ClientRule).refuse(CLIENT_ADDRESS_HINT);
    }
    if limits.is_some_and(|limits| limits.new_connections_per_source.is_some()) {
        path.at("newConnectionsPerSource").with_part(Part::ClientRule).refuse(CLIENT_ADDRESS_HINT);
    }
}

/// Refuses load balancing by client address in the same case.
pub fn check_balancing(spec: &TcpLoadBalancerSpec, world: &World, path: &mut FieldPath) {
    let sticky = spec.load_balancing.as_ref().is_some_and(|balancing| balancing.algorithm == Algorithm::Maglev);
    if sticky && is_lost(spec, world) && spec.listeners.iter().any(|listener| listener.proxy_protocol.is_none()) {
        path.at("algorithm").refuse(CLIENT_ADDRESS_HINT);
    }
}

/// True if node addresses replace client addresses by default, without a declared traffic policy.
fn is_lost(spec: &TcpLoadBalancerSpec, world: &World) -> bool {
    let through_nodes = |service: &crate::api::ServiceTemplate| {
        service.type_ == ServiceType::NodePort && service.external_traffic_policy.is_none()
    };
    matches!(world.mode, ProcessMode::Gateway(..)) && spec.service.as_ref().is_some_and(through_nodes)
}
