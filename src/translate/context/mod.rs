//! State shared by all load balancers of one translation: usable addresses and ports, EndpointSlices, pods, and the
//! locality of this process.

pub(super) mod address_policy;
pub(super) mod bindings;
pub(super) mod endpoint_slices;
pub(super) mod expirations;
pub(super) mod locality;
pub(super) mod pods;

use std::cell::{OnceCell, Ref, RefCell};

use address_policy::AddressPolicy;
use bindings::Bindings;
use endpoint_slices::SlicesByService;
use jiff::Timestamp;
use pods::SlicesByAddress;

use crate::{
    model::Snapshot,
    world::{ProcessLocality, Quotas, World},
};

/// The locality of this process, and true if no endpoint is in its zone.
pub(super) type LocalityView = (ProcessLocality, bool);

/// Shared state of one translation.
pub(super) struct TranslateContext<'a> {
    pub world: &'a World,
    pub previous: &'a Snapshot,
    pub now: Timestamp,
    pub quotas: &'a Quotas,
    pub bindings: &'a Bindings,
    pub address_policy: &'a AddressPolicy,
    pub slices: &'a SlicesByService,
    /// Updated on first use, when something has to be retained.
    slices_by_address: RefCell<SlicesByAddress>,
    slices_followed: OnceCell<()>,
    /// Computed on first use, by load balancers with a locality preference.
    here: OnceCell<ProcessLocality>,
    all_are_elsewhere: OnceCell<bool>,
}

/// The limits and addresses that all load balancers together determine.
pub(super) struct SharedLimits {
    pub quotas: Quotas,
    pub bindings: Bindings,
    pub address_policy: AddressPolicy,
}

impl SharedLimits {
    pub fn of(world: &World, previous: &Snapshot, slices: &SlicesByService) -> Self {
        let quotas = Quotas::of(&world.load_balancers, world.mode.tenancy());
        let bindings = Bindings::of(world, previous, &quotas);
        let address_policy = AddressPolicy::of(world, slices, &bindings);
        Self { quotas, bindings, address_policy }
    }
}

impl<'a> TranslateContext<'a> {
    /// `slices` has the EndpointSlices of this world, `slices_by_address` may have those of an earlier one.
    pub fn new(
        (world, previous, now): (&'a World, &'a Snapshot, Timestamp),
        limits: &'a SharedLimits,
        slices: &'a SlicesByService,
        slices_by_address: SlicesByAddress,
    ) -> Self {
        let SharedLimits { quotas, bindings, address_policy } = limits;
        let (slices_followed, here, all_are_elsewhere) = Default::default();
        Self {
            world,
            previous,
            now,
            quotas,
            bindings,
            address_policy,
            slices,
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

    pub fn locality_view(&self) -> LocalityView {
        (self.here().clone(), self.all_are_elsewhere())
    }

    /// True if endpoints have zones, and none is in the zone of this process.
    pub fn all_are_elsewhere(&self) -> bool {
        let elsewhere =
            || self.here().zone.as_deref().is_some_and(|zone| locality::all_are_elsewhere(self.world, zone));
        *self.all_are_elsewhere.get_or_init(elsewhere)
    }
}
