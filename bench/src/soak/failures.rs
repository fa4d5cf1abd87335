//! Failures of a run, printed when they are found.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The number of failures that are printed.
const MAX_PRINTED: u64 = 100;

/// Everything that makes the run fail.
#[derive(Default)]
pub struct FailureLog {
    count: AtomicU64,
}

impl FailureLog {
    pub fn add(&self, failure: &str) {
        if self.count.fetch_add(1, Relaxed) < MAX_PRINTED {
            eprintln!("FAILURE {failure}");
        }
    }

    /// Adds a failure unless the condition holds.
    pub fn check(&self, holds: bool, failure: impl FnOnce() -> String) {
        if !holds {
            self.add(&failure());
        }
    }

    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }
}
