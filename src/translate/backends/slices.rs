//! Endpoints of a Service's port, by kube-proxy's rules for EndpointSlices.

mod endpoint;
mod port;
mod retained;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use endpoint::Conditions;
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{Endpoint, EndpointSlice},
};
use port::TargetPort;
use retained::{Retained, SliceMatch};

pub(super) use endpoint::BackendEndpoint;
pub use retained::Retention;

use super::proximity::{self, ProximityRule};
use crate::{
    api::{BackendService, Prefer},
    model::{self, Proximity},
    translate::{
        context::{
            address_policy::{AddressPolicy, RefusedAddresses},
            endpoint_slices::Slice,
            pods::{belongs_to, is_managed, selects_pods, target},
        },
        declaration::Declaration,
        field_errors::FieldPath,
        messages::missing,
        verdict::Reason,
    },
    world::{ProcessLocality, SLICES_OF},
};

const IPV4: &str = "IPv4";
const IPV6: &str = "IPv6";

/// Endpoints of a Service's port.
#[derive(Default)]
pub(super) struct ServiceEndpoints {
    pub members: Vec<BackendEndpoint>,
    /// True if the Service exists without a matching EndpointSlice.
    pub is_pending: bool,
    /// Time at which to report endpoints that are retained without such a slice.
    pub report_due: Option<Timestamp>,
}

/// All endpoints of a Service's port. Ready endpoints serve; if there are none, terminating ones that still serve do.
/// Endpoints of `before` that are no longer listed are included while they are retained.
pub(super) fn members(
    declared: &BackendService,
    before: &[&model::EndpointConfig],
    declaration: &Declaration,
    path: &mut FieldPath,
) -> ServiceEndpoints {
    let Declaration { object, context, .. } = declaration;
    let world = context.world;
    let key = object.sibling(&declared.name.0);
    if let Some(why) = world.unread("Service", &key) {
        path.at("name").warn(Reason::Unknown, &*why);
        return ServiceEndpoints::default();
    }
    let Some(service) = world.services.get(&key) else {
        path.at("name").refuse_for(Reason::RefNotFound, missing("Service", &key, world));
        return ServiceEndpoints::default();
    };
    if service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
        let message = format!(
            "Service {key} is of type ExternalName, which has no endpoints: write its externalName in `addresses`"
        );
        path.at("name").refuse(message);
        return ServiceEndpoints::default();
    }
    let Some(port) = TargetPort::of(&declared.port, &key, service, &mut path.at("port")) else {
        return ServiceEndpoints::default();
    };
    if let Some(why) = world.unread("EndpointSlice", &key) {
        path.at("name").warn(Reason::Unknown, &*why);
        return ServiceEndpoints::default();
    }
    if world.unreadable.contains_key(&(SLICES_OF, key.clone())) {
        path.at("name").refuse_for(Reason::RefNotFound, missing(SLICES_OF, &key, world));
        return ServiceEndpoints::default();
    }
    let slices: Vec<Slice> = context.slices.of_service(&key).collect();
    for (key, slice) in slices.iter().filter(|(_, slice)| slice.address_type != IPV4 && slice.address_type != IPV6) {
        let message = format!(
            "EndpointSlice {key} has addresses of type {}, which is not supported: write IPv4 or IPv6 addresses there, \
             or DNS names in `addresses`; it is ignored",
            slice.address_type
        );
        path.drop_item(Reason::Invalid, message);
    }
    let family = family(service, &slices);
    let near = proximity::preference(declaration.spec).map(|prefer| (prefer, context.here()));
    let serving = EndpointSelection { port, service, policy: context.address_policy, near, before, declaration };
    serving.members(slices.iter().filter(|(_, slice)| slice.address_type == family), path)
}

/// The first IP family of the Service. If it has none, IPv4 if present: a dual-stack pod would count twice with both.
fn family<'a>(service: &'a Service, slices: &[Slice]) -> &'a str {
    let declared = service.spec.as_ref().and_then(|spec| spec.ip_families.as_ref()?.first());
    match declared {
        Some(family) => family,
        None if slices.iter().any(|(_, slice)| slice.address_type == IPV4) => IPV4,
        None => IPV6,
    }
}

/// Selection of the endpoints that serve, from a Service's slices.
struct EndpointSelection<'a> {
    port: TargetPort,
    service: &'a Service,
    policy: &'a AddressPolicy,
    /// The locality preference and the locality of this process.
    near: Option<(Prefer, &'a ProcessLocality)>,
    /// The previous endpoints.
    before: &'a [&'a model::EndpointConfig],
    declaration: &'a Declaration<'a>,
}

