//! The atomics of admission. The models in `models/` replace them with loom's types.

pub use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
