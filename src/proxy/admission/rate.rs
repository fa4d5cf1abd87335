//! A rate limit that all workers charge, without a lock.

use super::{
    gcra::Gcra,
    sync::{AtomicU64, Ordering},
};

/// The state of a rate ([`Gcra`]).
#[derive(Debug)]
pub struct RateState {
    theoretical_arrival: AtomicU64,
    /// The latest time of any connection so far.
    latest: AtomicU64,
}

impl Default for RateState {
    fn default() -> Self {
        Self { theoretical_arrival: AtomicU64::new(0), latest: AtomicU64::new(0) }
    }
}

impl RateState {
    /// True if a connection at `now` would conform. Charges nothing.
    pub fn conforms(&self, rate: Gcra, now: u64) -> bool {
        self.decide(rate, now, self.theoretical_arrival.load(Ordering::Acquire)).is_ok()
    }

    /// Charges a connection at `now`, if it conforms.
    pub fn take(&self, rate: Gcra, now: u64) -> bool {
        let mut state = self.theoretical_arrival.load(Ordering::Acquire);
        loop {
            let decision = self.decide(rate, now, state);
            let (Ok(next) | Err(next)) = decision;
            if next == state {
                return decision.is_ok();
            }
            match self.theoretical_arrival.compare_exchange_weak(state, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return decision.is_ok(),
                Err(changed) => state = changed,
            }
        }
    }

    /// Workers pass times out of order. Taking the latest known time *after* the state was read means that no state is
    /// ahead of its time, which [`Gcra::decide`] would treat as the state of another rate.
    fn decide(&self, rate: Gcra, now: u64, state: u64) -> Result<u64, u64> {
        rate.decide(state, self.latest.fetch_max(now, Ordering::AcqRel).max(now))
    }
}
