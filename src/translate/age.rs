//! Who goes first where not all can have what they want: whoever was there first, which is the same on every replica.

use crate::{
    model::ObjectKey,
    source::{Declared, World},
};

/// The load balancers by the time of their creation, then by namespace and name.
pub(super) fn oldest_first(world: &World) -> Vec<(&ObjectKey, &Declared)> {
    let mut objects: Vec<_> = world.load_balancers.iter().collect();
    objects.sort_by_key(|(_, declared)| declared.identity.as_ref().map(|identity| identity.created));
    objects
}
