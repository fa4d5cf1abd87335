//! Planning of changes to Services. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{api::core::v1::Service, apimachinery::pkg::apis::meta::v1::OwnerReference};
use tokio::time::Instant;

use super::{ExposedLoadBalancer, exposure_differs, is_up_to_date, must_be_replaced, wanted};
use crate::{
    api::TcpLoadBalancerSpec,
    controller::{Replicas, Settings, allocations::Claim, observed::Observed},
    model::{ListenerOutcome, ObjectKey},
    translate::{Part, Reason, Verdict},
    world::{Allocations, ObjectIdentity, managed_service::ManagedService},
};

/// The time for which a new port waits for replicas that have not bound it.
const NEW_PORT_TIMEOUT: Duration = Duration::from_secs(5);

/// A load balancer of the class and placement that is led.
pub struct ManagedLoadBalancer<'a> {
    pub key: &'a ObjectKey,
    pub identity: &'a ObjectIdentity,
    /// `None`: it cannot be read.
    pub spec: Option<&'a Arc<TcpLoadBalancerSpec>>,
    pub verdict: &'a Verdict,
}

/// The load balancers that are led.
pub fn objects<'a>(observed: &'a Observed, settings: &Settings) -> Vec<ManagedLoadBalancer<'a>> {
    let object = |(key, declared): (&'a ObjectKey, &'a crate::world::Declared)| {
        let spec = declared.spec.as_ref();
        let verdict = observed.verdicts.get(key)?;
        spec.is_none_or(|spec| is_ours(spec, settings)).then_some(ManagedLoadBalancer {
            key,
            identity: declared.identity.as_ref()?,
            spec,
            verdict,
        })
    };
    observed.world.load_balancers.iter().filter_map(object).collect()
}

fn is_ours(spec: &TcpLoadBalancerSpec, settings: &Settings) -> bool {
    settings.leads(spec.class(), spec.placement.unwrap_or_default())
}

impl ManagedLoadBalancer<'_> {
    /// The ports that the load balancer needs.
    pub fn claim(&self) -> Claim {
        let declared = self.spec.map_or(&[][..], |spec| &spec.listeners);
        let barred = declared.iter().enumerate().filter(|(index, _)| self.exceeds_quota(*index));
        Claim {
            uid: self.identity.uid.clone(),
            object: self.key.to_string().into(),
            created: self.identity.created,
            listeners: self.spec.map(|_| declared.iter().map(|listener| listener.port).collect()),
            barred: barred.map(|(_, listener)| listener.port).collect(),
        }
    }

    /// True if a listener exceeds the administrator's quota: it must not use up the ports of other load balancers.
    fn exceeds_quota(&self, index: usize) -> bool {
        let mut not_permitted = self.verdict.refused().filter(|problem| problem.reason == Reason::NotPermitted);
        not_permitted.any(|problem| [Part::Object, Part::WholeListener(index)].contains(&problem.part))
    }
}

/// The present state.
pub struct PlanInput<'a> {
    pub objects: &'a [ManagedLoadBalancer<'a>],
    pub managed: &'a BTreeMap<ObjectKey, ManagedService<'a>>,
    pub replicas: &'a Replicas,
    /// The stored allocations.
    pub allocations: &'a Allocations,
    /// The load balancers that were looked up and no longer have these uids, each with the object that has its name
    /// now.
    pub gone: &'a BTreeMap<(ObjectKey, Arc<str>), Replacement>,
    /// The owners of Services.
    pub owners: &'a [OwnerReference],
    pub settings: &'a Settings,
    pub now: Instant,
}

/// The object that has the name of a load balancer that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replacement {
    Absent,
    Another,
}

/// The time since which each new port has been waiting for replicas, by uid, listener and proxy port.
pub type WaitingPorts = BTreeMap<(Arc<str>, u16, u16), Instant>;

/// The state that is kept between plans.
#[derive(Default)]
pub struct PlanMemory {
    waiting: WaitingPorts,
    /// The Services that were last found to be up to date.
    up_to_date: BTreeMap<ObjectKey, ComparedService>,
}

/// A Service that was found to be up to date, and everything that this result depends on.
struct ComparedService {
    service: Arc<Service>,
    spec: Arc<TcpLoadBalancerSpec>,
    uid: Arc<str>,
    ports: BTreeMap<u16, u16>,
    owners: Vec<OwnerReference>,
}

impl ComparedService {
    fn of(
        object: &ManagedLoadBalancer,
        managed: &ManagedService,
        ports: BTreeMap<u16, u16>,
        owners: &[OwnerReference],
    ) -> Option<Self> {
        let (service, spec, uid) = (managed.service.clone(), object.spec?.clone(), object.identity.uid.clone());
        Some(Self { service, spec, uid, ports, owners: owners.to_vec() })
    }

    /// True if a comparison would have the same result.
    fn applies(
        &self,
        object: &ManagedLoadBalancer,
        managed: &ManagedService,
        ports: &BTreeMap<u16, u16>,
        owners: &[OwnerReference],
    ) -> bool {
        Arc::ptr_eq(&self.service, managed.service)
            && object.spec.is_some_and(|spec| Arc::ptr_eq(&self.spec, spec))
            && self.uid == object.identity.uid
            && self.ports == *ports
            && self.owners == owners
    }
}

/// The changes to Services.
#[derive(Debug, Default, PartialEq)]
pub struct ServicePlan {
    pub apply: BTreeMap<ObjectKey, Service>,
    pub remove: BTreeSet<ObjectKey>,
    /// The time at which to plan again without a change.
    pub wake: Option<Instant>,
}

