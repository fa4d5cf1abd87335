//! What the counts are made of. The models in `models/` put loom's types in its place.

pub use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
