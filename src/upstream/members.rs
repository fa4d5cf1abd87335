use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    Backends,
    balance::Candidate,
    endpoint::{Endpoint, Standing},
    health::{Health, Transition},
    outlier::{Outlier, most_ejected},
    probe::Outcome,
    slow_start::SlowStart,
};
use crate::model::{self, ActiveCheck, Departure, EndpointKey, PassiveCheck, Priority, Unready};

/// The endpoints of an upstream and which of them are usable: decisions only, no I/O.
///
/// After each call these hold: no more endpoints are ejected than the passive check allows, of a group that no other can
/// serve instead of; and while any endpoint is healthy, one is usable; so it is with the endpoints of those backends that
/// connections are balanced over by themselves.
#[derive(Debug, Default)]
pub(super) struct Members {
    members: Vec<Member>,
    passive: Option<PassiveCheck>,
    /// How long the share of an endpoint grows that becomes usable.
    slow_start: Option<Duration>,
    /// Endpoints that are no longer wanted and may have connections.
    gone: Vec<Arc<Endpoint>>,
    never_empty: Vec<Backends>,
}

#[derive(Debug)]
struct Member {
    candidate: Candidate,
    health: Health,
    outlier: Outlier,
    /// Whether it was usable when that was last looked at.
    was_usable: bool,
    /// Whether it was only yet to be probed for the first time when others began to serve: it begins as they do.
    begins_with_others: bool,
    slow_start: Option<SlowStart>,
}

/// What happened to an endpoint.
#[derive(Debug)]
pub(super) struct Change {
    pub endpoint: Arc<Endpoint>,
    pub event: Event,
}

