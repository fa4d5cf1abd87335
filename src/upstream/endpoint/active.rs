//! The number of open connections of an endpoint.

use super::sync::{AtomicU32, Ordering::Relaxed};

#[derive(Debug)]
pub struct ActiveCount(AtomicU32);

impl Default for ActiveCount {
    fn default() -> Self {
        Self(AtomicU32::new(0))
    }
}

impl ActiveCount {
    pub fn begin(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    pub fn end(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    pub fn get(&self) -> u32 {
        self.0.load(Relaxed)
    }
}
