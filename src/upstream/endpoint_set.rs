mod entry;
mod health;
mod outlier;
mod slow_start;
mod tally;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

pub(super) use self::entry::{EndpointChange, HealthEvent};
use self::{
    entry::EndpointEntry,
    health::Transition,
    outlier::most_ejected,
    slow_start::SlowStart,
    tally::{Parts, Tally},
};
use super::{backends::Backends, balance::Candidate, endpoint::Endpoint, probe::ProbeResult};
use crate::model::{self, ActiveCheck, DrainCause, EndpointKey, PassiveCheck, Priority, Unready};

/// The endpoints of an upstream, and the decisions which of them are usable. No I/O.
///
/// These invariants hold after each call. In a priority level that no other level can replace, no more endpoints are
/// ejected than the passive check allows. While an endpoint is healthy, at least one is usable, in the whole and in
/// each subset of backends that connections are balanced over.
#[derive(Debug, Default)]
pub(super) struct EndpointSet {
    entries: Vec<EndpointEntry>,
    /// Indexes into `entries`, by endpoint id.
    places: HashMap<u64, usize>,
    passive: Option<PassiveCheck>,
    /// The duration of slow start.
    slow_start: Option<Duration>,
    /// Removed endpoints that may have connections.
    removed: Vec<Arc<Endpoint>>,
    protected: Vec<Backends>,
    /// Backends whose endpoints have changed for balancing.
    affected: BTreeSet<Arc<str>>,
}

impl EndpointSet {
    /// Applies new endpoints and settings. Endpoints that stay, by key, keep their state.
    pub fn change(
        &mut self,
        wanted: &model::UpstreamConfig,
        control: &Arc<Notify>,
        now: Instant,
    ) -> Vec<EndpointChange> {
        self.affected.extend(self.entries.iter().map(|entry| entry.backend_name().clone()));
        let before = mem::take(&mut self.entries).into_iter();
        let mut before: BTreeMap<EndpointKey, EndpointEntry> =
            before.map(|entry| (entry.endpoint().key().clone(), entry)).collect();
        // The state of removed endpoints that still have connections, for endpoints that come back.
        let removed = mem::take(&mut self.removed);
        let open = removed.iter().filter(|endpoint| endpoint.active() > 0);
        let mut returning: HashMap<&EndpointKey, &Arc<Endpoint>> =
            open.map(|removed| (removed.key(), removed)).collect();
        let mut returned = BTreeSet::new();
        let threshold = wanted.passive_check.map(|check| check.consecutive_failures.get());
        self.entries.reserve_exact(wanted.endpoints.len());
        for endpoint in &wanted.endpoints {
            let live = before.remove(&endpoint.key);
            let backend = &wanted.backends[&endpoint.key.backend];
            let entry = match live {
                Some(entry) => entry.configured(endpoint, backend),
                None => {
                    let live = returning.remove(&endpoint.key).cloned();
                    returned.extend(live.as_ref().map(|live| live.id()));
                    let fresh = || Arc::new(Endpoint::new(endpoint.key.clone(), backend.clone(), control.clone()));
                    EndpointEntry::new(live.unwrap_or_else(fresh), endpoint, backend)
                }
            };
            entry.endpoint().configure(backend, endpoint.proximity, threshold);
            self.entries.push(entry);
        }
        self.places = self.entries.iter().map(|entry| entry.endpoint().id()).zip(0..).collect();
        self.affected.extend(wanted.backends.keys().cloned());
        // Endpoints removed now are kept without connections too: until balancing is updated, they may still get some.
        self.removed = removed;
        self.removed.retain(|endpoint| endpoint.active() > 0 && !returned.contains(&endpoint.id()));
        self.removed.extend(before.into_values().map(|entry| entry.candidate.endpoint));
        self.passive = wanted.passive_check;
        self.slow_start = wanted.balancing.slow_start;

        let mut changes = Vec::new();
        for entry in &mut self.entries {
            match &self.passive {
                Some(passive) => entry.outlier.shorten(passive, now),
                None => entry.end_ejection("ejection is off", now, &mut changes),
            }
            if entry.check().is_none() && !mem::take(&mut entry.health).healthy() {
                changes.push(entry.change(HealthEvent::Healthy { reason: "no longer probed" }));
            }
        }
        self.settle(now, &mut changes);
        changes
    }

