//! The active priority level of a subset: one level serves at a time.
//!
//! A level can serve if enough of its endpoints are usable. The level with the lowest number that can serve is active;
//! if none can, the lowest one with any usable endpoint, even a terminating one. A level that can no longer serve is
//! replaced at once. A level with a lower number that can serve again takes over according to the failback policy, or on
//! request.
//!
//! The order in which probes pass differs between processes. At the start, and after an outage of all levels, a process
//! must not stay with the first usable level that it sees: different processes would use different levels.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;

use crate::model::{Failback, Failover, Priority};

/// The time for which a request to fail back is valid: the first checks of a level may still be running.
const REQUEST_VALIDITY: Duration = Duration::from_mins(1);

/// The endpoints of a subset with the same priority.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PriorityLevel {
    /// The names of their backends.
    pub backends: Vec<Arc<str>>,
    /// The number of endpoints, ready or not, without terminating ones.
    pub endpoints: usize,
    pub usable: usize,
    /// The number of endpoints that pending first checks may make usable.
    pub pending: usize,
    /// The number of usable terminating endpoints, which serve if there are no others.
    pub last_resort: usize,
    /// The time within which a recovery is detected.
    pub seen_within: Duration,
}

impl PriorityLevel {
    fn can_serve(&self, failover: &Failover) -> bool {
        self.usable > 0 && self.are_enough(self.usable, failover)
    }

    /// True if the level may be able to serve once pending first checks complete.
    fn is_about_to_serve(&self, failover: &Failover) -> bool {
        self.pending > 0 && self.are_enough(self.usable + self.pending, failover)
    }

    fn are_enough(&self, usable: usize, failover: &Failover) -> bool {
        usable * 100 >= self.endpoints * usize::from(failover.min_usable_percent)
    }
}

pub(super) type PriorityLevels = BTreeMap<Priority, PriorityLevel>;

/// The active priority level of a subset, and the level that is about to replace it.
#[derive(Clone, Debug, Default)]
pub(super) struct ActivePriority {
    /// True if a level is active.
    serves: bool,
    /// The names of the backends of the active or last active level: it remains the same level if its number changes.
    /// Empty: no level was ever active.
    backends: Vec<Arc<str>>,
    /// The end of the wait for the last active level, while no level is active and another one could serve.
    waits_until: Option<Instant>,
    /// The level with a lower number that can serve, and the time since which it has been able to without interruption.
    recovered: Option<(Priority, Instant)>,
    /// The latest known request to fail back.
    request: Option<Timestamp>,
    /// The time until which it is valid, unless it was fulfilled.
    requested_until: Option<Instant>,
}

/// A change of the active priority level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PriorityChange {
    /// `None`: no level was active.
    pub from: Option<Priority>,
    pub to: Priority,
    /// The most preferred level.
    pub first: Priority,
}

impl ActivePriority {
    /// Determines the active level, and the change if it differs. `None`: no endpoint is usable, or pending first
    /// checks decide.
    pub fn settle(
        &mut self,
        levels: &PriorityLevels,
        failover: &Failover,
        now: Instant,
    ) -> (Option<Priority>, Option<PriorityChange>) {
        let before = levels.iter().find(|(_, level)| level.backends.iter().any(|name| self.backends.contains(name)));
        let before = before.map(|(priority, _)| *priority);
        self.note_request(before, failover, now);
        let next = self.next(before, levels, failover, now);
        self.serves = next.is_some();
        if let Some(next) = next {
            self.backends.clone_from(&levels[&next].backends);
        }
        let first = levels.keys().next().copied().unwrap_or_default();
        let change = next.filter(|_| next != before).map(|to| PriorityChange { from: before, to, first });
        (next, change)
    }

    /// Without a level that is or was active, a request has nothing to change. It may be an old one.
    fn note_request(&mut self, before: Option<Priority>, failover: &Failover, now: Instant) {
        if self.request != failover.failback_request {
            self.request = failover.failback_request;
            self.requested_until = self.request.and(before).map(|_| now + REQUEST_VALIDITY);
        }
    }

    fn next(
        &mut self,
        before: Option<Priority>,
        levels: &PriorityLevels,
        failover: &Failover,
        now: Instant,
    ) -> Option<Priority> {
        let recovered = self.recovered.take();
        let waits_until = self.waits_until.take();
        let best = best(levels, failover)?;
        // All usable endpoints of the active level were replaced by new ones.
        if before.is_some_and(|before| levels[&before].usable == 0 && levels[&before].is_about_to_serve(failover)) {
            return None;
        }
        if !self.serves {
            if levels.range(..best).any(|(_, level)| level.is_about_to_serve(failover)) {
                return None;
            }
            // With immediate failback, a temporary replacement does no harm.
            let last = before.filter(|last| !levels[last].can_serve(failover) && *last != best);
            if let Some(last) = last.filter(|_| failover.failback != Failback::default()) {
                let until = waits_until.unwrap_or(now + levels[&last].seen_within);
                if now < until {
                    self.waits_until = Some(until);
                    return None;
                }
            }
        }
        let Some(before) = before.filter(|before| best < *before && levels[before].can_serve(failover)) else {
            return Some(best);
        };
        if self.requested_until.take().is_some_and(|until| now < until) {
            return Some(best);
        }
        let Failback::After(stable) = failover.failback else { return Some(before) };
        let since = recovered.filter(|(level, _)| *level == best).map_or(now, |(_, since)| since);
        if now >= since + stable {
            return Some(best);
        }
        self.recovered = Some((best, since));
        Some(before)
    }

    /// The time at which another level becomes active without an event.
    pub fn due(&self, failover: &Failover) -> Option<Instant> {
        if !self.serves {
            return self.waits_until;
        }
        let Failback::After(stable) = failover.failback else { return None };
        self.recovered.map(|(_, since)| since + stable)
    }
}

/// The active level if none was active before.
fn best(levels: &PriorityLevels, failover: &Failover) -> Option<Priority> {
    let able = levels.iter().find(|(_, level)| level.can_serve(failover));
    let usable = || levels.iter().find(|(_, level)| level.usable > 0);
    let last_resort = || levels.iter().find(|(_, level)| level.last_resort > 0);
    able.or_else(usable).or_else(last_resort).map(|(priority, _)| *priority)
}

#[cfg(test)]
mod tests;
