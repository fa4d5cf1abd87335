//! The parts of `tcplb::upstream`.

#[path = "../../src/upstream/endpoint/active.rs"]
pub mod active;

mod sync {
    pub use loom::sync::atomic::{AtomicU32, Ordering};
}
