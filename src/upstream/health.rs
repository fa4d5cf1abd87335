use crate::model::ActiveCheck;

/// What probes say of an endpoint. Healthy until they have failed often enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Health {
    healthy: bool,
    /// Probes in a row that said the opposite of `healthy`.
    against: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    Healthy,
    Unhealthy,
}

impl Default for Health {
    fn default() -> Self {
        Self { healthy: true, against: 0 }
    }
}

impl Health {
    pub fn healthy(&self) -> bool {
        self.healthy
    }

    pub fn observe(&mut self, passed: bool, thresholds: &ActiveCheck) -> Option<Transition> {
        if passed == self.healthy {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        let needed = if self.healthy { thresholds.unhealthy_after } else { thresholds.healthy_after };
        if self.against < needed.get() {
            return None;
        }
        *self = Self { healthy: passed, against: 0 };
        Some(if passed { Transition::Healthy } else { Transition::Unhealthy })
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU16, time::Duration};

    use super::*;

    fn thresholds(healthy_after: u16, unhealthy_after: u16) -> ActiveCheck {
        ActiveCheck {
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            healthy_after: NonZeroU16::new(healthy_after).unwrap(),
            unhealthy_after: NonZeroU16::new(unhealthy_after).unwrap(),
        }
    }

    /// One character for each probe: `+` passed, `-` failed; in the answer `.` no transition, `H` healthy, `U` unhealthy.
    fn transitions(probes: &str, thresholds: &ActiveCheck) -> String {
        let mut health = Health::default();
        let letter = |probe| match health.observe(probe == '+', thresholds) {
            None => '.',
            Some(Transition::Healthy) => 'H',
            Some(Transition::Unhealthy) => 'U',
        };
        probes.chars().map(letter).collect()
    }

    #[test]
    fn a_transition_takes_as_many_probes_in_a_row_as_its_threshold() {
        for (healthy_after, unhealthy_after, probes, expected) in [
            (2, 3, "---", "..U"),
            (2, 3, "--+--+---", "........U"),
            (2, 3, "---++", "..U.H"),
            (2, 3, "---+-+-++", "..U.....H"),
            (2, 3, "---++--+---", "..U.H.....U"),
            (1, 1, "-+-+", "UHUH"),
            (2, 3, "++++", "...."),
            (2, 3, "------", "..U..."),
        ] {
            assert_eq!(transitions(probes, &thresholds(healthy_after, unhealthy_after)), expected, "{probes}");
        }
    }

    #[test]
    fn a_lower_threshold_counts_what_was_seen_before_it() {
        let mut health = Health::default();
        assert_eq!(health.observe(false, &thresholds(1, 10)), None);
        assert_eq!(health.observe(false, &thresholds(1, 2)), Some(Transition::Unhealthy));
    }
}
