//! Cost tests: CPU time of inputs of growing size.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// CPU time of this thread so far.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Fails if the CPU time of `run` for four times as much input is more than eight times as long. What grows with n log n
/// takes about five times as long, and what grows with the square 16 times.
pub fn assert_grows_no_faster_than_n_log_n<T>(n: usize, prepare: impl Fn(usize) -> T, run: impl Fn(&mut T)) {
    let cost = |n: usize| {
        let mut input = prepare(n);
        let started = cpu_time();
        run(&mut input);
        cpu_time() - started
    };
    let [mut few, mut many] = [Duration::MAX; 2];
    // A busy machine makes a run slower, never faster.
    for _ in 0..6 {
        few = few.min(cost(n));
        many = many.min(cost(4 * n));
        if many <= few * 8 {
            return;
        }
    }
    panic!("{few:?} for {n}, and {many:?} for {}", 4 * n);
}
