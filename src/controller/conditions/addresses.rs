//! The addresses that clients connect to.

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::api::core::v1::Service;

use super::input::StatusInput;
use crate::{
    api::{Address, AddressType, Placement},
    world::managed_service,
};

/// The addresses of a load balancer, external ones first.
pub fn addresses(input: &StatusInput) -> Vec<Address> {
    // A Service that is being deleted is about to lose its addresses.
    let service = input.service.filter(|managed| !managed.is_leaving());
    match (input.placement(), service) {
        (Placement::Gateway, Some(managed)) => {
            let settings = input.settings;
            let (name, namespace) = (managed_service::name(input.object), &settings.namespace);
            let mut addresses = external(managed.service);
            addresses.extend(internal(managed.service));
            addresses.push(hostname(format!("{name}.{namespace}.svc.{}", settings.cluster_domain)));
            addresses
        }
        (Placement::Host, _) => {
            let nodes = input.all_replicas.values().map(|replica| replica.address.ip());
            nodes.collect::<BTreeSet<IpAddr>>().into_iter().map(ip).collect()
        }
        (Placement::Gateway | Placement::Sidecar, _) => Vec::new(),
    }
}

/// The addresses that a cloud assigned.
pub fn external(service: &Service) -> Vec<Address> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    let of_one = |ingress: &k8s_openapi::api::core::v1::LoadBalancerIngress| {
        let parsed = ingress.ip.as_ref().and_then(|text| text.parse().ok()).map(ip);
        parsed.or_else(|| ingress.hostname.clone().map(hostname))
    };
    ingress.iter().filter_map(of_one).collect()
}

fn internal(service: &Service) -> impl Iterator<Item = Address> {
    let spec = service.spec.as_ref();
    let all = spec.and_then(|spec| spec.cluster_ips.as_deref()).unwrap_or_default().iter();
    // `None` and an empty text are not addresses.
    all.filter_map(|text| text.parse().ok()).map(ip)
}

fn ip(address: IpAddr) -> Address {
    Address { type_: AddressType::IpAddress, value: address.to_string() }
}

fn hostname(value: String) -> Address {
    Address { type_: AddressType::Hostname, value }
}
