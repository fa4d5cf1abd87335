//! The program's files for state that all workers share without a lock, compiled with loom's types instead of the
//! standard library's. `tests/` runs them in every order in which two or three threads can execute.
//!
//! An included file takes its atomics from its sibling `sync` and needs no other files.

// The tests inside these files require the standard library's types.
#![cfg(not(test))]

pub mod admission;
pub mod model;
pub mod upstream;