    /// The endpoints that get no new connections, with the cause.
    pub fn draining(&self, unready: &BTreeMap<EndpointKey, Unready>) -> Vec<(Arc<Endpoint>, DrainCause)> {
        let parts = Parts::new(&self.protected);
        let served = parts.with(self.entries.iter().filter(|entry| entry.usable()));
        // True if another endpoint can take over, in every subset of this endpoint.
        let others_serve = |endpoint: &Endpoint| parts.of(&endpoint.key().backend).all(|number| served[number]);
        // An endpoint that came back and awaits its first probe is not unhealthy.
        let unusable = self.entries.iter().filter(|entry| !entry.usable() && !entry.health.is_unprobed());
        let unusable = unusable.map(|entry| (entry.endpoint(), DrainCause::Unhealthy));
        let removed = self.former(unready).map(|(endpoint, why)| {
            let cause = match why {
                Some(Unready::Drained) => DrainCause::Drained,
                Some(Unready::Terminating) => DrainCause::Terminating,
                Some(Unready::NotReady) => DrainCause::Unhealthy,
                None => DrainCause::Removed,
            };
            (endpoint, cause)
        });
        let leave = |endpoint, cause| cause == DrainCause::Removed || others_serve(endpoint);
        let draining = unusable.chain(removed).filter(|(endpoint, cause)| leave(endpoint, *cause));
        let draining = draining.map(|(endpoint, cause)| (endpoint.clone(), cause));
        draining.chain(self.replaceable_last_resorts(&parts)).collect()
    }

    /// Terminating endpoints that another endpoint can replace in all of their subsets.
    fn replaceable_last_resorts(&self, parts: &Parts) -> impl Iterator<Item = (Arc<Endpoint>, DrainCause)> {
        let served = parts.with(self.entries.iter().filter(|entry| entry.usable() && !entry.is_last_resort()));
        let terminate = self.entries.iter().filter(|entry| entry.usable() && entry.is_last_resort());
        let go = terminate.filter(move |entry| parts.of(entry.backend_name()).all(|number| served[number]));
        go.map(|entry| (entry.endpoint().clone(), DrainCause::Terminating))
    }

    /// Sets the subsets in which ejections leave a usable endpoint, in addition to the whole. A draining endpoint keeps
    /// its connections while one of its subsets has no other endpoint.
    pub fn protect(&mut self, subsets: Vec<Backends>) {
        self.protected = subsets;
    }

    /// Records the outcome of a probe. [`review`](Self::review) applies it.
    pub fn observe(&mut self, id: u64, outcome: ProbeResult, now: Instant) -> Vec<EndpointChange> {
        let mut changes = Vec::new();
        let Some(entry) = self.places.get(&id).map(|place| &mut self.entries[*place]) else { return changes };
        let Some(check) = entry.check() else { return changes };
        let passed = outcome.is_ok();
        entry.endpoint().count_probe(passed);
        let reason = outcome.err().unwrap_or_default();
        if !passed {
            entry.endpoint().note_failure(reason.clone());
        }
        match entry.health.observe(passed, &check) {
            Some(Transition::Unhealthy) => changes.push(entry.change(HealthEvent::Unhealthy { reason })),
            Some(Transition::Healthy) => changes.push(entry.change(HealthEvent::Healthy { reason: "probes pass" })),
            None => {}
        }
        if entry.outlier.observe(passed, check.healthy_after) {
            entry.end_ejection("probes pass", now, &mut changes);
        }
        changes
    }

    /// Records that a probe could not be sent. Returns true if connections no longer wait for the endpoint.
    pub fn probe_not_sent(&mut self, id: u64) -> bool {
        let Some(entry) = self.places.get(&id).map(|place| &mut self.entries[*place]) else { return false };
        let was_awaited = entry.health.pending_first_check();
        entry.health.probe_not_sent();
        was_awaited
    }

