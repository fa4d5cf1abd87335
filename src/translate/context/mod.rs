//! Everything that the load balancers of one translation share: addresses and ports that may be used, EndpointSlices,
//! pods, and the place of this process.

pub(super) mod bindings;
pub(super) mod endpoint_slices;
pub(super) mod expirations;
mod locality;
pub(super) mod pods;
pub(super) mod reach;

use std::cell::OnceCell;

use bindings::Bindings;
use endpoint_slices::Slices;
use jiff::Timestamp;
use pods::Pods;
use reach::Reach;

use crate::{
    model::Snapshot,
    world::{Place, Quotas, World, oldest_first},
};

/// What all load balancers of one translation have around them.
pub(super) struct TranslateContext<'a> {
    pub world: &'a World,
    pub previous: &'a Snapshot,
    pub now: Timestamp,
    pub quotas: Quotas<'a>,
    pub bindings: Bindings<'a>,
    pub slices: Slices<'a>,
    pub reach: Reach<'a>,
    /// Made once something has to be kept.
    pods: OnceCell<Pods>,
    /// Looked for once somebody prefers what is near.
    here: OnceCell<Place>,
    all_are_elsewhere: OnceCell<bool>,
}

impl<'a> TranslateContext<'a> {
    pub fn of(world: &'a World, previous: &'a Snapshot, now: Timestamp) -> Self {
        let quotas = Quotas::of(&world.load_balancers, world.site.tenancy());
        let bindings = Bindings::of(world, previous, &oldest_first(&world.load_balancers), &quotas);
        let slices = Slices::of(world);
        let reach = Reach::of(world, &slices, &bindings);
        let (pods, here, all_are_elsewhere) = Default::default();
        Self { world, previous, now, quotas, bindings, slices, reach, pods, here, all_are_elsewhere }
    }

    /// Where this process runs.
    pub fn here(&self) -> &Place {
        self.here.get_or_init(|| locality::here(self.world))
    }

    /// Whether endpoints have zones, and none that of this process.
    pub fn all_are_elsewhere(&self) -> bool {
        let elsewhere =
            || self.here().zone.as_deref().is_some_and(|zone| locality::all_are_elsewhere(self.world, zone));
        *self.all_are_elsewhere.get_or_init(elsewhere)
    }
}
