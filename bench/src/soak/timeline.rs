//! The disturbances of a run, with their times: kills of backends, edits, and takeovers.

use std::{
    collections::{HashMap, VecDeque},
    sync::Mutex,
    time::{Duration, Instant},
};

/// The time for which events are kept for messages.
const EVENT_RETENTION: Duration = Duration::from_secs(120);

/// One life of a backend, from its start to its kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Incarnation {
    pub backend: usize,
    pub number: u32,
}

/// A period from the beginning of a disturbance until it is over.
#[derive(Clone, Copy, Debug)]
struct Period {
    from: Instant,
    until: Option<Instant>,
}

impl Period {
    fn begin() -> Self {
        Self { from: Instant::now(), until: None }
    }

    fn overlaps(self, from: Instant, until: Instant) -> bool {
        self.from <= until && self.until.is_none_or(|end| end >= from)
    }
}

/// The disturbances that can explain the end of a connection.
pub struct Timeline {
    started: Instant,
    state: Mutex<TimelineState>,
}

#[derive(Default)]
struct TimelineState {
    events: VecDeque<(Instant, String)>,
    kills: Vec<(Incarnation, Period)>,
    takeovers: u64,
    /// The periods in which a load balancer is not declared, or not yet served again.
    absences: HashMap<String, Vec<Period>>,
    removed_endpoints: HashMap<(String, usize), Instant>,
    certificates: HashMap<String, Vec<Instant>>,
}

impl Timeline {
    pub fn new() -> Self {
        Self { started: Instant::now(), state: Mutex::default() }
    }