    /// Ends due ejections, and ejects failing endpoints.
    pub fn review(&mut self, now: Instant) -> Vec<EndpointChange> {
        let mut changes = Vec::new();
        self.settle(now, &mut changes);
        changes
    }

    /// The end of the next ejection.
    pub fn next_return(&self) -> Option<Instant> {
        self.entries.iter().filter_map(|entry| entry.outlier.ejected_until()).min()
    }

    /// The active check of an endpoint.
    pub fn check(&self, id: u64) -> Option<Arc<ActiveCheck>> {
        self.entry(id)?.check()
    }

    /// True if the endpoint passes its check.
    pub fn is_healthy(&self, id: u64) -> bool {
        self.entry(id).is_none_or(|entry| entry.health.healthy())
    }

    fn entry(&self, id: u64) -> Option<&EndpointEntry> {
        self.places.get(&id).map(|place| &self.entries[*place])
    }

    /// The backends whose candidates have changed since the last call.
    pub fn take_affected(&mut self) -> BTreeSet<Arc<str>> {
        mem::take(&mut self.affected)
    }

    /// The endpoints of these backends, with reduced weight during slow start.
    pub fn candidates(&self, of: &Backends, now: Instant) -> Vec<Candidate> {
        let percent = |entry: &EndpointEntry| self.slow_start_of(entry).and_then(|slow| slow.percent(now));
        let anybody_starts = self.entries.iter().any(|entry| percent(entry).is_some());
        let weighted = |entry: &EndpointEntry| {
            let percent = percent(entry).unwrap_or(100);
            entry.endpoint().note_share(percent);
            let mut candidate = entry.candidate.clone();
            if anybody_starts {
                candidate.weight = candidate.weight.times(percent);
            }
            candidate
        };
        let by_backend = self.entries.chunk_by(|one, next| one.backend_name() == next.backend_name());
        let own = by_backend.filter(|entries| entries.iter().take(1).all(|entry| of.contain(entry.backend_name())));
        own.flatten().map(weighted).collect()
    }

    /// The time of the next change of weights by slow start.
    pub fn next_step(&self, now: Instant) -> Option<Instant> {
        self.entries.iter().filter_map(|entry| self.slow_start_of(entry)?.next_step(now)).min()
    }

