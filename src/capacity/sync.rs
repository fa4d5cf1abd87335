//! The primitives for the counts. The models in `models/` replace them by loom's types.

pub use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