    /// The seconds since the start.
    pub fn seconds(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.started).as_secs_f64()
    }

    /// Records an event for messages.
    pub fn note(&self, event: String) {
        let (now, mut state) = (Instant::now(), self.state.lock().unwrap());
        while state.events.front().is_some_and(|(at, _)| *at + EVENT_RETENTION < now) {
            state.events.pop_front();
        }
        state.events.push_back((now, event));
    }

    /// Records the kill of a backend. Call this before the kill.
    pub fn begin_kill(&self, killed: Incarnation) {
        self.note(format!("kill of backend {}", killed.backend));
        self.state.lock().unwrap().kills.push((killed, Period::begin()));
    }

    /// Records that all connections of a killed backend are closed.
    pub fn end_kill(&self, killed: Incarnation) {
        let mut state = self.state.lock().unwrap();
        if let Some((_, period)) = state.kills.iter_mut().rfind(|(other, _)| *other == killed) {
            period.until = Some(Instant::now());
        }
    }

    /// True if an incarnation that satisfies the condition was being killed in this period.
    pub fn was_killed(&self, from: Instant, until: Instant, matches: impl Fn(Incarnation) -> bool) -> bool {
        let state = self.state.lock().unwrap();
        state.kills.iter().any(|(killed, period)| matches(*killed) && period.overlaps(from, until))
    }

    /// Records the end of a takeover.
    pub fn take_over(&self, instance: &str) {
        self.note(format!("{instance}: takeover ends"));
        self.state.lock().unwrap().takeovers += 1;
    }

    /// The numbers of kills and takeovers.
    pub fn counts(&self) -> (usize, u64) {
        let state = self.state.lock().unwrap();
        (state.kills.len(), state.takeovers)
    }

    /// Records the removal of a load balancer. Call this before the edit.
    pub fn remove_balancer(&self, balancer: &str) {
        self.state.lock().unwrap().absences.entry(balancer.into()).or_default().push(Period::begin());
    }

    /// Records that a load balancer serves again.
    pub fn restore_balancer(&self, balancer: &str) {
        let mut state = self.state.lock().unwrap();
        if let Some(absence) = state.absences.get_mut(balancer).and_then(|absences| absences.last_mut()) {
            absence.until = Some(Instant::now());
        }
    }

    /// True if a load balancer was absent for any part of this period.
    pub fn was_absent(&self, balancer: &str, from: Instant, until: Instant) -> bool {
        let state = self.state.lock().unwrap();
        let mut absences = state.absences.get(balancer).into_iter().flatten();
        absences.any(|absence| absence.overlaps(from, until))
    }

    /// Records the addition of an endpoint. Call this before the edit.
    pub fn add_endpoint(&self, balancer: &str, backend: usize) {
        self.state.lock().unwrap().removed_endpoints.remove(&(balancer.into(), backend));
    }

    /// Records the removal of an endpoint. Call this after the edit.
    pub fn remove_endpoint(&self, balancer: &str, backend: usize) {
        self.state.lock().unwrap().removed_endpoints.insert((balancer.into(), backend), Instant::now());
    }

    /// The time at which an endpoint was removed, unless it was added again.
    pub fn endpoint_removed_at(&self, balancer: &str, backend: usize) -> Option<Instant> {
        self.state.lock().unwrap().removed_endpoints.get(&(balancer.into(), backend)).copied()
    }

    /// Records a new certificate of a load balancer. Call this after the edit. Versions count from 0.
    pub fn rotate_certificate(&self, balancer: &str) {
        self.state.lock().unwrap().certificates.entry(balancer.into()).or_default().push(Instant::now());
    }

    /// The time at which a version of a certificate was replaced by the next one.
    pub fn certificate_replaced_at(&self, balancer: &str, version: usize) -> Option<Instant> {
        self.state.lock().unwrap().certificates.get(balancer)?.get(version + 1).copied()
    }

    /// The events closest to a time: of this load balancer, and of all.
    pub fn nearest(&self, at: Instant, balancer: &str) -> String {
        let state = self.state.lock().unwrap();
        let distance = |event: &Instant| event.saturating_duration_since(at).max(at.saturating_duration_since(*event));
        let closest = |start: &str| {
            let matching = state.events.iter().filter(|(_, text)| text.starts_with(start));
            matching.min_by_key(|(event, _)| distance(event))
        };
        let text = |event: Option<&(Instant, String)>| match event {
            Some((event, text)) => format!("{text} at {:.3} s", self.seconds(*event)),
            None => "none".into(),
        };
        format!("nearest event: {}; of this load balancer: {}", text(closest("")), text(closest(balancer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absence_overlaps_periods_until_the_load_balancer_serves_again() {
        let (timeline, before) = (Timeline::new(), Instant::now());
        assert!(!timeline.was_absent("a", before, Instant::now()));
        timeline.remove_balancer("a");
        assert!(timeline.was_absent("a", before, Instant::now()));
        assert!(!timeline.was_absent("b", before, Instant::now()));
        timeline.restore_balancer("a");
        let restored = Instant::now() + Duration::from_nanos(1);
        assert!(timeline.was_absent("a", before, restored));
        assert!(!timeline.was_absent("a", restored, restored));
    }

    #[test]
    fn only_the_killed_incarnation_is_killed() {
        let (timeline, before) = (Timeline::new(), Instant::now());
        let killed = Incarnation { backend: 3, number: 1 };
        timeline.begin_kill(killed);
        assert!(timeline.was_killed(before, Instant::now(), |other| other == killed));
        assert!(!timeline.was_killed(before, Instant::now(), |other| other == Incarnation { number: 2, ..killed }));
        timeline.end_kill(killed);
        let ended = Instant::now() + Duration::from_nanos(1);
        assert!(timeline.was_killed(before, ended, |other| other.backend == 3));
        assert!(!timeline.was_killed(ended, ended, |other| other.backend == 3));
    }

    #[test]
    fn a_message_names_the_nearest_events() {
        let timeline = Timeline::new();
        timeline.note("a: removes an endpoint".into());
        timeline.note("b: rotates its certificate".into());
        let text = timeline.nearest(Instant::now(), "a");
        assert!(text.contains("event: b: rotates") && text.contains("balancer: a: removes"), "{text}");
    }
}
