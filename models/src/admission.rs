//! The parts of `tcplb::proxy::admission`, and the places that it uses.

#[path = "../../src/proxy/admission/count.rs"]
pub mod count;
#[path = "../../src/proxy/admission/gcra.rs"]
pub mod gcra;
#[path = "../../src/capacity/places.rs"]
pub mod places;
#[path = "../../src/proxy/admission/rate.rs"]
pub mod rate;

mod sync {
    pub use loom::sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    };
}