#[derive(Debug)]
pub(super) enum Event {
    Unhealthy { reason: String },
    Healthy { reason: &'static str },
    Ejected { length: Duration, failures: u32, reason: String },
    Returned { reason: &'static str },
}

impl Members {
    /// Takes over other endpoints and settings. Endpoints that stay, by key, keep their state.
    pub fn change(&mut self, wanted: &model::Upstream, keeper: &Arc<Notify>, now: Instant) -> Vec<Change> {
        let before = mem::take(&mut self.members).into_iter();
        let mut before: BTreeMap<EndpointKey, Member> =
            before.map(|member| (member.endpoint().key().clone(), member)).collect();
        let worrying = wanted.passive_check.map(|check| check.consecutive_failures.get());
        for endpoint in &wanted.endpoints {
            let live = before.remove(&endpoint.key);
            let backend = &wanted.backends[&endpoint.key.backend];
            let member = match live {
                Some(member) => member.configured(endpoint, backend),
                None => Member::new(self.live(endpoint, backend, keeper), endpoint, backend),
            };
            member.endpoint().configure(backend, endpoint.distance, worrying);
            self.members.push(member);
        }
        // Not those that go now: until balancing knows of it, a connection may still be sent there.
        self.gone.retain(|endpoint| endpoint.active() > 0);
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

    /// The state of an endpoint that comes: what there was of it, if it still has connections.
    fn live(&mut self, wanted: &model::Endpoint, backend: &Arc<model::Backend>, keeper: &Arc<Notify>) -> Arc<Endpoint> {
        match self.gone.iter().position(|gone| *gone.key() == wanted.key && gone.active() > 0) {
            Some(place) => self.gone.swap_remove(place),
            None => Arc::new(Endpoint::new(wanted.key.clone(), backend.clone(), keeper.clone())),
        }
    }

    /// Those that get no more connections, with the reason.
    pub fn departing(&self, unready: &BTreeMap<EndpointKey, Unready>) -> Vec<(Arc<Endpoint>, Departure)> {
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
        let leave = |endpoint, departure| departure == Departure::Removed || self.others_serve(endpoint);
        let departing = unusable.chain(gone).filter(|(endpoint, departure)| leave(endpoint, *departure));
        let departing = departing.map(|(endpoint, departure)| (endpoint.clone(), departure));
        departing.chain(self.last_resorts_that_go()).collect()
    }

    /// Those that terminate, where others serve instead, wherever connections could go to them.
    fn last_resorts_that_go(&self) -> impl Iterator<Item = (Arc<Endpoint>, Departure)> {
        let serves = |member: &Member| member.usable() && !member.is_last_resort();
        let terminate = self.members.iter().filter(|member| member.usable() && member.is_last_resort());
        let go = terminate.filter(move |member| self.every_subset_has(member.endpoint(), serves));
        go.map(|member| (member.endpoint().clone(), Departure::Terminating))
    }

    /// Whether clients of an endpoint that serves no more have somewhere to go, whichever subset they came by.
    fn others_serve(&self, endpoint: &Endpoint) -> bool {
        self.every_subset_has(endpoint, Member::usable)
    }

    /// Whether each subset that this endpoint is of has one like this.
    fn every_subset_has(&self, endpoint: &Endpoint, like: impl Fn(&Member) -> bool) -> bool {
        let mut its_own = self.subsets().into_iter().filter(|subset| subset.have(endpoint.key()));
        its_own.all(|subset| self.members.iter().any(|member| like(member) && member.is_of(&subset)))
    }

    /// From the next call on, ejections leave each of these subsets an endpoint, besides the whole; and what goes keeps its
    /// connections while one of these that it is of has no other.
    pub fn never_empty(&mut self, subsets: Vec<Backends>) {
        self.never_empty = subsets;
    }

    /// A probe of the endpoint with this id ended.
    pub fn probed(&mut self, id: u64, outcome: Outcome, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        let Some(member) = self.members.iter_mut().find(|member| member.endpoint().id() == id) else { return changes };
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
        // Nearly always: all others need not be looked at then.
        if !changes.is_empty() {
            self.settle(now, &mut changes);
        }
        changes
    }

    /// A probe of the endpoint with this id could not be made. Answers whether nobody is to wait for it any more.
    pub fn could_not_probe(&mut self, id: u64) -> bool {
        let Some(member) = self.members.iter_mut().find(|member| member.endpoint().id() == id) else { return false };
        let was_awaited = member.health.awaited();
        member.health.could_not_ask();
        member.endpoint().stand(member.standing());
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

    /// What is asked of the endpoint with this id.
    pub fn check(&self, id: u64) -> Option<Arc<ActiveCheck>> {
        self.members.iter().find(|member| member.endpoint().id() == id)?.check()
    }

    /// Whether the endpoint with this id passes its check.
    pub fn is_healthy(&self, id: u64) -> bool {
        let member = self.members.iter().find(|member| member.endpoint().id() == id);
        member.is_none_or(|member| member.health.healthy())
    }

    /// Those that start slowly have less weight.
    pub fn candidates(&self, now: Instant) -> Vec<Candidate> {
        let percents: Vec<_> = self.slow_starts().map(|slow| slow?.percent(now)).collect();
        let anybody_starts = percents.iter().any(Option::is_some);
        let weighted = |(member, percent): (&Member, Option<u32>)| {
            let percent = percent.unwrap_or(100);
            member.endpoint().note_share(percent);
            let mut candidate = member.candidate.clone();
            if anybody_starts {
                candidate.weight = candidate.weight.times(percent);
            }
            candidate
        };
        self.members.iter().zip(percents).map(weighted).collect()
    }

    /// When candidates will have other weights although nothing has happened.
    pub fn next_step(&self, now: Instant) -> Option<Instant> {
        self.slow_starts().filter_map(|slow| slow?.next_step(now)).min()
    }

    fn slow_starts(&self) -> impl Iterator<Item = Option<SlowStart>> {
        self.members.iter().map(|member| member.slow_start.filter(|_| self.slow_start.is_some()))
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
            self.return_too_many(&check, now, changes);
            for subset in self.subsets() {
                if !self.members.iter().any(|member| member.usable() && member.is_of(&subset)) {
                    let healthy = |member: &Member| member.health.healthy() && member.is_of(&subset);
                    self.next_to_return(healthy, "no other endpoint is usable", now, changes);
                }
            }
            self.eject_failing(&check, now, changes);
            // Less of a group may be ejected once another has no usable endpoint left.
            self.return_too_many(&check, now, changes);
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
            member.endpoint().stand(member.standing());
        }
    }

    fn return_too_many(&mut self, check: &PassiveCheck, now: Instant, changes: &mut Vec<Change>) {
        // The lower ones first: if some of these return, all of the others may be ejected.
        let groups: BTreeSet<Priority> = self.members.iter().map(Member::priority).collect();
        for group in groups {
            while self.ejected(group) > self.most_ejected(check, group) {
                let of_group = |member: &Member| member.priority() == group;
                self.next_to_return(of_group, "too large a share is ejected", now, changes);
            }
        }
    }

    fn eject_failing(&mut self, check: &PassiveCheck, now: Instant, changes: &mut Vec<Change>) {
        let threshold = check.consecutive_failures.get().into();
        for index in 0..self.members.len() {
            let member = &self.members[index];
            let (failures, group) = (member.failures(), member.priority());
            let may_go = || self.ejected(group) < self.most_ejected(check, group) && !self.is_last(index);
            if failures >= threshold && member.usable() && may_go() {
                let member = &mut self.members[index];
                let length = member.outlier.eject(check, now);
                member.endpoint().count_ejection();
                let last = member.endpoint().state().last_failure;
                let reason = last.map_or_else(String::new, |failure| failure.reason.clone());
                changes.push(member.change(Event::Ejected { length, failures, reason }));
            }
        }
    }

    fn subsets(&self) -> Vec<Backends> {
        [Backends::All].into_iter().chain(self.never_empty.iter().cloned()).collect()
    }

    /// Whether some subset would have no usable endpoint without this one.
    fn is_last(&self, index: usize) -> bool {
        let others = || self.members.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, member)| member);
        let mut of_its_own = self.subsets().into_iter().filter(|subset| self.members[index].is_of(subset));
        of_its_own.any(|subset| !others().any(|other| other.usable() && other.is_of(&subset)))
    }

    /// Ends, of the ejections of some members, the one that would end first.
    fn next_to_return(
        &mut self,
        of: impl Fn(&Member) -> bool,
        reason: &'static str,
        now: Instant,
        changes: &mut Vec<Change>,
    ) {
        let ejected = self.members.iter_mut().filter(|member| member.outlier.ejected_until().is_some() && of(member));
        if let Some(member) = ejected.min_by_key(|member| member.outlier.ejected_until()) {
            member.end_ejection(reason, now, changes);
        }
    }

    fn ejected(&self, group: Priority) -> usize {
        let of_group = self.members.iter().filter(|member| member.priority() == group);
        of_group.filter(|member| member.outlier.ejected_until().is_some()).count()
    }

    /// How many of a group may be ejected: all, while another group can serve instead.
    fn most_ejected(&self, check: &PassiveCheck, group: Priority) -> usize {
        let of_group = self.members.iter().filter(|member| member.priority() == group).count();
        let others_serve = self.members.iter().any(|member| member.priority() != group && member.usable());
        if others_serve { of_group } else { most_ejected(check, of_group) }
    }
}

impl Member {
    fn new(endpoint: Arc<Endpoint>, wanted: &model::Endpoint, backend: &model::Backend) -> Self {
        let candidate = Candidate {
            endpoint,
            stable_id: wanted.stable_id.to_string().into(),
            weight: wanted.weight,
            distance: wanted.distance,
        };
        let health = Health::of_new(backend.active_check.as_deref());
        Self {
            candidate,
            health,
            outlier: Outlier::default(),
            was_usable: false,
            begins_with_others: false,
            slow_start: None,
        }
    }