    fn slow_start_of(&self, entry: &EndpointEntry) -> Option<SlowStart> {
        entry.slow_start.filter(|_| self.slow_start.is_some())
    }

    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.entries.iter().map(EndpointEntry::endpoint)
    }

    /// The removed endpoints that may have connections.
    pub fn removed(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.removed.iter()
    }

    /// The removed endpoints, each with the reason why it is listed but does not serve. `None`: no longer listed.
    pub fn former(
        &self,
        unready: &BTreeMap<EndpointKey, Unready>,
    ) -> impl Iterator<Item = (&Arc<Endpoint>, Option<Unready>)> {
        self.removed.iter().map(move |endpoint| (endpoint, unready.get(endpoint.key()).copied()))
    }

    /// True if a pending first check may make an endpoint usable.
    pub fn awaits_first_check(&self) -> bool {
        self.entries.iter().any(|entry| entry.health.pending_first_check())
    }

    pub fn usable(&self) -> usize {
        self.entries.iter().filter(|entry| entry.usable()).count()
    }

    fn settle(&mut self, now: Instant, changes: &mut Vec<EndpointChange>) {
        for entry in &mut self.entries {
            if entry.outlier.ejected_until().is_some_and(|until| until <= now) {
                entry.end_ejection("ejection time is over", now, changes);
            }
        }
        if let Some(check) = self.passive {
            let mut tally = Tally::new(Parts::new(&self.protected), &self.entries);
            self.return_excess(&check, &mut tally, now, changes);
            self.return_needed(&mut tally, now, changes);
            self.eject_failing(&check, &mut tally, now, changes);
            // The limit of a level may have dropped because another level has no usable endpoint left.
            self.return_excess(&check, &mut tally, now, changes);
        }
        // Without another serving endpoint, slow start has no effect.
        let others_serve = self.entries.iter().any(|entry| entry.was_usable && entry.usable());
        let serving_begins = !others_serve && self.usable() > 0;
        for entry in &mut self.entries {
            let with_others = entry.health.unknown() && (serving_begins || entry.begins_with_others);
            let begins_with_others = mem::replace(&mut entry.begins_with_others, with_others);
            if entry.usable() && !entry.was_usable {
                let slow_start = self.slow_start.filter(|_| others_serve && !begins_with_others);
                entry.slow_start = slow_start.map(|over| SlowStart { since: now, over });
            }
            entry.was_usable = entry.usable();
            let changed = entry.endpoint().set_status(entry.status());
            if (changed || entry.slow_start.is_some()) && !self.affected.contains(entry.backend_name()) {
                self.affected.insert(entry.backend_name().clone());
            }
        }
    }

    fn return_excess(
        &mut self,
        check: &PassiveCheck,
        tally: &mut Tally,
        now: Instant,
        changes: &mut Vec<EndpointChange>,
    ) {
        let mut by_level: BTreeMap<Priority, Vec<usize>> = BTreeMap::new();
        for place in self.ejected_by_end() {
            by_level.entry(self.entries[place].priority()).or_default().push(place);
        }
        // Low priorities first: if some of their endpoints return, all of the others may be ejected.
        for priority in tally.levels() {
            let too_many = tally.level(priority).ejected.saturating_sub(may_be_ejected(check, tally, priority));
            for place in by_level.remove(&priority).into_iter().flatten().take(too_many) {
                let end = |entry: &mut EndpointEntry| entry.end_ejection("maxEjectedPercent is exceeded", now, changes);
                tally.change(&mut self.entries[place], end);
            }
        }
    }

    /// Ends ejections of healthy endpoints until each subset with one has a usable endpoint.
    fn return_needed(&mut self, tally: &mut Tally, now: Instant, changes: &mut Vec<EndpointChange>) {
        for place in self.ejected_by_end() {
            let entry = &mut self.entries[place];
            if entry.health.healthy() && tally.is_needed(entry) {
                let end = |entry: &mut EndpointEntry| entry.end_ejection("no other endpoint is usable", now, changes);
                tally.change(entry, end);
            }
        }
    }

    fn eject_failing(
        &mut self,
        check: &PassiveCheck,
        tally: &mut Tally,
        now: Instant,
        changes: &mut Vec<EndpointChange>,
    ) {
        let threshold = check.consecutive_failures.get().into();
        for entry in &mut self.entries {
            let failures = entry.failures();
            if failures < threshold || !entry.usable() {
                continue;
            }
            let priority = entry.priority();
            let has_room = tally.level(priority).ejected < may_be_ejected(check, tally, priority);
            if !has_room || tally.is_last(entry) {
                continue;
            }
            tally.change(entry, |entry| {
                let length = entry.outlier.eject(check, now);
                entry.endpoint().count_ejection();
                let last = entry.endpoint().last_failure();
                let reason = last.map_or_else(String::new, |failure| failure.reason.clone());
                changes.push(entry.change(HealthEvent::Ejected { length, failures, reason }));
            });
        }
    }

    /// The indexes of ejected endpoints, in the order in which their ejections end.
    fn ejected_by_end(&self) -> Vec<usize> {
        let ejected = self.entries.iter().enumerate().filter(|(_, entry)| entry.is_ejected());
        let mut places: Vec<usize> = ejected.map(|(place, _)| place).collect();
        places.sort_by_key(|place| self.entries[*place].outlier.ejected_until());
        places
    }
}

/// The number of endpoints of a level that may be ejected: all, while another level can serve.
fn may_be_ejected(check: &PassiveCheck, tally: &Tally, priority: Priority) -> usize {
    let entries = tally.level(priority).entries;
    if tally.others_serve(priority) { entries } else { most_ejected(check, entries) }
}

#[cfg(test)]
mod tests;
