use std::{collections::BTreeMap, mem, sync::Arc, time::Duration};

use tokio::{sync::Notify, time::Instant};

use super::{
    Backends,
    balance::Candidate,
    endpoint::{Endpoint, Standing},
    health::{Health, Transition},
    outlier::{Outlier, most_ejected},
    probe::Outcome,
};
use crate::model::{self, ActiveCheck, EndpointKey, PassiveCheck};

/// The endpoints of an upstream and which of them are usable: decisions only, no I/O.
///
/// After each call these hold: no more endpoints are ejected than the passive check allows, and while any endpoint is
/// healthy, one is usable; so it is with the endpoints of those backends that connections are balanced over by
/// themselves.
#[derive(Debug, Default)]
pub(super) struct Members {
    members: Vec<Member>,
    passive: Option<PassiveCheck>,
    never_empty: Vec<Backends>,
}

#[derive(Debug)]
struct Member {
    candidate: Candidate,
    health: Health,
    outlier: Outlier,
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
            let member = live
                .map_or_else(|| Member::new(endpoint, backend, keeper), |member| member.configured(endpoint, backend));
            member.endpoint().configure(backend, worrying);
            self.members.push(member);
        }
        self.passive = wanted.passive_check;

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

    /// From the next call on, ejections leave each of these subsets an endpoint, besides the whole.
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
        self.settle(now, &mut changes);
        changes
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

    /// Whether the endpoint with this id passes its check.
    pub fn is_healthy(&self, id: u64) -> bool {
        let member = self.members.iter().find(|member| member.endpoint().id() == id);
        member.is_none_or(|member| member.health.healthy())
    }

    pub fn candidates(&self) -> Vec<Candidate> {
        self.members.iter().map(|member| member.candidate.clone()).collect()
    }

    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.members.iter().map(Member::endpoint)
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
            let most = most_ejected(&check, self.members.len());
            while self.ejected() > most {
                self.next_to_return(|_| true, "too large a share is ejected", now, changes);
            }
            for subset in self.subsets() {
                if !self.members.iter().any(|member| member.usable() && member.is_of(&subset)) {
                    let healthy = |member: &Member| member.health.healthy() && member.is_of(&subset);
                    self.next_to_return(healthy, "no other endpoint is usable", now, changes);
                }
            }
            self.eject_failing(&check, most, now, changes);
        }
        for member in &self.members {
            member.endpoint().stand(member.standing());
        }
    }

    fn eject_failing(&mut self, check: &PassiveCheck, most: usize, now: Instant, changes: &mut Vec<Change>) {
        let mut room = most.saturating_sub(self.ejected());
        let threshold = check.consecutive_failures.get().into();
        for index in 0..self.members.len() {
            let failures = self.members[index].failures();
            if room > 0 && failures >= threshold && self.members[index].usable() && !self.is_last(index) {
                room -= 1;
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

    fn ejected(&self) -> usize {
        self.members.iter().filter(|member| member.outlier.ejected_until().is_some()).count()
    }
}

impl Member {
    fn new(wanted: &model::Endpoint, backend: &Arc<model::Backend>, keeper: &Arc<Notify>) -> Self {
        let candidate = Candidate {
            endpoint: Arc::new(Endpoint::new(wanted.key.clone(), backend.clone(), keeper.clone())),
            stable_id: wanted.stable_id.to_string().into(),
            weight: wanted.weight,
        };
        Self { candidate, health: Health::of_new(backend.active_check.as_deref()), outlier: Outlier::default() }
    }

    fn configured(mut self, wanted: &model::Endpoint, backend: &model::Backend) -> Self {
        if let Some(check) = backend.active_check.as_deref() {
            self.health.check_changes(self.check().as_deref(), check);
        }
        self.candidate.stable_id = wanted.stable_id.to_string().into();
        self.candidate.weight = wanted.weight;
        self
    }

    fn endpoint(&self) -> &Arc<Endpoint> {
        &self.candidate.endpoint
    }

    fn check(&self) -> Option<Arc<ActiveCheck>> {
        self.endpoint().backend().active_check.clone()
    }

    fn is_of(&self, subset: &Backends) -> bool {
        subset.have(self.endpoint().key())
    }

    fn standing(&self) -> Standing {
        Standing { healthy: self.health.healthy(), ejected_until: self.outlier.ejected_until() }
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
