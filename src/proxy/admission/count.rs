//! The open connections of a listener.

use super::sync::{AtomicU32, Ordering::Relaxed};

/// A count shared by all workers, up to a limit that each connection brings.
#[derive(Debug)]
pub struct OpenCount(AtomicU32);

impl Default for OpenCount {
    fn default() -> Self {
        Self(AtomicU32::new(0))
    }
}

impl OpenCount {
    /// Counts one more connection, unless `limit` connections are open already.
    pub fn enter(&self, limit: u32) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |open| (open < limit).then(|| open + 1)).is_ok()
    }

    pub fn leave(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    pub fn get(&self) -> u32 {
        self.0.load(Relaxed)
    }
}