    fn configured(mut self, wanted: &model::Endpoint, backend: &model::Backend) -> Self {
        if let Some(check) = backend.active_check.as_deref() {
            self.health.check_changes(self.check().as_deref(), check);
        }
        self.candidate.stable_id = wanted.stable_id.to_string().into();
        self.candidate.weight = wanted.weight;
        self.candidate.distance = wanted.distance;
        self
    }

    fn endpoint(&self) -> &Arc<Endpoint> {
        &self.candidate.endpoint
    }

    fn check(&self) -> Option<Arc<ActiveCheck>> {
        self.endpoint().backend().active_check.clone()
    }

    fn priority(&self) -> Priority {
        self.endpoint().backend().priority
    }

    fn is_last_resort(&self) -> bool {
        self.endpoint().backend().last_resort
    }

    fn is_of(&self, subset: &Backends) -> bool {
        subset.have(self.endpoint().key())
    }

    fn standing(&self) -> Standing {
        Standing {
            healthy: self.health.healthy(),
            awaited: self.health.awaited(),
            ejected_until: self.outlier.ejected_until(),
        }
    }

    fn usable(&self) -> bool {
        self.standing().usable()
    }

    /// Failures in a row since it became usable.
    fn failures(&self) -> u32 {
        // One that is about to come back still shows the failures from before.
        if self.endpoint().usable() { self.endpoint().consecutive_failures() } else { 0 }
    }

    fn end_ejection(&mut self, reason: &'static str, now: Instant, changes: &mut Vec<Change>) {
        if self.outlier.ejected_until().is_some() {
            self.outlier.end(now);
            changes.push(self.change(Event::Returned { reason }));
        }
    }

    fn change(&self, event: Event) -> Change {
        Change { endpoint: self.endpoint().clone(), event }
    }
}

#[cfg(test)]
mod tests;
