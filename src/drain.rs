//! The number of connections that may be open at each moment of a drain.

mod pace;
mod parts;

use std::time::Duration;

pub use self::{pace::Pace, parts::parts_of};

use crate::model::Close;

/// The source of the time limit of open connections at shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainMode {
    /// The `drain.shutdown` of each listener: the process ends without a replacement.
    AsDeclared,
    /// The connections themselves: another process serves the addresses, and nothing waits for the end of this one.
    UntilTheyEnd,
}

impl DrainMode {
    /// The schedule of a listener's connections. `longest` is the maximum time of each.
    pub fn schedule(self, declared: Option<Close>, longest: Duration) -> Schedule {
        match (self, declared) {
            (Self::AsDeclared, Some(declared)) => Schedule::new(declared, longest),
            (Self::AsDeclared, None) => Schedule { after: longest, spread: Duration::ZERO },
            (Self::UntilTheyEnd, _) => Schedule { after: longest, spread: longest / 2 },
        }
    }
}

/// The number of connections that may be open at each moment of a drain.
///
/// All connections may stay until the spread begins. Then the number decreases linearly to zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Schedule {
    after: Duration,
    spread: Duration,
}

impl Schedule {
    /// The schedule of a drain. `longest` is the maximum time of each connection.
    pub fn new(drain: Close, longest: Duration) -> Self {
        let after = drain.after.min(longest);
        // If the process shortens a drain, the spread keeps its share of the drain.
        let spread = if drain.after.is_zero() { after } else { drain.spread.mul_f64(ratio(after, drain.after)) };
        Self { after, spread: spread.min(after) }
    }

    /// The time at which the last connection is closed.
    pub fn deadline(&self) -> Duration {
        self.after
    }

    /// The number of connections that may be open after `elapsed`, out of `total` at the beginning.
    pub fn may_remain(&self, total: usize, elapsed: Duration) -> usize {
        let left = self.after.saturating_sub(elapsed);
        if left >= self.spread && !left.is_zero() {
            return total;
        }
        (total as f64 * ratio(left, self.spread)).ceil() as usize
    }
}

fn ratio(part: Duration, whole: Duration) -> f64 {
    if whole.is_zero() { 0.0 } else { part.as_secs_f64() / whole.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(after: u64, spread: u64) -> Close {
        Close { after: Duration::from_secs(after), spread: Duration::from_secs(spread), max_per_second: None }
    }

    #[test]
    fn connections_are_closed_evenly_over_the_last_part() {
        let schedule = Schedule::new(seconds(60, 30), Duration::MAX);
        for (elapsed, remaining) in [(0, 100), (29, 100), (30, 100), (33, 90), (45, 50), (59, 4), (60, 0), (61, 0)] {
            assert_eq!(schedule.may_remain(100, Duration::from_secs(elapsed)), remaining, "after {elapsed} s");
        }
    }

    #[test]
    fn without_a_spread_all_stay_until_the_deadline() {
        let schedule = Schedule::new(seconds(10, 0), Duration::MAX);
        assert_eq!(schedule.may_remain(7, Duration::from_millis(9_999)), 7);
        assert_eq!(schedule.may_remain(7, Duration::from_secs(10)), 0);
        assert_eq!(Schedule::new(seconds(0, 0), Duration::MAX).may_remain(7, Duration::ZERO), 0);
    }

    #[test]
    fn connections_without_a_drain_policy_stay_until_the_process_ends() {
        let schedule = DrainMode::AsDeclared.schedule(None, Duration::from_secs(10));
        assert_eq!(schedule.may_remain(7, Duration::from_millis(9_999)), 7);
        assert_eq!(schedule.may_remain(7, Duration::from_secs(10)), 0);
    }

    #[test]
    fn the_process_caps_the_drain_and_keeps_its_shape() {
        let schedule = Schedule::new(seconds(60, 30), Duration::from_secs(10));
        assert_eq!(schedule.deadline(), Duration::from_secs(10));
        assert_eq!(schedule.may_remain(100, Duration::from_secs(5)), 100);
        assert_eq!(schedule.may_remain(100, Duration::from_millis(7_500)), 50);
        assert_eq!(schedule.may_remain(100, Duration::from_secs(10)), 0);
    }
}
