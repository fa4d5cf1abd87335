//! The atomics of counts. The models in `models/` replace them with loom's types.

pub use std::sync::atomic::{AtomicU32, Ordering};
