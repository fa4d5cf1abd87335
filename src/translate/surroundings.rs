use super::bindings::Bindings;
use crate::{model::Snapshot, source::World};

/// What all load balancers of one translation have around them.
pub(super) struct Surroundings<'a> {
    pub world: &'a World,
    pub previous: &'a Snapshot,
    pub bindings: Bindings<'a>,
}

impl<'a> Surroundings<'a> {
    pub fn of(world: &'a World, previous: &'a Snapshot) -> Self {
        Self { world, previous, bindings: Bindings::of(world, previous) }
    }
}
