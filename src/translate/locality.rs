//! How far a load balancer's endpoints are from this process.

use std::num::NonZeroU32;

use k8s_openapi::api::discovery::v1::Endpoint;

use super::{Reason, Surroundings, findings::Place as Field, reach::Target, slices::target};
use crate::{
    api::{self, Prefer, TcpLoadBalancerSpec},
    model::{Distance, ObjectKey},
    source::{Place, World, service_of},
};

/// Says what is wrong with the declared preference. Answers with how many connections overload an endpoint.
pub(super) fn check(
    spec: &TcpLoadBalancerSpec,
    surroundings: &Surroundings,
    declared: &api::Locality,
    place: &mut Field,
) -> Option<NonZeroU32> {
    if spec.load_balancing.as_ref().is_some_and(|balancing| balancing.algorithm == api::Algorithm::Maglev) {
        place.refuse(
            "with Maglev a client has the same endpoint in every process, near or far: write another algorithm, or leave \
             it out",
        );
    } else if spec.backends.iter().all(|backend| backend.service.is_none()) {
        place.warn(
            Reason::Invalid,
            "it does nothing: only the endpoints of Services have a place. Give near addresses a lower `priority`, or \
             leave it out",
        );
    } else {
        warn_of_unknown_place(surroundings, declared.prefer, place);
    }
    let most = declared.overloaded_at?;
    NonZeroU32::new(place.at("overloadedAt").number(most, 1..=10_000_000))
}

fn warn_of_unknown_place(surroundings: &Surroundings, prefer: Prefer, place: &mut Field) {
    // Whoever only checks manifests serves them nowhere.
    if surroundings.world.place.is_none() {
        return;
    }
    let unknown =
        |what: &str| format!("it does nothing here: this process does not know its {what}; start it with --{what}");
    let sentence = match (prefer, surroundings.here()) {
        (Prefer::SameNode, Place { node: None, .. }) => unknown("node"),
        (Prefer::SameZone | Prefer::Hints, Place { zone: None, .. }) => unknown("zone"),
        (_, Place { zone: Some(zone), .. }) if surroundings.all_are_elsewhere() => format!(
            "no endpoint is in zone `{zone}`, where this process runs: check its --zone and the zones of the endpoints"
        ),
        (Prefer::SameNode | Prefer::SameZone | Prefer::Hints, _) => return,
    };
    place.warn(Reason::UnknownPlace, sentence);
}

/// Whether endpoints have zones, and none this one.
pub(super) fn all_are_elsewhere(world: &World, zone: &str) -> bool {
    let endpoints = world.endpoint_slices.values().flat_map(|slice| &slice.endpoints);
    let mut zones = endpoints.filter_map(|endpoint| endpoint.zone.as_deref()).peekable();
    zones.peek().is_some() && zones.all(|other| other != zone)
}

/// The preference that a load balancer has, if it has one.
pub(super) fn preference(spec: &TcpLoadBalancerSpec) -> Option<Prefer> {
    let balancing = spec.load_balancing.as_ref()?;
    balancing.locality.as_ref().map(|locality| locality.prefer)
}

/// How far the endpoints of a Service are that serve.
pub(super) struct Distances<'a> {
    prefer: Prefer,
    here: &'a Place,
    /// Hints count only where every endpoint has them: without one, its connections would go nowhere.
    all_have_zones: bool,
    all_have_nodes: bool,
}

impl<'a> Distances<'a> {
    pub fn new<'e>(prefer: Prefer, here: &'a Place, serving: impl Iterator<Item = &'e Endpoint> + Clone) -> Self {
        let all_have_zones = serving.clone().all(|endpoint| hinted_zones(endpoint).next().is_some());
        let all_have_nodes = serving.clone().all(|endpoint| hinted_nodes(endpoint).next().is_some());
        Self { prefer, here, all_have_zones, all_have_nodes }
    }

    pub fn of(&self, endpoint: &Endpoint) -> Distance {
        let is_here = |theirs: Option<&str>, ours: Option<&str>| theirs.is_some() && theirs == ours;
        let (node, zone) = (self.here.node.as_deref(), self.here.zone.as_deref());
        let (same_node, same_zone) = match self.prefer {
            Prefer::SameNode => (is_here(endpoint.node_name.as_deref(), node), is_here(endpoint.zone.as_deref(), zone)),
            Prefer::SameZone => (false, is_here(endpoint.zone.as_deref(), zone)),
            Prefer::Hints => (
                self.all_have_nodes && hinted_nodes(endpoint).any(|hinted| is_here(Some(hinted), node)),
                self.all_have_zones && hinted_zones(endpoint).any(|hinted| is_here(Some(hinted), zone)),
            ),
        };
        match (same_node, same_zone) {
            (true, _) => Distance::Node,
            (false, true) => Distance::Zone,
            (false, false) => Distance::Far,
        }
    }
}

fn hinted_zones(endpoint: &Endpoint) -> impl Iterator<Item = &str> {
    let zones = endpoint.hints.as_ref().and_then(|hints| hints.for_zones.as_deref());
    zones.unwrap_or_default().iter().map(|zone| zone.name.as_str())
}

fn hinted_nodes(endpoint: &Endpoint) -> impl Iterator<Item = &str> {
    let nodes = endpoint.hints.as_ref().and_then(|hints| hints.for_nodes.as_deref());
    nodes.unwrap_or_default().iter().map(|node| node.name.as_str())
}

/// Where this process runs. If only its node is known, the zone is the one that Kubernetes says of a pod there: of its
/// own, as a rule, which the Service of the replicas has.
pub(super) fn here(world: &World) -> Place {
    let Place { node, zone } = world.place.clone().unwrap_or_default();
    let zone = zone.or_else(|| zone_of(node.as_deref()?, world).map(Into::into));
    Place { node, zone }
}

fn zone_of<'a>(node: &str, world: &'a World) -> Option<&'a str> {
    world.endpoint_slices.iter().find_map(|(key, slice)| {
        let service = world.services.get(&ObjectKey::new(&key.namespace, service_of(slice)?))?;
        let there = |endpoint: &&Endpoint| endpoint.node_name.as_deref() == Some(node) && endpoint.zone.is_some();
        // Anybody may write another slice, and what it says of a node.
        let told =
            slice.endpoints.iter().filter(there).find(|endpoint| target(slice, endpoint, service) == Target::Pod);
        told?.zone.as_deref()
    })
}
