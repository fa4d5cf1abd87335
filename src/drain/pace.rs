use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// Limits the number of closed connections in any period of a length, and spreads the closes.
#[derive(Debug)]
pub struct Pace {
    most: usize,
    per: Duration,
    /// The number of closes at each time, within the last period.
    closed: VecDeque<(Instant, usize)>,
    /// The unused credit.
    credit: f64,
    since: Instant,
}

/// The maximum credit is the credit of this time, or one close. After any pause, closing thus starts with few.
const SAVED: Duration = Duration::from_millis(250);

impl Pace {
    pub fn new(most: usize, per: Duration, now: Instant) -> Self {
        Self { most, per, closed: VecDeque::new(), credit: 1.0, since: now }
    }

    /// The limit of one of several parts that do not coordinate.
    pub fn shared_by(most: usize, per: Duration, parts: usize, now: Instant) -> Self {
        match most / parts {
            0 => Self::new(1, per.mul_f64(parts as f64 / most.max(1) as f64), now),
            own => Self::new(own, per, now),
        }
    }

    /// Keeps the state if the settings are equal, otherwise starts with new settings.
    pub fn changed(&mut self, most: usize, per: Duration, now: Instant) -> &mut Self {
        if (self.most, self.per) != (most, per) {
            *self = Self::new(most, per, now);
        }
        self
    }

    /// The number of connections that may be closed now.
    pub fn allows(&mut self, now: Instant) -> usize {
        let per_second = self.most as f64 / self.per.as_secs_f64();
        let saved = (per_second * SAVED.as_secs_f64()).max(1.0);
        let elapsed = now.saturating_duration_since(self.since).as_secs_f64();
        self.credit = (self.credit + per_second * elapsed).min(saved);
        self.since = now;
        while self.closed.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) >= self.per) {
            self.closed.pop_front();
        }
        let recently: usize = self.closed.iter().map(|(_, count)| count).sum();
        (self.credit as usize).min(self.most.saturating_sub(recently))
    }

    /// Records that `count` connections have been closed.
    pub fn spend(&mut self, count: usize, now: Instant) {
        if count > 0 {
            // The credit never becomes negative: the recorded closes already enforce the rate.
            self.credit = (self.credit - count as f64).max(0.0);
            self.closed.push_back((now, count));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The number of closes at each step, if all permitted closes are made.
    fn closings(mut pace: Pace, from: Instant, pauses: &[u64]) -> Vec<(Instant, usize)> {
        let mut now = from;
        let close = |pause: &u64| {
            now += Duration::from_millis(*pause);
            let allowed = pace.allows(now);
            pace.spend(allowed, now);
            (now, allowed)
        };
        pauses.iter().map(close).collect()
    }

    #[test]
    fn a_minute_of_closing_is_spread_over_the_minute() {
        let now = Instant::now();
        for (most, per) in [(60, 60), (1, 1), (1000, 1), (90, 60), (1, 60)] {
            let per = Duration::from_secs(per);
            let closings = closings(Pace::new(most, per, now), now, &[100; 600]);
            let all: usize = closings.iter().map(|(_, count)| count).sum();
            let expected = most as f64 * 60.0 / per.as_secs_f64();
            assert!((all as f64) <= expected + 1.0 && all as f64 >= expected * 0.85, "{all} of {expected}");
            let largest = closings.iter().map(|(_, count)| *count).max().unwrap();
            assert!(largest <= (most / 4).max(1), "{largest} of {most} at once");
        }
    }

    #[test]
    fn the_shares_of_a_rate_never_exceed_the_rate() {
        let now = Instant::now();
        for (most, parts) in [(1, 4), (5, 2), (7, 3), (1000, 8)] {
            let share = Pace::shared_by(most, Duration::from_secs(1), parts, now);
            let all: usize = closings(share, now, &[100; 600]).iter().map(|(_, count)| count * parts).sum();
            assert!(all <= most * 60 + parts, "{all} of {} in {parts} parts", most * 60);
        }
    }

    #[test]
    fn the_pause_after_too_many_closes_is_at_most_one_rate_period() {
        let (now, per) = (Instant::now(), Duration::from_secs(1));
        let mut pace = Pace::new(10, per, now);
        pace.spend(1000, now);
        assert_eq!(pace.allows(now + per / 2), 0);
        assert!(pace.allows(now + per) > 0);
    }

    proptest! {
        #[test]
        fn no_second_exceeds_the_rate(most in 1..500_usize, pauses in prop::collection::vec(1..400_u64, 1..400)) {
            let (now, per) = (Instant::now(), Duration::from_secs(1));
            let closings = closings(Pace::new(most, per, now), now, &pauses);
            for (start, _) in &closings {
                let within = closings.iter().filter(|(at, _)| at >= start && *at < *start + per);
                let sum: usize = within.map(|(_, count)| count).sum();
                prop_assert!(sum <= most, "{sum} of {most}");
            }
        }
    }
}
