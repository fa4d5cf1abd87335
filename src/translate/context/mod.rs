//! State shared by all load balancers of one translation: usable addresses and ports, EndpointSlices, pods, and the
//! locality of this process.

pub(super) mod address_policy;
pub(super) mod bindings;
pub(super) mod endpoint_slices;
pub(super) mod expirations;
mod locality;
pub(super) mod pods;

use std::cell::{OnceCell, Ref, RefCell};

use address_policy::AddressPolicy;
use bindings::Bindings;
use endpoint_slices::Slices;
use jiff::Timestamp;
use pods::SlicesByAddress;

use crate::{
    model::Snapshot,
    world::{ProcessLocality, Quotas, World, oldest_first},
};

/// Shared state of one translation.
pub(super) struct TranslateContext<'a> {
    pub world: &'a World,
    pub previous: &'a Snapshot,
    pub now: Timestamp,
    pub quotas: Quotas<'a>,
    pub bindings: Bindings<'a>,
    pub slices: Slices<'a>,
    pub address_policy: AddressPolicy<'a>,
    /// Updated on first use, when something has to be retained.
    slices_by_address: RefCell<SlicesByAddress>,
    slices_followed: OnceCell<()>,
    /// Computed on first use, by load balancers with a locality preference.
    here: OnceCell<ProcessLocality>,
    all_are_elsewhere: OnceCell<bool>,
}

impl<'a> TranslateContext<'a> {
    /// `slices_by_address` is from an earlier translation, or empty.
    pub fn of(world: &'a World, previous: &'a Snapshot, now: Timestamp, slices_by_address: SlicesByAddress) -> Self {
        let quotas = Quotas::of(&world.load_balancers, world.mode.tenancy());
        let bindings = Bindings::of(world, previous, &oldest_first(&world.load_balancers), &quotas);
        let slices = Slices::of(world);
        let address_policy = AddressPolicy::of(world, &slices, &bindings);
        let (slices_followed, here, all_are_elsewhere) = Default::default();
        Self {
            world,
            previous,
            now,
            quotas,
            bindings,
            slices,
            address_policy,
            slices_by_address: slices_by_address.into(),
            slices_followed,
            here,
            all_are_elsewhere,
        }
    }

    /// The EndpointSlices by the addresses that they list.
    fn slices_by_address(&self) -> Ref<'_, SlicesByAddress> {
        self.slices_followed.get_or_init(|| self.slices_by_address.borrow_mut().follow(&self.world.endpoint_slices));
        self.slices_by_address.borrow()
    }

    /// Returns the index for the next translation.
    pub fn into_slices_by_address(self) -> SlicesByAddress {
        self.slices_by_address.into_inner()
    }

    /// The locality of this process.
    pub fn here(&self) -> &ProcessLocality {
        self.here.get_or_init(|| locality::here(self.world))
    }

    /// True if endpoints have zones, and none is in the zone of this process.
    pub fn all_are_elsewhere(&self) -> bool {
        let elsewhere =
            || self.here().zone.as_deref().is_some_and(|zone| locality::all_are_elsewhere(self.world, zone));
        *self.all_are_elsewhere.get_or_init(elsewhere)
    }
}
