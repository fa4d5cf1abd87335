//! The condition ClientAddressPreserved: the proxies see the addresses of clients.

use super::{finding::Finding, input::StatusInput, reason::ConditionReason};
use crate::api::{ExternalTrafficPolicy, Placement, ServiceTemplate, ServiceType};

pub fn preserved(input: &StatusInput) -> Finding {
    let listeners = input.listeners();
    if !listeners.is_empty() && listeners.iter().all(|(_, listener)| listener.proxy_protocol.is_some()) {
        return Finding::yes(ConditionReason::ProxyProtocol, "client addresses are read from PROXY protocol headers");
    }
    if input.placement() == Placement::Host {
        return Finding::yes(
            ConditionReason::DirectConnections,
            "clients connect to the ports of nodes: the proxies see their addresses",
        );
    }
    match exposure(input) {
        Exposure::ClusterIp => Finding::yes(
            ConditionReason::DirectConnections,
            "clients connect from within the cluster: the proxies see their addresses if the cluster network preserves \
             them",
        ),
        Exposure::Local => Finding::yes(
            ConditionReason::LocalTrafficPolicy,
            "externalTrafficPolicy is Local: nodes preserve client addresses; a cloud load balancer in front may \
             replace them unless it sends PROXY protocol headers",
        ),
        Exposure::Cluster => Finding::no(
            ConditionReason::ClusterTrafficPolicy,
            "externalTrafficPolicy is Cluster: the proxies see the addresses of nodes instead of those of clients \
             outside the cluster; set service.externalTrafficPolicy to Local, or proxyProtocol, to preserve client \
             addresses",
        ),
    }
}

/// The path from clients to the proxies.
enum Exposure {
    ClusterIp,
    Local,
    Cluster,
}

/// The exposure of the present Service; without a Service, the declared one.
fn exposure(input: &StatusInput) -> Exposure {
    let spec = input.service.and_then(|managed| managed.service.spec.as_ref());
    match spec.and_then(|spec| Some((spec.type_.as_deref()?, spec.external_traffic_policy.as_deref()))) {
        Some(("NodePort" | "LoadBalancer", Some("Local"))) => Exposure::Local,
        Some(("NodePort" | "LoadBalancer", _)) => Exposure::Cluster,
        Some(_) => Exposure::ClusterIp,
        None => declared(&input.spec.and_then(|spec| spec.service.clone()).unwrap_or_default()),
    }
}

fn declared(template: &ServiceTemplate) -> Exposure {
    match (template.type_, template.external_traffic_policy) {
        (ServiceType::ClusterIp, _) => Exposure::ClusterIp,
        (_, Some(ExternalTrafficPolicy::Local)) | (ServiceType::LoadBalancer, None) => Exposure::Local,
        (_, Some(ExternalTrafficPolicy::Cluster)) | (ServiceType::NodePort, None) => Exposure::Cluster,
    }
}
