//! The connections that a listener logs.

use super::event::ConnectionId;
use crate::model::{AccessLogMode, AccessLogSettings};

/// True if the end of this connection is logged. Failures are never sampled.
pub fn logs_end(settings: AccessLogSettings, id: ConnectionId, is_failure: bool) -> bool {
    match settings.mode {
        AccessLogMode::All => is_failure || is_sampled(settings, id),
        AccessLogMode::Failures => is_failure,
        AccessLogMode::Off => false,
    }
}

/// True if the start of this connection is logged. Whether it will fail is not known yet.
pub fn logs_start(settings: AccessLogSettings, id: ConnectionId) -> bool {
    settings.mode == AccessLogMode::All && is_sampled(settings, id)
}

/// Decides by the number of the connection, so that its start and end agree. The multiples of the golden ratio spread
/// evenly over the numbers below 1 (Knuth, The Art of Computer Programming 3, 6.4). The chosen connections therefore
/// have similar distances, and every regular part of the numbers, such as those of one listener, has its share.
fn is_sampled(settings: AccessLogSettings, id: ConnectionId) -> bool {
    const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
    let fraction = id.number.wrapping_mul(GOLDEN_RATIO) >> 32;
    (fraction * u64::from(settings.sample.get())) >> 32 == 0
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn settings(mode: AccessLogMode, sample: u32) -> AccessLogSettings {
        AccessLogSettings { mode, sample: NonZeroU32::new(sample).unwrap() }
    }

    fn id(number: u64) -> ConnectionId {
        ConnectionId { worker: 0, number }
    }

    #[test]
    fn modes_select_connections_by_their_outcome() {
        for (mode, normal, failed) in [
            (AccessLogMode::All, true, true),
            (AccessLogMode::Failures, false, true),
            (AccessLogMode::Off, false, false),
        ] {
            let settings = settings(mode, 1);
            assert_eq!(
                (logs_end(settings, id(7), false), logs_end(settings, id(7), true)),
                (normal, failed),
                "{mode:?}"
            );
        }
    }

    #[test]
    fn one_in_the_sample_size_is_logged_at_similar_distances_for_every_regular_part() {
        for sample in [1, 2, 3, 10, 100, 1000] {
            let settings = settings(AccessLogMode::All, sample);
            for (step, first) in [(1, 0), (2, 0), (2, 1), (7, 3), (64, 5)] {
                let total = 100_000;
                let ids = (0..total).map(|n| first + n * step);
                let logged: Vec<u64> = ids.filter(|n| logs_end(settings, id(*n), false)).collect();
                let expected = total as f64 / f64::from(sample);
                let ratio = logged.len() as f64 / expected;
                assert!((0.9..=1.1).contains(&ratio), "{sample}, every {step}: {} of {expected}", logged.len());
                let longest = logged.windows(2).map(|pair| (pair[1] - pair[0]) / step).max().unwrap();
                assert!(longest <= 4 * u64::from(sample), "{sample}, every {step}: a gap of {longest}");
            }
        }
    }

    #[test]
    fn failures_are_never_sampled_and_starts_agree_with_ends() {
        let settings = settings(AccessLogMode::All, 1_000_000);
        assert!((0..1000).all(|number| logs_end(settings, id(number), true)));
        for number in 0..100_000 {
            assert_eq!(logs_start(settings, id(number)), logs_end(settings, id(number), false));
        }
    }

    #[test]
    fn starts_of_connections_that_may_not_fail_are_not_logged() {
        assert!(!logs_start(settings(AccessLogMode::Failures, 1), id(0)));
        assert!(!logs_start(settings(AccessLogMode::Off, 1), id(0)));
    }
}
