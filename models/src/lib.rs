//! The program's own files for what all workers share without a lock, made of loom's types instead of the standard
//! library's. `tests/` runs them in every order in which two or three threads can take their steps.
//!
//! A file that is included here takes its atomics from its neighbour `sync`, and is complete without others.

// The files have tests of their own, which are for the standard library's types.
#![cfg(not(test))]

pub mod admission;
pub mod model;
pub mod upstream;
