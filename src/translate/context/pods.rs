//! Pods listed in EndpointSlices, and the trust in their slices.

use std::{collections::HashMap, net::IpAddr, rc::Rc};

use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{Endpoint, EndpointSlice},
};

use crate::{
    model::ObjectKey,
    world::{World, service_of},
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

/// Pods listed in EndpointSlices, by address.
pub(super) struct Pods(HashMap<IpAddr, Vec<PodEntry>>);

pub(super) struct PodEntry {
    pub uid: Box<str>,
    pub target: AddressOwner,
    pub ports: Rc<[u16]>,
}

impl Pods {
    pub fn of(world: &World) -> Self {
        let mut pods: HashMap<IpAddr, Vec<PodEntry>> = HashMap::new();
        for (key, slice) in &world.endpoint_slices {
            let service = service_of(slice).map(|name| ObjectKey::new(&key.namespace, name));
            let service = service.and_then(|service| world.services.get(&service));
            let ports: Rc<[u16]> = slice.ports.iter().flatten().filter_map(|port| port.port?.try_into().ok()).collect();
            for endpoint in &slice.endpoints {
                let Some(uid) = endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref()) else { continue };
                let target = service.map_or(AddressOwner::Unknown, |service| target(slice, endpoint, service));
                for ip in endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok()) {
                    pods.entry(ip.to_canonical()).or_default().push(PodEntry {
                        uid: uid.into(),
                        target,
                        ports: ports.clone(),
                    });
                }
            }
        }
        Self(pods)
    }

    pub fn at(&self, ip: IpAddr) -> &[PodEntry] {
        self.0.get(&ip).map_or(&[], Vec::as_slice)
    }
}
