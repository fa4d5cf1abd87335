//! The status of each load balancer, from verdicts, reports and Services. Pure.

mod accepted;
mod addresses;
mod backends;
mod certificates;
mod client_address;
mod deferral;
mod finding;
mod input;
mod programmed;
mod ready;
mod reason;
mod sources;
mod steady;
#[cfg(test)]
mod tests;
mod types;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use imbl::OrdMap;
use jiff::Timestamp;

use self::{
    finding::Finding,
    input::StatusInput,
    reason::ConditionReason,
    types::{CERTIFICATES_VALID, RESOLVED_REFS},
};
pub use self::{
    reason::is_waiting,
    sources::{StatusSources, have_same_conditions},
    steady::{steady, with_times_of},
    types::{ACCEPTED, BACKENDS_HEALTHY, CLIENT_ADDRESS_PRESERVED, PROGRAMMED, is_summary},
};
use super::{due_times::DueTimes, settings::Settings};
use crate::{
    api::{Address, BackendStatus, ListenerStatus, Placement, Summary, TcpLoadBalancerStatus},
    model::ObjectKey,
    shared::SharedObject,
};

/// The statuses of load balancers by object.
pub type StatusMap = OrdMap<ObjectKey, SharedObject<TcpLoadBalancerStatus>>;

/// The status of each load balancer of the class, including those in sidecars, as if it were new, apart from the
/// transition times of its conditions: see [`fn@steady`].
///
/// An update derives only the statuses whose input has changed, and those that change at their time.
#[derive(Default)]
pub struct Statuses {
    statuses: StatusMap,
    /// The times at which statuses change although their input stays the same.
    changes: DueTimes<ObjectKey, Timestamp>,
    sources: StatusSources,
    by_uid: BTreeMap<Arc<str>, ObjectKey>,
    /// True if everything has to be derived again.
    is_stale: bool,
}

impl Statuses {
    pub fn all(&self) -> &StatusMap {
        &self.statuses
    }

    /// The time at which a status changes although its input stays the same.
    pub fn changes_at(&self) -> Option<Timestamp> {
        self.changes.first()
    }

    /// Makes the next update derive all statuses.
    pub fn invalidate(&mut self) {
        self.is_stale = true;
    }

    /// Updates the statuses. Returns the number of derived ones.
    pub fn update(&mut self, sources: StatusSources, settings: &Settings, now: Timestamp) -> usize {
        self.follow_uids(&sources);
        let changed = if mem::take(&mut self.is_stale) { None } else { self.changed(&sources, settings) };
        self.sources = sources;
        let objects = changed.unwrap_or_else(|| {
            let declared = self.sources.observed.world.load_balancers.keys();
            declared.chain(self.statuses.keys()).cloned().collect()
        });
        let due: Vec<ObjectKey> = self.changes.due(now).cloned().collect();
        let objects: BTreeSet<ObjectKey> = objects.into_iter().chain(due).collect();
        for object in &objects {
            self.derive(object, settings, now);
        }
        debug_assert!(self.is_complete(settings, now), "statuses differ from newly derived ones");
        objects.len()
    }

    /// Updates the objects by uid, and drops the statuses of replaced objects, whose transition times do not apply to
    /// their successors.
    fn follow_uids(&mut self, sources: &StatusSources) {
        let uids = sources.changed_uids(&self.sources);
        for (object, uid) in uids.iter().filter_map(|(object, before, _)| Some((object, before.as_ref()?))) {
            self.by_uid.remove(uid);
            self.statuses.remove(*object);
        }
        for (object, uid) in uids.iter().filter_map(|(object, _, now)| Some((object, now.as_ref()?))) {
            self.by_uid.insert(uid.clone(), (*object).clone());
        }
    }

    /// The objects whose input has changed. `None`: all.
    fn changed(&self, sources: &StatusSources, settings: &Settings) -> Option<BTreeSet<ObjectKey>> {
        let mut objects = sources.changed_objects(&self.sources, settings)?;
        let uids = sources.changed_reports(&self.sources)?;
        objects.extend(uids.into_iter().filter_map(|uid| self.by_uid.get(uid).cloned()));
        Some(objects)
    }

