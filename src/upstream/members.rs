mod health;
mod member;
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

pub(super) use self::member::{Change, Event};
use self::{
    health::Transition,
    member::Member,
    outlier::most_ejected,
    slow_start::SlowStart,
    tally::{Parts, Tally},
};
use super::{backends::Backends, balance::Candidate, endpoint::Endpoint, probe::Outcome};
use crate::model::{self, ActiveCheck, Departure, EndpointKey, PassiveCheck, Priority, Unready};

/// The endpoints of an upstream and which of them are usable: decisions only, no I/O.
///
/// After each call these hold: no more endpoints are ejected than the passive check allows, of a group that no other can
/// serve instead of; and while any endpoint is healthy, one is usable; so it is with the endpoints of those backends that
/// connections are balanced over by themselves.
#[derive(Debug, Default)]
pub(super) struct Members {
    members: Vec<Member>,
    /// Places in `members` by endpoint id.
    places: HashMap<u64, usize>,
    passive: Option<PassiveCheck>,
    /// How long the share of an endpoint grows that becomes usable.
    slow_start: Option<Duration>,
    /// Endpoints that are no longer wanted and may have connections.
    gone: Vec<Arc<Endpoint>>,
    never_empty: Vec<Backends>,
    /// Backends with endpoints that balancing must look at again.
    affected: BTreeSet<Arc<str>>,
}

impl Members {
    /// Takes over other endpoints and settings. Endpoints that stay, by key, keep their state.
    pub fn change(&mut self, wanted: &model::Upstream, keeper: &Arc<Notify>, now: Instant) -> Vec<Change> {
        self.affected.extend(self.members.iter().map(|member| member.backend_name().clone()));
        let before = mem::take(&mut self.members).into_iter();
        let mut before: BTreeMap<EndpointKey, Member> =
            before.map(|member| (member.endpoint().key().clone(), member)).collect();
        // State of removed endpoints that still have connections, for those that come back.
        let gone = mem::take(&mut self.gone);
        let open = gone.iter().filter(|endpoint| endpoint.active() > 0);
        let mut returning: HashMap<&EndpointKey, &Arc<Endpoint>> = open.map(|gone| (gone.key(), gone)).collect();
        let mut returned = BTreeSet::new();
        let worrying = wanted.passive_check.map(|check| check.consecutive_failures.get());
        for endpoint in &wanted.endpoints {
            let live = before.remove(&endpoint.key);
            let backend = &wanted.backends[&endpoint.key.backend];
            let member = match live {
                Some(member) => member.configured(endpoint, backend),
                None => {
                    let live = returning.remove(&endpoint.key).cloned();
                    returned.extend(live.as_ref().map(|live| live.id()));
                    let fresh = || Arc::new(Endpoint::new(endpoint.key.clone(), backend.clone(), keeper.clone()));
                    Member::new(live.unwrap_or_else(fresh), endpoint, backend)
                }
            };
            member.endpoint().configure(backend, endpoint.distance, worrying);
            self.members.push(member);
        }
        self.places = self.members.iter().map(|member| member.endpoint().id()).zip(0..).collect();
        self.affected.extend(wanted.backends.keys().cloned());
        // Not those that go now: until balancing knows of it, a connection may still be sent there.
        self.gone = gone;
        self.gone.retain(|endpoint| endpoint.active() > 0 && !returned.contains(&endpoint.id()));
        self.gone.extend(before.into_values().map(|member| member.candidate.endpoint));
        self.passive = wanted.passive_check;
        self.slow_start = wanted.balancing.slow_start;

        let mut changes = Vec::new();
        for member in &mut self.members {
            match &self.passive {
                Some(passive) => member.outlier.shorten(passive, now),
                None => member.end_ejection("ejection is off", now, &mut changes),
            }
            if member.check().is_none() && !mem::take(&mut member.health).healthy() {
                changes.push(member.change(Event::Healthy { reason: "no longer probed" }));
            }
        }
        self.settle(now, &mut changes);
        changes
    }

    /// Those that get no more connections, with the reason.
    pub fn departing(&self, unready: &BTreeMap<EndpointKey, Unready>) -> Vec<(Arc<Endpoint>, Departure)> {
        let parts = Parts::new(&self.never_empty);
        let served = parts.with(self.members.iter().filter(|member| member.usable()));
        // Clients of an endpoint that serves no more have somewhere to go, whichever subset they came by.
        let others_serve = |endpoint: &Endpoint| parts.of(&endpoint.key().backend).all(|number| served[number]);
        // One that came back, and is only to be probed, has not been found unhealthy.
        let unusable = self.members.iter().filter(|member| !member.usable() && !member.health.is_unprobed());
        let unusable = unusable.map(|member| (member.endpoint(), Departure::Unhealthy));
        let gone = self.gone.iter().map(|endpoint| {
            let departure = match unready.get(endpoint.key()) {
                Some(Unready::Terminating) => Departure::Terminating,
                Some(Unready::NotReady) => Departure::Unhealthy,
                None => Departure::Removed,
            };
            (endpoint, departure)
        });
        let leave = |endpoint, departure| departure == Departure::Removed || others_serve(endpoint);
        let departing = unusable.chain(gone).filter(|(endpoint, departure)| leave(endpoint, *departure));
        let departing = departing.map(|(endpoint, departure)| (endpoint.clone(), departure));
        departing.chain(self.last_resorts_that_go(&parts)).collect()
    }

