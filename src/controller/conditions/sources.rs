//! The sources of statuses, and their changes.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::{api::core::v1::Service, apimachinery::pkg::apis::meta::v1::Condition};

use super::super::{
    observed::{Observed, ProvisioningProblems},
    replicas::{Replicas, changed_parts},
    settings::Settings,
};
use crate::{
    api::TcpLoadBalancerStatus,
    model::ObjectKey,
    shared::{SharedObject, changes},
    world::{Declared, managed_service::ManagedService},
};

/// The state from which all statuses are derived.
#[derive(Clone, Default)]
pub struct StatusSources {
    pub observed: Observed,
    pub replicas: Arc<Replicas>,
    /// The reasons why ports and Services are not as desired.
    pub problems: Arc<ProvisioningProblems>,
}

/// The uid of an object before and after a change.
type UidChange<'a> = (&'a ObjectKey, Option<Arc<str>>, Option<Arc<str>>);

impl StatusSources {
    /// The objects that were added, removed or replaced.
    pub fn changed_uids<'a>(&'a self, before: &'a Self) -> Vec<UidChange<'a>> {
        let uid = |declared: Option<&Declared>| Some(declared?.identity.as_ref()?.uid.clone());
        let load_balancers = changes(&before.observed.world.load_balancers, &self.observed.world.load_balancers);
        let uids = load_balancers.map(|(object, before, now)| (object, uid(before), uid(now)));
        uids.filter(|(_, before, now)| before != now).collect()
    }

    /// The uids of the load balancers whose reports have changed. `None`: the replicas have changed.
    pub fn changed_reports<'a>(&'a self, before: &'a Self) -> Option<BTreeSet<&'a str>> {
        changed_parts(&before.replicas, &self.replicas)
    }

    /// The objects whose sources, other than reports, have changed. `None`: all.
    pub fn changed_objects(&self, before: &Self, settings: &Settings) -> Option<BTreeSet<ObjectKey>> {
        let (old, new) = (&*before.observed.world, &*self.observed.world);
        let has_replicas_service = |world: &crate::world::World| world.services.contains_key(&settings.replicas);
        if has_replicas_service(old) != has_replicas_service(new) {
            return None;
        }
        let mut objects = BTreeSet::new();
        let declared = changes(&old.load_balancers, &new.load_balancers);
        objects.extend(declared.filter(|(_, old, new)| !is_same(*old, *new)).map(|(object, ..)| object.clone()));
        let verdicts = changes(&before.observed.verdicts, &self.observed.verdicts);
        objects.extend(verdicts.map(|(object, ..)| object.clone()));
        let services = changes(&old.services, &new.services);
        let services = services.filter(|(key, ..)| *key.namespace == *settings.namespace);
        objects.extend(services.flat_map(|(_, old, new)| [old, new]).filter_map(|service| owner(service?, settings)));
        objects.extend(changed_problems(&before.problems, &self.problems));
        Some(objects)
    }
}

/// True if the declarations differ in nothing that a status depends on.
fn is_same(before: Option<&Declared>, now: Option<&Declared>) -> bool {
    let (Some(before), Some(now)) = (before, now) else { return false };
    let is_same_object = before.spec == now.spec && before.identity == now.identity;
    is_same_object && have_same_conditions(before.status.as_ref(), now.status.as_ref())
}

/// True if the conditions are the same, apart from their messages. Desired conditions depend on the present ones: a
/// new fault is reported after a delay.
pub fn have_same_conditions(
    one: Option<&Arc<TcpLoadBalancerStatus>>,
    other: Option<&Arc<TcpLoadBalancerStatus>>,
) -> bool {
    fn conditions(status: Option<&Arc<TcpLoadBalancerStatus>>) -> impl Iterator<Item = impl PartialEq> {
        status.into_iter().flat_map(|status| &status.conditions).map(|condition| {
            let Condition { type_, status, reason, observed_generation, last_transition_time, .. } = condition;
            (type_, status, reason, observed_generation, last_transition_time)
        })
    }
    one.map(Arc::as_ptr) == other.map(Arc::as_ptr) || conditions(one).eq(conditions(other))
}

/// The load balancer of a managed Service.
fn owner(service: &SharedObject<Service>, settings: &Settings) -> Option<ObjectKey> {
    ManagedService::read(service, &settings.class).map(|(owner, _)| owner)
}

fn changed_problems(before: &Arc<ProvisioningProblems>, now: &Arc<ProvisioningProblems>) -> Vec<ObjectKey> {
    if Arc::ptr_eq(before, now) {
        return Vec::new();
    }
    let objects: BTreeSet<&ObjectKey> = before.keys().chain(now.keys()).collect();
    objects.into_iter().filter(|object| before.get(*object) != now.get(*object)).cloned().collect()
}
