//! The endpoints behind a Service's port, by the rules that kube-proxy has for EndpointSlices.

mod index;
mod port;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{Endpoint, EndpointSlice},
};
use port::TargetPort;

pub(super) use index::{Slice, Slices};

use super::{
    Reason,
    backends::Member,
    findings,
    load_balancer::Declaration,
    locality::{self, Distances},
    missing,
    reach::{Reach, Refused, Target},
};
use crate::{
    api::{BackendService, Prefer},
    model::{Distance, ObjectKey, StableId, Unready},
    source::Place,
};

const IPV4: &str = "IPv4";
const IPV6: &str = "IPv6";
/// Says which controller writes a slice.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The one that looks for the pods that Services select.
const ENDPOINTS_OF_SELECTORS: &str = "endpointslice-controller.k8s.io";

/// All endpoints that are listed behind a Service's port. Those serve that are ready, or, where none is, those that still
/// serve while they terminate.
pub(super) fn members(
    declared: &BackendService,
    declaration: &Declaration,
    place: &mut findings::Place,
) -> Vec<Member> {
    let Declaration { object, surroundings, .. } = declaration;
    let world = surroundings.world;
    let key = ObjectKey { namespace: object.namespace.clone(), name: declared.name.0.as_str().into() };
    let Some(service) = world.services.get(&key) else {
        place.at("name").refuse_for(Reason::RefNotFound, missing("Service", &key, world));
        return Vec::new();
    };
    if service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
        let message = format!(
            "Service {key} is an ExternalName, which has no endpoints: write the name it stands for in `addresses`"
        );
        place.at("name").refuse(message);
        return Vec::new();
    }
    let Some(port) = TargetPort::of(&declared.port, &key, service, &mut place.at("port")) else {
        return Vec::new();
    };
    let slices = surroundings.slices.of_service(&key);
    for (key, slice) in slices.iter().filter(|(_, slice)| slice.address_type != IPV4 && slice.address_type != IPV6) {
        let message = format!(
            "EndpointSlice {key} has addresses of type {}, which are not followed: write IPv4 or IPv6 addresses there, or \
             DNS names in `addresses`; it is left out",
            slice.address_type
        );
        place.leave_out(Reason::Invalid, message);
    }
    let family = family(service, slices);
    let near = locality::preference(declaration.spec).map(|prefer| (prefer, surroundings.here()));
    let serving = Serving { port, service, reach: &surroundings.reach, near };
    serving.members(slices.iter().filter(|(_, slice)| slice.address_type == family), place)
}

/// The Service's first family. Where it names none, IPv4 if there is any: a pod that has an address of each family
/// would count twice if both were used.
fn family<'a>(service: &'a Service, slices: &[(&ObjectKey, &EndpointSlice)]) -> &'a str {
    let declared = service.spec.as_ref().and_then(|spec| spec.ip_families.as_ref()?.first());
    match declared {
        Some(family) => family,
        None if slices.iter().any(|(_, slice)| slice.address_type == IPV4) => IPV4,
        None => IPV6,
    }
}

/// Which endpoints of a Service's slices serve.
struct Serving<'a> {
    port: TargetPort,
    service: &'a Service,
    reach: &'a Reach<'a>,
    /// What is preferred, seen from where.
    near: Option<(Prefer, &'a Place)>,
}

impl Serving<'_> {
    fn members<'a>(&self, slices: impl Iterator<Item = &'a Slice<'a>>, place: &mut findings::Place) -> Vec<Member> {
        let mut found = BTreeMap::new();
        for (key, slice) in slices {
            let mut refused = Refused::default();
            for (address, endpoint) in self.port.addresses(key, slice, place) {
                if refused.admit(address, target(slice, endpoint, self.service), self.reach) {
                    let candidate = Candidate { address, endpoint, conditions: Conditions::of(endpoint) };
                    found
                        .entry(identity(address, endpoint))
                        .and_modify(|known| candidate.join(known))
                        .or_insert(candidate);
                }
            }
            refused.tell(Some(&format!("EndpointSlice {key}")), self.reach, place);
        }
        let any_ready = found.values().any(|found: &Candidate| found.conditions.ready);
        let serves = |found: &Candidate| if any_ready { found.conditions.ready } else { found.conditions.last_resort };
        let serving = found.values().filter(|found| serves(found)).map(|found| found.endpoint);
        let distances = self.near.map(|(prefer, here)| Distances::new(prefer, here, serving));
        let member = |found: &Candidate| Member {
            unready: (!serves(found)).then(|| found.conditions.unready()),
            last_resort: !any_ready && serves(found),
            distance: distances.as_ref().map_or(Distance::Far, |distances| distances.of(found.endpoint)),
            ..member(found.endpoint, found.address)
        };
        found.values().map(member).collect()
    }
}

