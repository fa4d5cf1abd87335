//! Slow start: the share of an endpoint that has become usable grows linearly from a tenth of its weight to all of it,
//! over the time in `loadBalancing.slowStart`.

use std::{cmp, time::Duration};

use tokio::time::Instant;

/// The minimum share in percent, so that an endpoint with few clients gets connections at all.
const LEAST: u32 = 10;
/// Balancers are rebuilt at each step.
const SHORTEST_STEP: Duration = Duration::from_millis(250);
const STEPS: u32 = 50;

/// The slow start of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlowStart {
    pub since: Instant,
    pub over: Duration,
}

impl SlowStart {
    /// The effective share of the weight, in percent. `None`: all of it.
    pub fn percent(&self, now: Instant) -> Option<u32> {
        let passed = now.saturating_duration_since(self.since);
        let percent = (passed.as_millis() * 100).checked_div(self.over.as_millis())?;
        let percent = u32::try_from(percent).ok().filter(|percent| *percent < 100)?;
        Some(cmp::max(percent, LEAST))
    }

    /// The time of the next step. `None`: slow start is over.
    pub fn next_step(&self, now: Instant) -> Option<Instant> {
        self.percent(now)?;
        let step = cmp::max(self.over / STEPS, SHORTEST_STEP);
        Some(cmp::min(now + step, self.since + self.over))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow_start(seconds: u64) -> SlowStart {
        SlowStart { since: Instant::now(), over: Duration::from_secs(seconds) }
    }

    #[test]
    fn the_share_grows_in_a_straight_line_from_a_tenth() {
        let start = slow_start(30);
        for (milliseconds, expected) in [
            (0, Some(10)),
            (2_999, Some(10)),
            (3_300, Some(11)),
            (15_000, Some(50)),
            (29_999, Some(99)),
            (30_000, None),
            (3_000_000, None),
        ] {
            let now = start.since + Duration::from_millis(milliseconds);
            assert_eq!(start.percent(now), expected, "after {milliseconds} ms");
        }
    }

    #[test]
    fn steps_are_bounded_and_the_last_is_at_the_end() {
        for (seconds, expected) in [(1, 4), (5, 20), (30, 50), (3600, 50)] {
            let start = slow_start(seconds);
            let steps: Vec<_> = std::iter::successors(Some(start.since), |now| start.next_step(*now)).collect();
            assert_eq!(steps.last(), Some(&(start.since + start.over)));
            assert_eq!(steps.len(), expected + 1, "{seconds} s");
        }
    }
}
