//! Other load balancers' configurations, turned into manifests.

mod conversion;
mod golb;

pub use conversion::{Conversion, ConvertError};
pub use golb::golb;
