//! The Services that the leader manages: their owners, and the proxy ports that they lead to. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::{api::core::v1::Service, apimachinery::pkg::util::intstr::IntOrString};
use xxhash_rust::xxh3::xxh3_64;

use super::objects::Objects;
use crate::model::ObjectKey;

pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
pub const OURS: &str = "tcplb";
pub const CLASS: &str = "tcplb.io/class";
pub const OWNER: &str = "tcplb.io/owner";
pub const UID: &str = "tcplb.io/uid";

/// The maximum length of the name of a Service.
const MAX_NAME: usize = 63;

/// The name of the managed Service of a load balancer.
pub fn name(object: &ObjectKey) -> String {
    let hash = format!("{:016x}", xxh3_64(object.to_string().as_bytes()));
    let room = MAX_NAME - OURS.len() - hash.len() - 2;
    let name = object.name.get(..room).unwrap_or(&object.name).replace('.', "-");
    format!("{OURS}-{}-{hash}", name.trim_matches('-'))
}

/// The managed Service of a load balancer.
#[derive(Clone, Copy, Debug)]
pub struct ManagedService<'a> {
    pub service: &'a Arc<Service>,
    pub uid: &'a str,
}

/// A listener whose clients connect through a managed Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceTarget {
    /// The load balancer's uid.
    pub uid: Arc<str>,
    /// `namespace/name`.
    pub object: Arc<str>,
    /// The port that clients connect to.
    pub listener: u16,
}

/// The target listeners of each proxy port. There are several only after a mistake.
pub type Targets = BTreeMap<u16, BTreeSet<ServiceTarget>>;

/// The Services of a namespace that controllers of a class manage, by load balancer.
pub fn of_class<'a>(
    services: &'a Objects<Service>,
    namespace: &str,
    class: &str,
) -> BTreeMap<ObjectKey, ManagedService<'a>> {
    of_namespace(services, namespace).filter_map(|service| ManagedService::read(service, class)).collect()
}

/// The Service in a namespace that controllers of a class manage for a load balancer.
pub fn of_load_balancer<'a>(
    services: &'a Objects<Service>,
    namespace: &str,
    class: &str,
    object: &ObjectKey,
) -> Option<ManagedService<'a>> {
    let service = services.get(&ObjectKey::new(namespace, &name(object)))?;
    ManagedService::read(service, class).filter(|(owner, _)| owner == object).map(|(_, managed)| managed)
}

pub fn of_namespace<'a>(services: &'a Objects<Service>, namespace: &str) -> impl Iterator<Item = &'a Arc<Service>> {
    let first = ObjectKey::new(namespace, "");
    services.range(first..).take_while(move |(key, _)| *key.namespace == *namespace).map(|(_, service)| &**service)
}

/// True if a controller of any class manages the Service.
pub fn is_ours(service: &Service) -> bool {
    let labels = service.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|manager| manager == OURS)
}

/// The owners of proxy ports according to Services.
pub fn targets(managed: &BTreeMap<ObjectKey, ManagedService>) -> Targets {
    let mut targets = Targets::new();
    for (object, managed) in managed {
        let (uid, object): (Arc<str>, Arc<str>) = (managed.uid.into(), object.to_string().into());
        for (listener, port) in managed.ports() {
            let target = ServiceTarget { uid: uid.clone(), object: object.clone(), listener };
            targets.entry(port).or_default().insert(target);
        }
    }
    targets
}

/// The target ports of a Service, by its own ports.
pub fn ports(service: &Service) -> BTreeMap<u16, u16> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let numbers = ports.filter_map(|port| match &port.target_port {
        Some(IntOrString::Int(target)) => Some((port.port.try_into().ok()?, (*target).try_into().ok()?)),
        // Without a target port, it is the same number.
        None => Some((port.port.try_into().ok()?, port.port.try_into().ok()?)),
        Some(IntOrString::String(_)) => None,
    });
    numbers.collect()
}

impl<'a> ManagedService<'a> {
    /// Reads the owner of a Service. `None`: controllers of this class do not manage it.
    pub fn read(service: &'a Arc<Service>, class: &str) -> Option<(ObjectKey, Self)> {
        let metadata = &service.metadata;
        let of_class =
            metadata.labels.as_ref().and_then(|labels| labels.get(CLASS)).is_some_and(|label| label == class);
        let annotation = |key: &str| metadata.annotations.as_ref()?.get(key).map(String::as_str);
        if !is_ours(service) || !of_class {
            return None;
        }
        let (namespace, object) = annotation(OWNER)?.split_once('/')?;
        let owner = ObjectKey::new(namespace, object);
        let is_its_own = metadata.name.as_deref() == Some(&*name(&owner));
        is_its_own.then_some((owner, Self { service, uid: annotation(UID).unwrap_or_default() }))
    }

    pub fn is_leaving(&self) -> bool {
        self.service.metadata.deletion_timestamp.is_some()
    }

    /// The proxy ports, by the ports that clients connect to.
    pub fn ports(&self) -> BTreeMap<u16, u16> {
        ports(self.service)
    }
}
