//! Limited numbers of places that load balancers and namespaces share.
//!
//! [`Places`] divides them: each holder has a guaranteed part, and any holder may borrow the others. [`TenantPlaces`]
//! are places for which tasks of namespaces wait in order.

mod places;
mod sync;
mod tenants;

pub use self::{
    places::{Permit, PlaceKind, Places, Share, Terms},
    tenants::{TenantPermit, TenantPlaces, TenantQueue},
};
