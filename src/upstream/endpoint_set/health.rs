use crate::model::ActiveCheck;

/// The result of probes: healthy until enough consecutive probes have failed. If probes can distinguish servers, the
/// first probe decides alone, and the endpoint gets no connections before it: a replica must not be used as a primary
/// until enough probes have failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Health {
    healthy: bool,
    /// The next probe decides alone.
    undecided: bool,
    /// No probe has been made.
    unprobed: bool,
    /// The last probe could not be made.
    probe_not_sent: bool,
    /// Consecutive probes that contradict `healthy`.
    against: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    Healthy,
    Unhealthy,
}

impl Default for Health {
    fn default() -> Self {
        Self::decided(true)
    }
}

impl Health {
    /// The health of a new endpoint.
    pub fn of_new(check: Option<&ActiveCheck>) -> Self {
        let undecided = check.is_some_and(ActiveCheck::tells_servers_apart);
        Self { healthy: !undecided, undecided, unprobed: undecided, ..Self::default() }
    }

    fn decided(healthy: bool) -> Self {
        Self { healthy, undecided: false, unprobed: false, probe_not_sent: false, against: 0 }
    }

    /// Applies a changed check: the health stays, but the next probe decides alone if the new check distinguishes
    /// servers.
    pub fn check_changes(&mut self, before: Option<&ActiveCheck>, now: &ActiveCheck) {
        if now.tells_servers_apart() && before.is_none_or(|before| !now.asks_like(before)) {
            self.undecided = true;
        }
    }

    pub fn healthy(&self) -> bool {
        self.healthy
    }

    /// True if the first probe, which decides alone, has not been made.
    pub fn unknown(&self) -> bool {
        self.undecided && !self.healthy
    }

    /// True if it is unusable only because it was never probed.
    pub fn is_unprobed(&self) -> bool {
        self.unprobed
    }

    /// True if the first probe is in progress: clients wait for it.
    pub fn pending_first_check(&self) -> bool {
        self.unprobed && !self.probe_not_sent
    }

    /// Records that a probe could not be sent for lack of a local resource.
    pub fn probe_not_sent(&mut self) {
        self.probe_not_sent = true;
    }

    pub fn observe(&mut self, passed: bool, thresholds: &ActiveCheck) -> Option<Transition> {
        self.probe_not_sent = false;
        let transition = if passed { Transition::Healthy } else { Transition::Unhealthy };
        if self.undecided {
            let changes = !passed || !self.healthy;
            *self = Self::decided(passed);
            return changes.then_some(transition);
        }
        if passed == self.healthy {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        let needed = if self.healthy { thresholds.unhealthy_after } else { thresholds.healthy_after };
        if self.against < needed.get() {
            return None;
        }
        *self = Self::decided(passed);
        Some(transition)
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU16, time::Duration};

    use hyper::http::uri::PathAndQuery;

    use super::*;
    use crate::model::{Exchange, GrpcHealth, Hidden, HttpRequest, Probe, RedisSession, Role, Transport};

    fn thresholds(healthy_after: u16, unhealthy_after: u16) -> ActiveCheck {
        ActiveCheck {
            probe: Probe::Tcp,
            port: None,
            transport: Transport::Plain,
            interval: Duration::from_secs(5),
            unhealthy_interval: Duration::from_secs(5),
            jitter_percent: 10,
            timeout: Duration::from_secs(1),
            healthy_after: NonZeroU16::new(healthy_after).unwrap(),
            unhealthy_after: NonZeroU16::new(unhealthy_after).unwrap(),
        }
    }

    fn for_primaries() -> ActiveCheck {
        let session = RedisSession { user: None, password: None, role: Role::Primary };
        ActiveCheck { probe: Probe::Redis(session), ..thresholds(2, 3) }
    }

    /// The transitions for these probes, one character each: `+` passed, `-` failed. In the result, `.` no transition,
    /// `H` healthy, `U` unhealthy.
    fn transitions(probes: &str, thresholds: &ActiveCheck) -> String {
        let mut health = Health::of_new(Some(thresholds));
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
    fn a_lower_threshold_counts_earlier_probes() {
        let mut health = Health::default();
        assert_eq!(health.observe(false, &thresholds(1, 10)), None);
        assert_eq!(health.observe(false, &thresholds(1, 2)), Some(Transition::Unhealthy));
    }

    #[test]
    fn the_first_probe_decides_alone_if_the_check_distinguishes_servers() {
        let asks = |probe| ActiveCheck { probe, ..thresholds(2, 3) };
        let path = PathAndQuery::from_static("/primary");
        for check in [
            for_primaries(),
            asks(Probe::Http(HttpRequest { path, headers: Vec::new(), statuses: vec![200..=200] })),
            asks(Probe::Exchange(Exchange { send: Hidden::new(b"role\n"[..].into()), expect: b"primary"[..].into() })),
            asks(Probe::Grpc(GrpcHealth { service: "primary".into() })),
        ] {
            assert!(!Health::of_new(Some(&check)).healthy(), "{check:?}");
            for (probes, expected) in [("+", "H"), ("-", "U"), ("+---", "H..U"), ("-++", "U.H")] {
                assert_eq!(transitions(probes, &check), expected, "{probes}, {check:?}");
            }
        }
        for check in [thresholds(2, 3), asks(Probe::Tls(None)), asks(Probe::Postgres(None))] {
            assert!(Health::of_new(Some(&check)).healthy(), "{check:?}");
        }
    }

    #[test]
    fn a_first_check_is_pending_until_the_probe_ends_or_cannot_be_sent() {
        let mut health = Health::of_new(Some(&for_primaries()));
        assert!(health.pending_first_check());
        health.probe_not_sent();
        assert!(!health.pending_first_check() && health.unknown());
        assert_eq!(
            health.observe(true, &for_primaries()),
            Some(Transition::Healthy),
            "the first one decides all the same"
        );
        assert!(!health.pending_first_check());
        assert!(!Health::of_new(Some(&thresholds(2, 3))).pending_first_check());
    }

    #[test]
    fn the_next_probe_alone_decides_after_a_new_role_check() {
        let mut health = Health::of_new(Some(&thresholds(2, 3)));
        health.check_changes(Some(&thresholds(2, 3)), &for_primaries());
        assert!(health.healthy());
        assert_eq!(health.observe(false, &for_primaries()), Some(Transition::Unhealthy));
        health.check_changes(Some(&for_primaries()), &for_primaries());
        assert_eq!(health.observe(true, &for_primaries()), None, "one of the two that it takes");
    }

    #[test]
    fn the_same_check_with_another_account_is_not_a_new_one() {
        let mut health = Health::of_new(Some(&for_primaries()));
        health.observe(true, &for_primaries());
        let session = RedisSession { user: None, password: Some(Hidden::new("another".into())), role: Role::Primary };
        let rotated = ActiveCheck { probe: Probe::Redis(session), ..for_primaries() };
        health.check_changes(Some(&for_primaries()), &rotated);
        assert_eq!(health.observe(false, &rotated), None, "one of the three that it takes");

        let elsewhere = ActiveCheck { port: NonZeroU16::new(6380), ..for_primaries() };
        health.check_changes(Some(&rotated), &elsewhere);
        assert_eq!(health.observe(false, &elsewhere), Some(Transition::Unhealthy));
    }
}