    /// Those that terminate, where others serve instead, wherever connections could go to them.
    fn last_resorts_that_go(&self, parts: &Parts) -> impl Iterator<Item = (Arc<Endpoint>, Departure)> {
        let served = parts.with(self.members.iter().filter(|member| member.usable() && !member.is_last_resort()));
        let terminate = self.members.iter().filter(|member| member.usable() && member.is_last_resort());
        let go = terminate.filter(move |member| parts.of(member.backend_name()).all(|number| served[number]));
        go.map(|member| (member.endpoint().clone(), Departure::Terminating))
    }

    /// From the next call on, ejections leave each of these subsets an endpoint, besides the whole; and what goes keeps its
    /// connections while one of these that it is of has no other.
    pub fn never_empty(&mut self, subsets: Vec<Backends>) {
        self.never_empty = subsets;
    }

    /// Records the outcome of a probe of the endpoint with this id. [`review`](Self::review) makes it count.
    pub fn observe(&mut self, id: u64, outcome: Outcome, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        let Some(member) = self.places.get(&id).map(|place| &mut self.members[*place]) else { return changes };
        let Some(check) = member.check() else { return changes };
        let passed = outcome.is_ok();
        member.endpoint().count_probe(passed);
        let reason = outcome.err().unwrap_or_default();
        if !passed {
            member.endpoint().note_failure(reason.clone());
        }
        match member.health.observe(passed, &check) {
            Some(Transition::Unhealthy) => changes.push(member.change(Event::Unhealthy { reason })),
            Some(Transition::Healthy) => changes.push(member.change(Event::Healthy { reason: "probes pass" })),
            None => {}
        }
        if member.outlier.observe(passed, check.healthy_after) {
            member.end_ejection("probes pass", now, &mut changes);
        }
        changes
    }

    /// Records that a probe of the endpoint with this id could not be made. Answers whether connections no longer wait
    /// for it.
    pub fn could_not_probe(&mut self, id: u64) -> bool {
        let Some(member) = self.places.get(&id).map(|place| &mut self.members[*place]) else { return false };
        let was_awaited = member.health.awaited();
        member.health.could_not_ask();
        was_awaited
    }

    /// Ends what is due and ejects what fails.
    pub fn review(&mut self, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        self.settle(now, &mut changes);
        changes
    }

    /// When the next ejection ends.
    pub fn next_return(&self) -> Option<Instant> {
        self.members.iter().filter_map(|member| member.outlier.ejected_until()).min()
    }

    /// The active check of the endpoint with this id.
    pub fn check(&self, id: u64) -> Option<Arc<ActiveCheck>> {
        self.member(id)?.check()
    }

    /// Whether the endpoint with this id passes its check.
    pub fn is_healthy(&self, id: u64) -> bool {
        self.member(id).is_none_or(|member| member.health.healthy())
    }

    fn member(&self, id: u64) -> Option<&Member> {
        self.places.get(&id).map(|place| &self.members[*place])
    }

    /// Backends whose candidates have changed since this was last called.
    pub fn take_affected(&mut self) -> BTreeSet<Arc<str>> {
        mem::take(&mut self.affected)
    }

    /// The endpoints of these backends. Those that start slowly have less weight.
    pub fn candidates(&self, of: &Backends, now: Instant) -> Vec<Candidate> {
        let percent = |member: &Member| self.slow_start_of(member).and_then(|slow| slow.percent(now));
        let anybody_starts = self.members.iter().any(|member| percent(member).is_some());
        let weighted = |member: &Member| {
            let percent = percent(member).unwrap_or(100);
            member.endpoint().note_share(percent);
            let mut candidate = member.candidate.clone();
            if anybody_starts {
                candidate.weight = candidate.weight.times(percent);
            }
            candidate
        };
        let by_backend = self.members.chunk_by(|one, next| one.backend_name() == next.backend_name());
        let own = by_backend.filter(|members| members.iter().take(1).all(|member| of.contain(member.backend_name())));
        own.flatten().map(weighted).collect()
    }

    /// When candidates will have other weights although nothing has happened.
    pub fn next_step(&self, now: Instant) -> Option<Instant> {
        self.members.iter().filter_map(|member| self.slow_start_of(member)?.next_step(now)).min()
    }

