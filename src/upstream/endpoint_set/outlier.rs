//! Outlier ejection: an endpoint is ejected for a time after failed connections.

use std::{num::NonZeroU16, time::Duration};

use tokio::time::Instant;

use crate::model::PassiveCheck;

/// The ejections of one endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outlier {
    ejection: Option<Ejection>,
    /// The number of ejections in succession, each less than `max_eject_for` after the previous one.
    in_a_row: u32,
    last_end: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Ejection {
    until: Instant,
    /// Consecutive passed probes since the ejection began.
    passes: u16,
}

impl Outlier {
    pub fn ejected_until(&self) -> Option<Instant> {
        self.ejection.map(|ejection| ejection.until)
    }

    /// Begins an ejection and returns its duration: twice that of the previous one.
    pub fn eject(&mut self, check: &PassiveCheck, now: Instant) -> Duration {
        if self.last_end.is_some_and(|end| now.duration_since(end) >= check.max_eject_for) {
            self.in_a_row = 0;
        }
        let doubled = check.eject_for.saturating_mul(1 << self.in_a_row.min(31));
        let length = doubled.min(check.max_eject_for);
        self.in_a_row += 1;
        self.ejection = Some(Ejection { until: now + length, passes: 0 });
        length
    }

    /// Records a probe. True if enough have passed to end the ejection.
    pub fn observe(&mut self, passed: bool, healthy_after: NonZeroU16) -> bool {
        let Some(ejection) = &mut self.ejection else { return false };
        ejection.passes = if passed { ejection.passes.saturating_add(1) } else { 0 };
        ejection.passes >= healthy_after.get()
    }

    pub fn end(&mut self, now: Instant) {
        if self.ejection.take().is_some() {
            self.last_end = Some(now);
        }
    }

    /// Shortens the ejection to the maximum of changed settings.
    pub fn shorten(&mut self, check: &PassiveCheck, now: Instant) {
        if let Some(ejection) = &mut self.ejection {
            ejection.until = ejection.until.min(now + check.max_eject_for);
        }
    }
}

/// The number of endpoints that may be ejected at a time.
pub(super) fn most_ejected(check: &PassiveCheck, endpoints: usize) -> usize {
    endpoints * usize::from(check.max_ejected_percent.min(100)) / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn check() -> PassiveCheck {
        PassiveCheck {
            consecutive_failures: NonZeroU16::new(5).unwrap(),
            eject_for: 30 * SECOND,
            max_eject_for: 300 * SECOND,
            max_ejected_percent: 50,
        }
    }

    #[test]
    fn each_ejection_in_a_row_lasts_twice_as_long_up_to_the_maximum() {
        let (mut outlier, mut now) = (Outlier::default(), Instant::now());
        for seconds in [30, 60, 120, 240, 300, 300] {
            assert_eq!(outlier.eject(&check(), now), seconds * SECOND);
            now += seconds * SECOND;
            assert_eq!(outlier.ejected_until(), Some(now));
            outlier.end(now);
            now += 299 * SECOND;
        }
        now += SECOND;
        assert_eq!(outlier.eject(&check(), now), 30 * SECOND, "forgotten after 300 s without one");
    }

    #[test]
    fn very_many_ejections_do_not_overflow() {
        let (mut outlier, now) = (Outlier::default(), Instant::now());
        for _ in 0..100 {
            outlier.eject(&check(), now);
            outlier.end(now);
        }
        assert_eq!(outlier.eject(&check(), now), 300 * SECOND);
    }

    #[test]
    fn probes_in_a_row_that_pass_end_an_ejection() {
        let two = NonZeroU16::new(2).unwrap();
        let mut outlier = Outlier::default();
        assert!(!outlier.observe(true, two), "not ejected");
        outlier.eject(&check(), Instant::now());
        let ended: Vec<bool> = [true, false, true, true].map(|passed| outlier.observe(passed, two)).into();
        assert_eq!(ended, [false, false, false, true]);
    }

    #[test]
    fn the_share_that_may_be_ejected_is_rounded_down() {
        for (endpoints, percent, most) in
            [(0, 50, 0), (1, 50, 0), (2, 50, 1), (3, 50, 1), (10, 10, 1), (9, 10, 0), (7, 100, 7), (7, 0, 0)]
        {
            assert_eq!(most_ejected(&PassiveCheck { max_ejected_percent: percent, ..check() }, endpoints), most);
        }
    }
}
