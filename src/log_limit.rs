//! Rate limits for log lines that clients or endpoints can trigger.

use std::{
    mem,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

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
        self.allow_at(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
    }

    fn allow_at(&self, now: u64) -> bool {
        let next = self.next.load(Relaxed);
        // A clock that was set back does not silence the log.
        let is_early = now < next && next <= now + PERIOD;
        !is_early && self.next.compare_exchange(next, now + PERIOD, Relaxed, Relaxed).is_ok()
    }
}

/// Allows a number of lines in each period, and counts the others. Not for the connection path: it has a lock.
#[derive(Debug, Default)]
pub struct LineLimit {
    period: Mutex<LinePeriod>,
}

/// A period begins with its first line.
#[derive(Debug, Default)]
struct LinePeriod {
    ends: Option<Instant>,
    lines: u32,
    omitted: u64,
}

impl LineLimit {
    /// The maximum number of lines in a period.
    const LINES: u32 = 32;
    const PERIOD: Duration = Duration::from_secs(10);

    /// True if a line may be written. Otherwise it is counted.
    pub fn allow(&self, now: Instant) -> bool {
        let mut period = self.lock();
        // A period with omitted lines lasts until they are reported.
        if period.omitted == 0 && period.ends.is_none_or(|ends| ends <= now) {
            *period = LinePeriod { ends: Some(now + Self::PERIOD), lines: 0, omitted: 0 };
        }
        let is_allowed = period.lines < Self::LINES;
        period.lines += u32::from(is_allowed);
        period.omitted += u64::from(!is_allowed);
        is_allowed
    }

    /// The number of omitted lines, once after the end of their period.
    pub fn take_omitted(&self, now: Instant) -> Option<u64> {
        let mut period = self.lock();
        let has_ended = period.omitted > 0 && period.ends.is_some_and(|ends| ends <= now);
        has_ended.then(|| mem::take(&mut *period).omitted)
    }

    /// The end of a period with omitted lines.
    pub fn due(&self) -> Option<Instant> {
        let period = self.lock();
        period.ends.filter(|_| period.omitted > 0)
    }

    fn lock(&self) -> MutexGuard<'_, LinePeriod> {
        self.period.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_allowed_once_per_period_also_after_the_clock_is_set_back() {
        let limiter = LogLimiter::new();
        let allowed = [1000, 1000, 1009, 1010, 1019, 1020, 500, 509, 510].map(|now| limiter.allow_at(now));
        assert_eq!(allowed, [true, false, false, true, false, true, true, false, true]);
    }

    #[test]
    fn lines_beyond_the_limit_are_counted_and_reported_after_their_period() {
        let (limit, start) = (LineLimit::default(), Instant::now());
        let allowed = |now: Instant, lines: u32| (0..lines).filter(|_| limit.allow(now)).count();
        assert_eq!(allowed(start, 32), 32);
        assert_eq!(limit.due(), None);
        assert_eq!(allowed(start, 100), 0);
        let end = start + LineLimit::PERIOD;
        assert_eq!((limit.due(), limit.take_omitted(start)), (Some(end), None));
        assert_eq!(allowed(end, 1), 0, "those before are reported first");
        assert_eq!((limit.take_omitted(end), limit.take_omitted(end)), (Some(101), None));
        assert_eq!(allowed(end, 100), 32);
    }

    #[test]
    fn few_lines_in_each_period_are_all_allowed() {
        let (limit, start) = (LineLimit::default(), Instant::now());
        for period in 0..5 {
            assert!((0..32).all(|_| limit.allow(start + LineLimit::PERIOD * period)));
        }
    }
}
