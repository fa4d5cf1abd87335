//! Which of several groups of endpoints serves: one at a time.
//!
//! A group can serve if enough of its endpoints are usable. Of those that can, the one of the lowest number serves; if
//! none can, the lowest that has a usable endpoint at all, even if it terminates. One that no longer can gives way at
//! once. One of a lower number that can again takes over when the policy of failing back says so.
//!
//! Several processes see probes pass in different orders. At the start, and after an outage of all groups, none may stay
//! with the first one that it happens to see: one would serve here, another there.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::model::{Failback, Failover, Priority};

/// Those endpoints of a subset that have the same priority.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PriorityLevel {
    /// The names of their backends.
    pub backends: Vec<Arc<str>>,
    /// How many there are, ready or not, without those that terminate.
    pub endpoints: usize,
    pub usable: usize,
    /// How many more may be in a moment: their first probes are about to say so.
    pub pending: usize,
    /// How many more are usable if nobody else is: they terminate.
    pub last_resort: usize,
    /// How long it may take to see that they are usable again.
    pub seen_within: Duration,
}

impl PriorityLevel {
    fn can_serve(&self, failover: &Failover) -> bool {
        self.usable > 0 && self.are_enough(self.usable, failover)
    }

    /// Whether it may be able to as soon as its first probes are made.
    fn is_about_to_serve(&self, failover: &Failover) -> bool {
        self.pending > 0 && self.are_enough(self.usable + self.pending, failover)
    }

    fn are_enough(&self, usable: usize, failover: &Failover) -> bool {
        usable * 100 >= self.endpoints * usize::from(failover.min_usable_percent)
    }
}

pub(super) type PriorityLevels = BTreeMap<Priority, PriorityLevel>;

/// Which group of a subset serves, and since when another one is about to.
#[derive(Clone, Debug, Default)]
pub(super) struct ActivePriority {
    /// Whether one does.
    serves: bool,
    /// The names of the backends of the one that does, or was the last that did: it stays the same group when it gets
    /// another number. Empty: none ever did.
    backends: Vec<Arc<str>>,
    /// None serves, another than the last one could, and until then that one is waited for.
    waits_until: Option<Instant>,
    /// The group of a lower number that can serve, and since when it can without a break.
    recovered: Option<(Priority, Instant)>,
}

/// Another group serves than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PriorityChange {
    /// `None`: none did.
    pub from: Option<Priority>,
    pub to: Priority,
    /// The one that would, if it could.
    pub first: Priority,
}

impl ActivePriority {
    /// The group that serves from now on, and whether that is another one. `None`: no endpoint is usable, or it is too
    /// early to tell.
    pub fn settle(
        &mut self,
        levels: &PriorityLevels,
        failover: &Failover,
        now: Instant,
    ) -> (Option<Priority>, Option<PriorityChange>) {
        let before = levels.iter().find(|(_, level)| level.backends.iter().any(|name| self.backends.contains(name)));
        let before = before.map(|(priority, _)| *priority);
        let next = self.next(before, levels, failover, now);
        self.serves = next.is_some();
        if let Some(next) = next {
            self.backends.clone_from(&levels[&next].backends);
        }
        let first = levels.keys().next().copied().unwrap_or_default();
        let change = next.filter(|_| next != before).map(|to| PriorityChange { from: before, to, first });
        (next, change)
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
        // All of its endpoints are new.
        if before.is_some_and(|before| levels[&before].usable == 0 && levels[&before].is_about_to_serve(failover)) {
            return None;
        }
        if !self.serves {
            if levels.range(..best).any(|(_, level)| level.is_about_to_serve(failover)) {
                return None;
            }
            // Where failing back is immediate, nobody stays with who stands in for a moment.
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
        let Failback::After(stable) = failover.failback else { return Some(before) };
        let since = recovered.filter(|(level, _)| *level == best).map_or(now, |(_, since)| since);
        if now >= since + stable {
            return Some(best);
        }
        self.recovered = Some((best, since));
        Some(before)
    }

    /// When another group will serve if nothing changes.
    pub fn due(&self, failover: &Failover) -> Option<Instant> {
        if !self.serves {
            return self.waits_until;
        }
        let Failback::After(stable) = failover.failback else { return None };
        self.recovered.map(|(_, since)| since + stable)
    }
}

/// The one that would serve if none did before.
fn best(levels: &PriorityLevels, failover: &Failover) -> Option<Priority> {
    let able = levels.iter().find(|(_, level)| level.can_serve(failover));
    let usable = || levels.iter().find(|(_, level)| level.usable > 0);
    let last_resort = || levels.iter().find(|(_, level)| level.last_resort > 0);
    able.or_else(usable).or_else(last_resort).map(|(priority, _)| *priority)
}

#[cfg(test)]
mod tests;
