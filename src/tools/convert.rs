//! Converts the configurations of other load balancers into manifests.

mod conversion;
mod golb;

pub use golb::golb;
