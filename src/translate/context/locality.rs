//! The node and the zone of this process.

use k8s_openapi::api::discovery::v1::Endpoint;

use super::pods::{AddressOwner, target};
use crate::{
    model::ObjectKey,
    world::{ProcessLocality, World, service_of},
};

/// True if endpoints have zones, and none is in `zone`.
pub(super) fn all_are_elsewhere(world: &World, zone: &str) -> bool {
    let endpoints = world.endpoint_slices.values().flat_map(|slice| &slice.endpoints);
    let mut zones = endpoints.filter_map(|endpoint| endpoint.zone.as_deref()).peekable();
    zones.peek().is_some() && zones.all(|other| other != zone)
}

/// The locality of this process. If only its node is known, the zone is that of a pod on this node in an EndpointSlice,
/// usually its own, listed behind the Service of the replicas.
pub fn here(world: &World) -> ProcessLocality {
    let ProcessLocality { node, zone } = world.locality.clone().unwrap_or_default();
    let zone = zone.or_else(|| zone_of(node.as_deref()?, world).map(Into::into));
    ProcessLocality { node, zone }
}

fn zone_of<'a>(node: &str, world: &'a World) -> Option<&'a str> {
    world.endpoint_slices.iter().find_map(|(key, slice)| {
        let service = world.services.get(&ObjectKey::new(&key.namespace, service_of(slice)?))?;
        let there = |endpoint: &&Endpoint| endpoint.node_name.as_deref() == Some(node) && endpoint.zone.is_some();
        // Other slices, and their node names, may be written by any user.
        let own =
            slice.endpoints.iter().filter(there).find(|endpoint| target(slice, endpoint, service) == AddressOwner::Pod);
        own?.zone.as_deref()
    })
}
