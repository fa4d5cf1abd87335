//! Cost tests: the CPU time for inputs of growing size.

use std::{iter::zip, time::Duration};

use rustix::time::{ClockId, clock_gettime};

/// The compared sizes, as multiples of the first one.
const SIZES: [usize; 3] = [1, 2, 4];
/// The maximum cost ratio for twice the input. It is about 2.3 for n log n, and 4 for quadratic growth.
const MOST_FOR_TWICE: u32 = 3;
/// The maximum cost ratio for four times the input. It is about 5 for n log n, and 16 for quadratic growth.
const MOST_FOR_FOUR_TIMES: u32 = 8;
/// The number of measurements of each size. A busy machine only makes runs slower, so the fastest one counts.
const RUNS: usize = 12;

/// The CPU time of this thread.
pub fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Fails if the CPU time of `run` for n, 2n and 4n grows faster than n log n.
pub fn assert_grows_no_faster_than_n_log_n<T>(n: usize, prepare: impl Fn(usize) -> T, run: impl Fn(&mut T)) {
    let cost = |n: usize| {
        let mut input = prepare(n);
        let started = cpu_time();
        run(&mut input);
        cpu_time() - started
    };
    let mut fastest = [Duration::MAX; 3];
    for _ in 0..RUNS {
        for (fastest, times) in zip(&mut fastest, SIZES) {
            *fastest = cost(times * n).min(*fastest);
        }
        if grows_no_faster_than_n_log_n(fastest) {
            return;
        }
    }
    panic!("{fastest:?} for {:?}", SIZES.map(|times| times * n));
}

fn grows_no_faster_than_n_log_n([one, two, four]: [Duration; 3]) -> bool {
    two <= one * MOST_FOR_TWICE && four <= two * MOST_FOR_TWICE && four <= one * MOST_FOR_FOUR_TIMES
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds for n = 1000, 2000 and 4000.
    fn times(cost: impl Fn(f64) -> f64) -> [Duration; 3] {
        [1.0, 2.0, 4.0].map(|times| Duration::from_secs_f64(cost(times * 1000.0) / 1e6))
    }

    #[test]
    fn growth_is_estimated_from_the_times_of_three_sizes() {
        assert!(grows_no_faster_than_n_log_n(times(|_| 1.0)));
        assert!(grows_no_faster_than_n_log_n(times(|n| n)));
        assert!(grows_no_faster_than_n_log_n(times(|n| n * n.ln())));
        assert!(!grows_no_faster_than_n_log_n(times(|n| n * n)));
        assert!(!grows_no_faster_than_n_log_n(times(|n| n.powf(1.6))));
        assert!(!grows_no_faster_than_n_log_n(times(|n| n + (n / 1640.0).powi(9))), "only the last step");
        assert!(!grows_no_faster_than_n_log_n(times(|n| if n < 1500.0 { 1.0 } else { 4.0 })), "only the first step");
    }
}
