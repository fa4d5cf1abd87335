//! A rate limit for log lines that clients can trigger.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{SystemTime, UNIX_EPOCH},
};

/// The seconds between two lines.
const PERIOD: u64 = 10;

/// Allows one line every ten seconds, over all workers.
#[derive(Debug)]
pub struct LogLimiter {
    /// The time of the next allowed line, in seconds since 1970.
    next: AtomicU64,
}

impl Default for LogLimiter {
    fn default() -> Self {
        Self::new()
    }
}

impl LogLimiter {
    pub const fn new() -> Self {
        Self { next: AtomicU64::new(0) }
    }

    pub fn allow(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let next = self.next.load(Relaxed);
        now >= next && self.next.compare_exchange(next, now + PERIOD, Relaxed, Relaxed).is_ok()
    }
}