impl EndpointSelection<'_> {
    fn members<'a>(&self, slices: impl Iterator<Item = &'a Slice<'a>>, path: &mut FieldPath) -> ServiceEndpoints {
        let mut found = BTreeMap::new();
        let mut refusals = Vec::new();
        let mut matched = SliceMatch { has_selector: selects_pods(self.service), ..SliceMatch::default() };
        for (key, slice) in slices {
            let is_replaced = is_replaced(slice, self.service);
            let is_ours = !is_replaced && (selects_pods(self.service) || !is_managed(slice));
            match self.port.is_in(slice) && is_ours {
                true => matched.matching.push(slice),
                false => matched.stale.push(slice),
            }
            let mut refused = RefusedAddresses::default();
            for (address, endpoint) in self.port.addresses(key, slice, path) {
                if refused.admit(address, target(slice, endpoint, self.service), self.policy) {
                    let candidate = SliceEndpoint { address, endpoint, conditions: Conditions::of(endpoint) };
                    found
                        .entry(identity(address, endpoint))
                        .and_modify(|known| candidate.join(known))
                        .or_insert(candidate);
                }
            }
            refusals.push((key, slice, is_ours, is_replaced, refused));
        }
        let retained = self.retained(&found, &matched);
        // Slices that no longer belong to the Service are not reported while endpoints are retained.
        for (key, slice, is_ours, is_replaced, refused) in refusals {
            // A finalizer may retain a deleted slice forever.
            let goes_by_itself = is_replaced && slice.metadata.deletion_timestamp.is_none();
            let is_superseded = !retained.is_empty() || goes_by_itself && !found.is_empty();
            if !is_ours && is_superseded {
                continue;
            }
            if is_replaced && found.is_empty() {
                let message = format!(
                    "EndpointSlice {key} is being deleted, or belongs to an earlier Service of this name: Kubernetes \
                     creates another one"
                );
                path.warn(Reason::EndpointsPending, message);
            }
            refused.report(Some(&format!("EndpointSlice {key}")), self.policy, path);
        }
        let conditions = found.values().map(|found: &SliceEndpoint| found.conditions);
        let any_ready = conditions.chain(retained.iter().map(|retained| retained.conditions)).any(|other| other.ready);
        let serves = |conditions: Conditions| if any_ready { conditions.ready } else { conditions.last_resort };
        let serving = found.values().filter(|found| serves(found.conditions)).map(|found| found.endpoint);
        let rule = self.near.map(|(prefer, here)| ProximityRule::new(prefer, here, serving));
        let member = |found: &SliceEndpoint| BackendEndpoint {
            unready: (!serves(found.conditions)).then(|| found.conditions.unready()),
            last_resort: !any_ready && serves(found.conditions),
            proximity: rule.as_ref().map_or(Proximity::Remote, |rule| rule.of(found.endpoint)),
            ..BackendEndpoint::of(found.endpoint, found.address)
        };
        let stays = |retained: &Retained| {
            let serves = serves(retained.conditions);
            retained.member(serves, !any_ready && serves)
        };
        ServiceEndpoints {
            members: found.values().map(member).chain(retained.iter().map(stays)).collect(),
            is_pending: !matched.is_current(),
            report_due: retained::report_due(&retained, self.declaration.context.now),
        }
    }

    fn retained(&self, found: &BTreeMap<EndpointIdentity, SliceEndpoint>, matched: &SliceMatch) -> Vec<Retained<'_>> {
        let is_missing = |endpoint: &&&model::EndpointConfig| {
            !found.contains_key(&identity_of(endpoint.key.uid.as_deref(), endpoint.address()))
        };
        let missing: Vec<_> = self.before.iter().filter(is_missing).copied().collect();
        let backend = missing.first().map(|endpoint| &endpoint.key.backend);
        let before = self.declaration.last_good.upstream.as_ref();
        let backend = before.zip(backend).and_then(|(before, backend)| before.backends.get(backend));
        matched.retained(&missing, backend.is_some_and(|backend| backend.last_resort), self.declaration)
    }
}

/// True if a slice of the EndpointSlice controller belongs to an earlier Service of the same name, or is being deleted.
fn is_replaced(slice: &EndpointSlice, service: &Service) -> bool {
    let is_of_another = !belongs_to(slice, service) && slice.metadata.owner_references.is_some();
    is_managed(slice) && (slice.metadata.deletion_timestamp.is_some() || is_of_another)
}

/// Identity of an endpoint across slices: it may be in two slices while it moves between them.
type EndpointIdentity<'a> = (Option<&'a str>, Option<IpAddr>, u16);

fn identity(address: SocketAddr, endpoint: &Endpoint) -> EndpointIdentity<'_> {
    identity_of(endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref()), address)
}

fn identity_of(uid: Option<&str>, address: SocketAddr) -> EndpointIdentity<'_> {
    (uid, uid.is_none().then_some(address.ip()), address.port())
}

#[derive(Clone, Copy)]
struct SliceEndpoint<'a> {
    address: SocketAddr,
    endpoint: &'a Endpoint,
    conditions: Conditions,
}

impl SliceEndpoint<'_> {
    /// Merges two entries of the same endpoint. A ready entry provides the address.
    fn join(self, other: &mut Self) {
        let conditions = other.conditions.or(self.conditions);
        if self.conditions.ready && !other.conditions.ready {
            *other = self;
        }
        other.conditions = conditions;
    }
}
