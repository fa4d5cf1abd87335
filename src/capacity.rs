//! Limited numbers of places that load balancers and namespaces share.
//!
//! [`Places`] divides them: a part is guaranteed to each holder, and the others may be borrowed by any. [`TenantPlaces`]
//! are such places that tasks of namespaces wait for, in turn.

mod places;
mod sync;
mod tenants;

pub use self::{
    places::{Permit, Place, Places, Share, Terms},
    tenants::{TenantPermit, TenantPlaces, TenantQueue},
};
