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
pub(super) struct Group {
    /// The names of their backends.
    pub backends: Vec<Arc<str>>,
    /// How many there are, ready or not, without those that terminate.
    pub endpoints: usize,
    pub usable: usize,
    /// How many more may be in a moment: their first probes are about to say so.
    pub awaited: usize,
    /// How many more are usable if nobody else is: they terminate.
    pub last_resort: usize,
    /// How long it may take to see that they are usable again.
    pub seen_within: Duration,
}

impl Group {
    fn can_serve(&self, failover: &Failover) -> bool {
        self.usable > 0 && self.are_enough(self.usable, failover)
    }

    /// Whether it may be able to as soon as its first probes are made.
    fn is_about_to_serve(&self, failover: &Failover) -> bool {
        self.awaited > 0 && self.are_enough(self.usable + self.awaited, failover)
    }

    fn are_enough(&self, usable: usize, failover: &Failover) -> bool {
        usable * 100 >= self.endpoints * usize::from(failover.min_usable_percent)
    }
}

pub(super) type Groups = BTreeMap<Priority, Group>;

/// Which group of a subset serves, and since when another one is about to.
#[derive(Clone, Debug, Default)]
pub(super) struct Serving {
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
pub(super) struct Switch {
    /// `None`: none did.
    pub from: Option<Priority>,
    pub to: Priority,
    /// The one that would, if it could.
    pub first: Priority,
}

impl Serving {
    /// The group that serves from now on, and whether that is another one. `None`: no endpoint is usable, or it is too
    /// early to tell.
    pub fn settle(&mut self, groups: &Groups, failover: &Failover, now: Instant) -> (Option<Priority>, Option<Switch>) {
        let before = groups.iter().find(|(_, group)| group.backends.iter().any(|name| self.backends.contains(name)));
        let before = before.map(|(priority, _)| *priority);
        let next = self.next(before, groups, failover, now);
        self.serves = next.is_some();
        if let Some(next) = next {
            self.backends.clone_from(&groups[&next].backends);
        }
        let first = groups.keys().next().copied().unwrap_or_default();
        let switch = next.filter(|_| next != before).map(|to| Switch { from: before, to, first });
        (next, switch)
    }

    fn next(
        &mut self,
        before: Option<Priority>,
        groups: &Groups,
        failover: &Failover,
        now: Instant,
    ) -> Option<Priority> {
        let recovered = self.recovered.take();
        let waits_until = self.waits_until.take();
        let best = best(groups, failover)?;
        // All of its endpoints are new.
        if before.is_some_and(|before| groups[&before].usable == 0 && groups[&before].is_about_to_serve(failover)) {
            return None;
        }
        if !self.serves {
            if groups.range(..best).any(|(_, group)| group.is_about_to_serve(failover)) {
                return None;
            }
            // Where failing back is immediate, nobody stays with who stands in for a moment.
            let last = before.filter(|last| !groups[last].can_serve(failover) && *last != best);
            if let Some(last) = last.filter(|_| failover.failback != Failback::default()) {
                let until = waits_until.unwrap_or(now + groups[&last].seen_within);
                if now < until {
                    self.waits_until = Some(until);
                    return None;
                }
            }
        }
        let Some(before) = before.filter(|before| best < *before && groups[before].can_serve(failover)) else {
            return Some(best);
        };
        let Failback::After(stable) = failover.failback else { return Some(before) };
        let since = recovered.filter(|(group, _)| *group == best).map_or(now, |(_, since)| since);
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
fn best(groups: &Groups, failover: &Failover) -> Option<Priority> {
    let able = groups.iter().find(|(_, group)| group.can_serve(failover));
    let usable = || groups.iter().find(|(_, group)| group.usable > 0);
    let last_resort = || groups.iter().find(|(_, group)| group.last_resort > 0);
    able.or_else(usable).or_else(last_resort).map(|(priority, _)| *priority)
}

#[cfg(test)]
mod tests;
