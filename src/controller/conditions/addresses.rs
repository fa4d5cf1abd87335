//! Where clients connect.

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::api::core::v1::Service;

use super::situation::Situation;
use crate::{
    api::{Address, AddressType, Placement},
    world::kept,
};

/// Those from outside the cluster first.
pub fn addresses(situation: &Situation) -> Vec<Address> {
    // One that is being deleted is about to lose its addresses.
    let service = situation.service.filter(|kept| !kept.is_leaving());
    match (situation.placement(), service) {
        (Placement::Gateway, Some(kept)) => {
            let settings = situation.settings;
            let (name, namespace) = (kept::name(situation.object), &settings.namespace);
            let mut addresses = external(kept.service);
            addresses.extend(internal(kept.service));
            addresses.push(hostname(format!("{name}.{namespace}.svc.{}", settings.cluster_domain)));
            addresses
        }
        (Placement::Host, _) => {
            let nodes = situation.all_replicas.values().map(|replica| replica.address.ip());
            nodes.collect::<BTreeSet<IpAddr>>().into_iter().map(ip).collect()
        }
        (Placement::Gateway | Placement::Sidecar, _) => Vec::new(),
    }
}

/// Those that a cloud gave.
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
    // `None` and the empty text are no addresses.
    all.filter_map(|text| text.parse().ok()).map(ip)
}

fn ip(address: IpAddr) -> Address {
    Address { type_: AddressType::IpAddress, value: address.to_string() }
}

fn hostname(value: String) -> Address {
    Address { type_: AddressType::Hostname, value }
}
