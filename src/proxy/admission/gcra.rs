use crate::model::Rate;

/// The generic cell rate algorithm in its virtual scheduling form (ITU-T Recommendation I.371, annex A).
///
/// The only state is the *theoretical arrival time*: the time at which the next event is due if events arrive exactly
/// at the rate. An event conforms if it is early by no more than the tolerance. Equal to a token bucket of `burst`
/// tokens that gets one each interval: in any time `t` at most `burst + t / interval` events conform.
///
/// All times are nanoseconds since the same moment. The state of a rate that was never charged is 0.
#[derive(Clone, Copy, Debug)]
pub struct Gcra {
    interval: u64,
    tolerance: u64,
}

impl From<Rate> for Gcra {
    fn from(rate: Rate) -> Self {
        let per = u64::try_from(rate.per.as_nanos()).unwrap_or(u64::MAX);
        // Rounded up, so that the limit is never exceeded: at 100,000 per second this costs at most one in 10,000.
        let interval = per.div_ceil(rate.count.get().into()).clamp(1, CENTURIES);
        // Bounded, so that states stay far from where they would overflow.
        let tolerance = interval.saturating_mul(u64::from(rate.burst.get()) - 1).min(CENTURIES);
        Self { interval, tolerance }
    }
}

const CENTURIES: u64 = u64::MAX / 4;

impl Gcra {
    /// The state after an event at `now`: `Ok` if it conforms and is charged, `Err` if not.
    ///
    /// `now` must not be before the time of any event that led to `state`. Under this condition, a state that this rate
    /// cannot have reached by `now` is left over from an earlier, slower rate, and counts as an exhausted rate.
    pub fn decide(self, state: u64, now: u64) -> Result<u64, u64> {
        let state = state.min(now.saturating_add(self.tolerance).saturating_add(self.interval));
        if state <= now.saturating_add(self.tolerance) {
            Ok(state.max(now).saturating_add(self.interval))
        } else {
            Err(state)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, time::Duration};

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn rate(count: u32, per: Duration, burst: u32) -> Rate {
        Rate { count: NonZeroU32::new(count).unwrap(), per, burst: NonZeroU32::new(burst).unwrap() }
    }

    /// The times at which events conform.
    fn conforming(rate: Gcra, arrivals: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let mut state = 0;
        let mut conforming = Vec::new();
        for now in arrivals {
            let decision = rate.decide(state, now);
            if decision.is_ok() {
                conforming.push(now);
            }
            let (Ok(next) | Err(next)) = decision;
            state = next;
        }
        conforming
    }

    #[test]
    fn a_burst_conforms_and_then_one_each_interval() {
        let rate = Gcra::from(rate(2, Duration::from_secs(1), 3));
        let half_second = 500_000_000;
        assert_eq!(conforming(rate, [0; 10]), [0; 3]);
        assert_eq!(
            conforming(rate, [0, 0, 0, half_second - 1, half_second, half_second, 9 * half_second]),
            [0, 0, 0, half_second, 9 * half_second]
        );
        assert_eq!(conforming(rate, [10 * half_second; 10]), [10 * half_second; 3], "idleness saves up one burst only");
    }

    #[test]
    fn an_interval_of_no_whole_nanoseconds_is_rounded_to_the_safe_side() {
        let three_in_ten_nanoseconds = Gcra::from(rate(3, Duration::from_nanos(10), 1));
        assert_eq!(conforming(three_in_ten_nanoseconds, 0..=1_000).len(), 1 + 1_000 / 4);
    }

    #[test]
    fn the_most_extreme_rates_stay_limits() {
        let slowest = Gcra::from(rate(1, Duration::MAX, u32::MAX));
        assert!(conforming(slowest, [0; 100]).len() < 100);
        let hourly = Gcra::from(rate(1, Duration::from_secs(3600), 10_000_000));
        assert!(conforming(hourly, vec![0; 2_000_000]).len() < 2_000_000);
        let fastest = Gcra::from(rate(u32::MAX, Duration::from_nanos(1), 1));
        assert_eq!(conforming(fastest, [0, 0, 1, 1, 2]), [0, 1, 2]);
    }

    #[test]
    fn a_faster_rate_does_not_inherit_the_debt_of_a_slower_one() {
        let slow = Gcra::from(rate(1, Duration::from_secs(3600), 100));
        let fast = Gcra::from(rate(10, Duration::from_secs(1), 5));
        let mut state = 0;
        for _ in 0..100 {
            state = slow.decide(state, 0).unwrap();
        }
        let exhausted = fast.decide(state, 1_000).expect_err("the new rate begins exhausted");
        assert!(fast.decide(exhausted, 1_000 + 99_999_999).is_err());
        assert!(fast.decide(exhausted, 1_000 + 100_000_000).is_ok());
    }

    /// Any rate. Some are so fast that whole nanoseconds are a coarse measure.
    fn any_rate() -> impl Strategy<Value = Rate> {
        let per = prop_oneof![1..100u64, 1_000..100_000_000u64];
        (1..10_000u32, per, 1..50u32).prop_map(|(count, per, burst)| rate(count, Duration::from_nanos(per), burst))
    }

    proptest! {
        #[test]
        fn no_window_has_more_than_a_burst_and_its_share_of_the_rate(
            rate in any_rate(),
            // Gaps in thousandths of an interval, so that arrivals are about as fast as the rate.
            gaps in vec(prop_oneof![Just(0), 0..2_000u64, 0..20_000u64], 1..200),
        ) {
            let gcra = Gcra::from(rate);
            let arrivals = gaps.iter().scan(0, |now, gap| {
                *now += gap * gcra.interval / 1_000;
                Some(*now)
            });
            let conforming = conforming(gcra, arrivals);
            for (first, start) in conforming.iter().enumerate() {
                for (last, end) in conforming.iter().enumerate().skip(first) {
                    let events = (last - first + 1) as u128;
                    let window = u128::from(end - start);
                    // burst + window * count / per, without rounding
                    let allowed = u128::from(rate.burst.get()) * rate.per.as_nanos() + window * u128::from(rate.count.get());
                    prop_assert!(events * rate.per.as_nanos() <= allowed, "{events} in {window} ns");
                }
            }
        }

        #[test]
        fn a_stream_within_its_rate_is_never_refused(
            rate in any_rate(),
            start in 0..u64::MAX / 8,
            extra in vec(0..1_000u64, 1..200),
            groups in vec(1..5u64, 1..200),
        ) {
            let gcra = Gcra::from(rate);
            // Groups of up to a burst, each followed by the time that the group takes at the rate.
            let mut now = start;
            let mut arrivals = Vec::new();
            for (group, extra) in groups.iter().zip(&extra) {
                let group = (*group).min(rate.burst.get().into());
                arrivals.extend((0..group).map(|_| now));
                now += group * gcra.interval + extra;
            }
            prop_assert_eq!(conforming(gcra, arrivals.clone()), arrivals);
        }
    }
}