    fn derive(&mut self, object: &ObjectKey, settings: &Settings, now: Timestamp) {
        let (status, changes_at) = status_of(&self.sources, object, settings, now).unzip();
        self.changes.set(object, changes_at.flatten());
        let Some(status) = status else {
            self.statuses.remove(object);
            return;
        };
        let declared = self.sources.observed.world.load_balancers.get(object);
        let present = declared.and_then(|declared| declared.status.as_ref());
        let before = self.statuses.get(object).map(|before| &**before);
        let status = match before.or(present) {
            Some(earlier) => with_times_of(status, earlier),
            None => status,
        };
        // Most objects have their desired status, which then does not take memory twice.
        let known = present.into_iter().chain(before).find(|known| ***known == status);
        let status = known.cloned().unwrap_or_else(|| Arc::new(status));
        if before.is_none_or(|before| !Arc::ptr_eq(before, &status)) {
            self.statuses.insert(object.clone(), status.into());
        }
    }

    /// True if the statuses equal newly derived ones, apart from transition times.
    fn is_complete(&self, settings: &Settings, now: Timestamp) -> bool {
        let derived = |object| Some((object, status_of(&self.sources, object, settings, now)?.0));
        let derived = self.sources.observed.world.load_balancers.keys().filter_map(derived);
        let mut is_same = true;
        let count = derived.map(|(object, status)| {
            let kept = self.statuses.get(object);
            is_same &= kept.is_some_and(|kept| with_times_of(status, kept) == ***kept);
        });
        count.count() == self.statuses.len() && is_same
    }
}

/// The status of an object as if it were new, and the time at which it changes although its input stays the same.
/// `None`: it has no status.
fn status_of(
    sources: &StatusSources,
    object: &ObjectKey,
    settings: &Settings,
    now: Timestamp,
) -> Option<(TcpLoadBalancerStatus, Option<Timestamp>)> {
    StatusInput::new(object, sources, settings, now).map(|input| status(&input))
}

/// The status, and the time at which it changes although its input stays the same.
fn status(input: &StatusInput) -> (TcpLoadBalancerStatus, Option<Timestamp>) {
    let mut conditions = vec![(ACCEPTED, accepted::accepted(input)), (RESOLVED_REFS, accepted::resolved_refs(input))];
    let (mut addresses, mut listeners, mut backends) = (Vec::new(), Vec::new(), Vec::new());
    if input.placement() == Placement::Sidecar {
        conditions.push((PROGRAMMED, programmed::in_pods()));
    } else {
        addresses = addresses::addresses(input);
        backends = backends::backends(input);
        let found = programmed::listeners(input);
        conditions.push((PROGRAMMED, programmed::programmed(input, &found, &addresses)));
        conditions.push((BACKENDS_HEALTHY, backends::healthy(input, &backends)));
        conditions.extend(certificates::valid(input).map(|finding| (CERTIFICATES_VALID, finding)));
        conditions.push((CLIENT_ADDRESS_PRESERVED, client_address::preserved(input)));
        listeners = programmed::statuses(input, found);
    }
    let changes_at = conditions.iter().filter_map(|(_, finding)| finding.changes_at).min();
    let summary = summary(input, &conditions, &addresses, &listeners, &backends);
    conditions.splice(..0, ready::summarised(&conditions));
    let status = TcpLoadBalancerStatus {
        observed_generation: Some(input.identity.generation),
        summary: Some(summary),
        addresses,
        listeners,
        backends,
        conditions: conditions.into_iter().map(|(type_, finding)| finding.condition(type_, input)).collect(),
    };
    (status, changes_at)
}

/// The columns that `kubectl get` prints.
fn summary(
    input: &StatusInput,
    conditions: &[(&'static str, Finding)],
    addresses: &[Address],
    listeners: &[ListenerStatus],
    backends: &[BackendStatus],
) -> Summary {
    let with_node_port = |port: u16| {
        let node_port = listeners.iter().find(|listener| listener.port == port).and_then(|listener| listener.node_port);
        node_port.map_or_else(|| port.to_string(), |node_port| format!("{port}:{node_port}"))
    };
    let ports = input.ports().into_iter().map(with_node_port).collect::<Vec<_>>().join(",");
    let sum = |count: fn(&BackendStatus) -> u32| backends.iter().map(count).sum::<u32>();
    let ready = format!("{}/{}", sum(|backend| backend.healthy), sum(|backend| backend.endpoints));
    let in_sidecars = input.placement() == Placement::Sidecar;
    let good = if in_sidecars { ConditionReason::ServedInPods } else { ConditionReason::Programmed };
    Summary {
        ports: (!ports.is_empty()).then_some(ports),
        address: addresses.first().map(|address| address.value.clone()),
        ready: (!in_sidecars).then_some(ready),
        status: Some(ready::first_fault(conditions).map_or(good, |(_, fault)| fault.reason).as_str().to_owned()),
    }
}
