//! Where manifests come from: a [`World`] gathered from files and flags.

mod world;

pub use world::{Declared, Lookup, World};
