//! Pods listed in EndpointSlices, and the trust in their slices.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{Endpoint, EndpointSlice},
};

use crate::{
    model::ObjectKey,
    shared::changes,
    world::{Objects, World, service_of},
};

/// Label that names the controller of a slice.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The EndpointSlice controller of Kubernetes, which selects the pods of Services.
const ENDPOINTS_OF_SELECTORS: &str = "endpointslice-controller.k8s.io";

/// The known owner of an address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum AddressOwner {
    /// A pod of the load balancer's own namespace.
    Pod,
    /// An unknown owner.
    Unknown,
}

/// Classifies the target of an endpoint. Users can write any address into an EndpointSlice, so only slices of the
/// EndpointSlice controller, for a Service with a selector, prove that an endpoint is a pod. The controller deletes
/// forged slices; one that a finalizer retains has a deletion timestamp.
pub fn target(slice: &EndpointSlice, endpoint: &Endpoint, service: &Service) -> AddressOwner {
    let managed = is_managed(slice);
    let kept = slice.metadata.deletion_timestamp.is_none();
    let pod =
        endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod") && target.uid.is_some());
    let own = pod.is_some_and(|pod| pod.namespace == slice.metadata.namespace && pod.namespace.is_some());
    let ours = selects_pods(service) && managed && kept && belongs_to(slice, service) && own;
    if ours { AddressOwner::Pod } else { AddressOwner::Unknown }
}

/// True if the Service has a selector, so Kubernetes writes its EndpointSlices.
pub fn selects_pods(service: &Service) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| !selector.is_empty())
}

pub fn is_managed(slice: &EndpointSlice) -> bool {
    let labels = slice.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|by| by == ENDPOINTS_OF_SELECTORS)
}

pub fn belongs_to(slice: &EndpointSlice, service: &Service) -> bool {
    let owners = slice.metadata.owner_references.as_deref().unwrap_or_default();
    // Services from files have no uid.
    service.metadata.uid.as_ref().is_none_or(|uid| owners.iter().any(|owner| owner.uid == *uid))
}

/// EndpointSlices by the addresses that they list. Kept between translations, since listing all pods again would take
/// longer than most translations.
#[derive(Default)]
pub struct SlicesByAddress {
    known: Objects<EndpointSlice>,
    by_address: HashMap<IpAddr, Vec<ObjectKey>>,
}

/// A pod that is listed at an address.
pub struct ListedPod<'a> {
    pub uid: &'a str,
    pub target: AddressOwner,
    pub slice: &'a EndpointSlice,
}

impl ListedPod<'_> {
    pub fn has_port(&self, port: u16) -> bool {
        self.slice.ports.iter().flatten().any(|listed| listed.port == Some(port.into()))
    }
}

impl SlicesByAddress {
    /// Updates the index to these slices.
    pub fn follow(&mut self, slices: &Objects<EndpointSlice>) {
        for (key, before, now) in changes(&self.known, slices) {
            // Sets, since a slice may list an address twice.
            let [before, now] = [before, now]
                .map(|slice| -> BTreeSet<IpAddr> { slice.into_iter().flat_map(|slice| addresses(slice)).collect() });
            for ip in before.difference(&now) {
                let Some(listing) = self.by_address.get_mut(ip) else { continue };
                listing.retain(|other| other != key);
                if listing.is_empty() {
                    self.by_address.remove(ip);
                }
            }
            for ip in now.difference(&before) {
                // Almost all addresses are in one slice, and there may be tens of thousands of them.
                self.by_address.entry(*ip).or_insert_with(|| Vec::with_capacity(1)).push(key.clone());
            }
        }
        self.known = slices.clone();
    }

    /// The pods that are listed at an address.
    pub fn at<'a>(&'a self, ip: IpAddr, world: &'a World) -> impl Iterator<Item = ListedPod<'a>> {
        let listing = self.by_address.get(&ip).into_iter().flatten();
        let slices = listing.filter_map(|key| self.known.get_key_value(key));
        slices.flat_map(move |(key, slice)| {
            let service = service_of(slice).map(|name| ObjectKey::new(&key.namespace, name));
            let service = service.and_then(|service| world.services.get(&service));
            let there = slice.endpoints.iter().filter(move |endpoint| addresses_of(endpoint).any(|other| other == ip));
            there.filter_map(move |endpoint| {
                let uid = endpoint.target_ref.as_ref()?.uid.as_deref()?;
                let target = service.map_or(AddressOwner::Unknown, |service| target(slice, endpoint, service));
                Some(ListedPod { uid, target, slice })
            })
        })
    }
}

/// The addresses that a slice lists.
pub fn addresses(slice: &EndpointSlice) -> impl Iterator<Item = IpAddr> {
    slice.endpoints.iter().flat_map(addresses_of)
}

fn addresses_of(endpoint: &Endpoint) -> impl Iterator<Item = IpAddr> {
    endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok()).map(|ip| ip.to_canonical())
}