/// Anyone who may write EndpointSlices can write any address into one. Only those that Kubernetes writes itself, for a
/// Service that selects pods, name pods that are there, each with its uid. Others that pose as such it deletes, and what
/// a finalizer keeps from going then is told by that.
pub(super) fn target(slice: &EndpointSlice, endpoint: &Endpoint, service: &Service) -> Target {
    let labels = slice.metadata.labels.as_ref();
    let managed = labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|by| by == ENDPOINTS_OF_SELECTORS);
    let kept = slice.metadata.deletion_timestamp.is_none();
    let pod =
        endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod") && target.uid.is_some());
    let own = pod.is_some_and(|pod| pod.namespace == slice.metadata.namespace && pod.namespace.is_some());
    let ours = selects_pods(service) && managed && kept && belongs_to(slice, service) && own;
    if ours { Target::Pod } else { Target::Anybody }
}

/// Whether Kubernetes looks for the Service's pods itself.
fn selects_pods(service: &Service) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| !selector.is_empty())
}

fn belongs_to(slice: &EndpointSlice, service: &Service) -> bool {
    let owners = slice.metadata.owner_references.as_deref().unwrap_or_default();
    // A manifest of files has no uid.
    service.metadata.uid.as_ref().is_none_or(|uid| owners.iter().any(|owner| owner.uid == *uid))
}

/// An endpoint may be in two slices for a moment, as it moves from one to the other.
fn identity(address: SocketAddr, endpoint: &Endpoint) -> (Option<&str>, Option<IpAddr>, u16) {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref());
    (uid, uid.is_none().then_some(address.ip()), address.port())
}

#[derive(Clone, Copy)]
struct Candidate<'a> {
    address: SocketAddr,
    endpoint: &'a Endpoint,
    conditions: Conditions,
}

impl Candidate<'_> {
    /// Makes one of both sights of the same endpoint; the address counts at which it is ready.
    fn join(self, known: &mut Self) {
        let conditions = known.conditions.or(self.conditions);
        if self.conditions.ready && !known.conditions.ready {
            *known = self;
        }
        known.conditions = conditions;
    }
}

#[derive(Clone, Copy)]
struct Conditions {
    ready: bool,
    terminating: bool,
    /// Terminates, and serves meanwhile.
    last_resort: bool,
}

impl Conditions {
    fn of(endpoint: &Endpoint) -> Self {
        let conditions = endpoint.conditions.as_ref();
        let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
        let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(ready);
        let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
        Self { ready, last_resort: serving && terminating, terminating }
    }

    fn or(self, other: Self) -> Self {
        Self {
            ready: self.ready || other.ready,
            last_resort: self.last_resort || other.last_resort,
            terminating: self.terminating || other.terminating,
        }
    }

    fn unready(self) -> Unready {
        if self.terminating { Unready::Terminating } else { Unready::NotReady }
    }
}

fn member(endpoint: &Endpoint, address: SocketAddr) -> Member {
    let target = endpoint.target_ref.as_ref();
    let pod = target.filter(|target| target.kind.as_deref() == Some("Pod"));
    // A pod that has its own name for hostname belongs to a StatefulSet: its name outlives its address.
    let stable = pod.filter(|pod| pod.name.is_some() && pod.name == endpoint.hostname);
    let stable_id = stable.map(|pod| {
        let (namespace, name) = (pod.namespace.as_deref().unwrap_or_default(), pod.name.as_deref().unwrap_or_default());
        StableId::Pod(format!("{namespace}/{name}").into())
    });
    Member {
        address,
        uid: target.and_then(|target| target.uid.as_deref()).map(Into::into),
        stable_id: stable_id.unwrap_or(StableId::Address(address)),
        distance: Distance::Far,
        unready: None,
        last_resort: false,
    }
}