    fn slow_start_of(&self, member: &Member) -> Option<SlowStart> {
        member.slow_start.filter(|_| self.slow_start.is_some())
    }

    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.members.iter().map(Member::endpoint)
    }

    /// Those that are no longer wanted and had connections.
    pub fn gone(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.gone.iter()
    }

    /// Whether first probes may make somebody usable in a moment.
    pub fn awaits_anybody(&self) -> bool {
        self.members.iter().any(|member| member.health.awaited())
    }

    pub fn usable(&self) -> usize {
        self.members.iter().filter(|member| member.usable()).count()
    }

    fn settle(&mut self, now: Instant, changes: &mut Vec<Change>) {
        for member in &mut self.members {
            if member.outlier.ejected_until().is_some_and(|until| until <= now) {
                member.end_ejection("its time is over", now, changes);
            }
        }
        if let Some(check) = self.passive {
            let mut tally = Tally::new(Parts::new(&self.never_empty), &self.members);
            self.return_too_many(&check, &mut tally, now, changes);
            self.return_needed(&mut tally, now, changes);
            self.eject_failing(&check, &mut tally, now, changes);
            // Less of a level may be ejected once another has no usable endpoint left.
            self.return_too_many(&check, &mut tally, now, changes);
        }
        // Where nobody else serves, there is nobody to take the rest of its share.
        let others_serve = self.members.iter().any(|member| member.was_usable && member.usable());
        let serving_begins = !others_serve && self.usable() > 0;
        for member in &mut self.members {
            let with_others = member.health.unknown() && (serving_begins || member.begins_with_others);
            let begins_with_others = mem::replace(&mut member.begins_with_others, with_others);
            if member.usable() && !member.was_usable {
                let slow_start = self.slow_start.filter(|_| others_serve && !begins_with_others);
                member.slow_start = slow_start.map(|over| SlowStart { since: now, over });
            }
            member.was_usable = member.usable();
            let changed = member.endpoint().stand(member.standing());
            if (changed || member.slow_start.is_some()) && !self.affected.contains(member.backend_name()) {
                self.affected.insert(member.backend_name().clone());
            }
        }
    }

    fn return_too_many(&mut self, check: &PassiveCheck, tally: &mut Tally, now: Instant, changes: &mut Vec<Change>) {
        let mut by_level: BTreeMap<Priority, Vec<usize>> = BTreeMap::new();
        for place in self.ejected_by_end() {
            by_level.entry(self.members[place].priority()).or_default().push(place);
        }
        // The lower ones first: if some of these return, all of the others may be ejected.
        for priority in tally.levels() {
            let too_many = tally.level(priority).ejected.saturating_sub(may_be_ejected(check, tally, priority));
            for place in by_level.remove(&priority).into_iter().flatten().take(too_many) {
                let end = |member: &mut Member| member.end_ejection("too large a share is ejected", now, changes);
                tally.change(&mut self.members[place], end);
            }
        }
    }

    /// Ends ejections of healthy endpoints until each subset that has such has a usable one.
    fn return_needed(&mut self, tally: &mut Tally, now: Instant, changes: &mut Vec<Change>) {
        for place in self.ejected_by_end() {
            let member = &mut self.members[place];
            if member.health.healthy() && tally.is_needed(member) {
                let end = |member: &mut Member| member.end_ejection("no other endpoint is usable", now, changes);
                tally.change(member, end);
            }
        }
    }

    fn eject_failing(&mut self, check: &PassiveCheck, tally: &mut Tally, now: Instant, changes: &mut Vec<Change>) {
        let threshold = check.consecutive_failures.get().into();
        for member in &mut self.members {
            let failures = member.failures();
            if failures < threshold || !member.usable() {
                continue;
            }
            let priority = member.priority();
            let has_room = tally.level(priority).ejected < may_be_ejected(check, tally, priority);
            if !has_room || tally.is_last(member) {
                continue;
            }
            tally.change(member, |member| {
                let length = member.outlier.eject(check, now);
                member.endpoint().count_ejection();
                let last = member.endpoint().state().last_failure;
                let reason = last.map_or_else(String::new, |failure| failure.reason.clone());
                changes.push(member.change(Event::Ejected { length, failures, reason }));
            });
        }
    }

    /// Places of ejected members, those first whose ejection ends first.
    fn ejected_by_end(&self) -> Vec<usize> {
        let ejected = self.members.iter().enumerate().filter(|(_, member)| member.is_ejected());
        let mut places: Vec<usize> = ejected.map(|(place, _)| place).collect();
        places.sort_by_key(|place| self.members[*place].outlier.ejected_until());
        places
    }
}

/// How many members of a level may be ejected: all, while another level can serve instead.
fn may_be_ejected(check: &PassiveCheck, tally: &Tally, priority: Priority) -> usize {
    let members = tally.level(priority).members;
    if tally.others_serve(priority) { members } else { most_ejected(check, members) }
}

#[cfg(test)]
mod tests;