/// Plans the changes to Services.
pub fn plan(input: &PlanInput, memory: &mut PlanMemory) -> ServicePlan {
    let mut plan = ServicePlan::default();
    let PlanMemory { waiting, up_to_date } = memory;
    let mut gate = PortGate::new(input, waiting);
    up_to_date.retain(|object, _| input.managed.contains_key(object));
    for object in input.objects {
        let managed = input.managed.get(object.key);
        match service(object, managed, input, &mut gate, up_to_date) {
            ServiceAction::Nothing => {}
            ServiceAction::Apply(service) => {
                plan.apply.insert(object.key.clone(), *service);
            }
            ServiceAction::Remove => {
                plan.remove.insert(object.key.clone());
            }
        }
    }
    plan.wake = gate.finish();
    let present: BTreeSet<&ObjectKey> = input.objects.iter().map(|object| object.key).collect();
    let orphans = input.managed.iter().filter(|(key, managed)| !present.contains(key) && !managed.is_leaving());
    let abandoned = orphans.filter(|(key, managed)| replacement(input, key, managed.uid) == Some(Replacement::Absent));
    plan.remove.extend(abandoned.map(|(key, _)| key.clone()));
    plan
}

fn replacement(input: &PlanInput, key: &ObjectKey, uid: &str) -> Option<Replacement> {
    input.gone.get(&(key.clone(), uid.into())).copied()
}

enum ServiceAction {
    Nothing,
    Apply(Box<Service>),
    Remove,
}

fn service(
    object: &ManagedLoadBalancer,
    managed: Option<&ManagedService>,
    input: &PlanInput,
    gate: &mut PortGate,
    up_to_date: &mut BTreeMap<ObjectKey, ComparedService>,
) -> ServiceAction {
    let Some(spec) = object.spec else { return ServiceAction::Nothing };
    let uid = &object.identity.uid;
    if object.verdict.refuses_service() {
        // The Service keeps its previous state, unless it was created for a predecessor of the object.
        let inherited = managed.is_some_and(|managed| *managed.uid != **uid && !managed.is_leaving());
        let known = managed.is_some_and(|managed| replacement(input, object.key, managed.uid).is_some());
        return if inherited && known { ServiceAction::Remove } else { ServiceAction::Nothing };
    }
    let there = managed.map(ManagedService::ports).unwrap_or_default();
    let ports = gate.ports(uid, spec, &there);
    // A Service that is being deleted is created again once it is gone. A Service needs at least one port.
    if ports.is_empty() || managed.is_some_and(ManagedService::is_leaving) {
        return ServiceAction::Nothing;
    }
    let compared = managed.zip(up_to_date.get(object.key));
    if compared.is_some_and(|(managed, compared)| compared.applies(object, managed, &ports, input.owners)) {
        return ServiceAction::Nothing;
    }
    let load_balancer = ExposedLoadBalancer { key: object.key, uid, spec };
    let wanted = wanted(&load_balancer, &ports, input.owners, input.settings);
    match managed {
        Some(managed) if is_up_to_date(managed.service, &wanted) => {
            let compared = ComparedService::of(object, managed, ports, input.owners);
            up_to_date.extend(compared.map(|compared| (object.key.clone(), compared)));
            ServiceAction::Nothing
        }
        Some(managed) if exposure_differs(managed.service, &wanted) && object.verdict.refuses_rules_about_clients() => {
            ServiceAction::Nothing
        }
        Some(managed) if must_be_replaced(managed.service, &wanted) => ServiceAction::Remove,
        _ => ServiceAction::Apply(Box::new(wanted)),
    }
}

/// Admits ports into Services.
struct PortGate<'a> {
    allocated: BTreeMap<(&'a str, u16), u16>,
    replicas: &'a Replicas,
    waiting: &'a mut WaitingPorts,
    still: WaitingPorts,
    now: Instant,
}

impl<'a> PortGate<'a> {
    fn new(input: &PlanInput<'a>, waiting: &'a mut WaitingPorts) -> Self {
        let allocated = input.allocations.by_listener();
        Self { allocated, replicas: input.replicas, waiting, still: WaitingPorts::new(), now: input.now }
    }

    /// The ports of the Service. Present ports stay while they are declared.
    fn ports(&mut self, uid: &Arc<str>, spec: &TcpLoadBalancerSpec, there: &BTreeMap<u16, u16>) -> BTreeMap<u16, u16> {
        let mut ports = BTreeMap::new();
        for listener in spec.listeners.iter().map(|listener| listener.port) {
            let Some(&port) = self.allocated.get(&(&**uid, listener)) else { continue };
            if there.contains_key(&listener) || self.is_open(uid, listener, port) {
                ports.insert(listener, port);
            }
        }
        ports
    }

    fn is_open(&mut self, uid: &Arc<str>, listener: u16, port: u16) -> bool {
        let bound = self.replicas.values().filter(|replica| {
            let served = replica.report.as_ref().and_then(|report| report.load_balancers.get(&**uid));
            let outcome = served.and_then(|served| served.listeners.get(&listener));
            outcome == Some(&ListenerOutcome::Bound(port))
        });
        let bound = bound.count();
        if bound > 0 && bound == self.replicas.len() {
            return true;
        }
        let key = (uid.clone(), listener, port);
        let since = *self.waiting.get(&key).unwrap_or(&self.now);
        self.still.insert(key, since);
        bound > 0 && self.now >= since + NEW_PORT_TIMEOUT
    }

    /// Stores the ports that wait. Returns the time at which the next one is admitted.
    fn finish(self) -> Option<Instant> {
        let next = self.still.values().map(|since| *since + NEW_PORT_TIMEOUT).filter(|end| *end > self.now).min();
        *self.waiting = self.still;
        next
    }
}

#[cfg(test)]
mod tests;
