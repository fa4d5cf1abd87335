//! What counts are made of. The models in `models/` put loom's types in its place.

pub use std::sync::atomic::{AtomicU32, Ordering};
