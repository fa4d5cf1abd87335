//! The Services that the leader keeps, read: whose each is, and to which of the proxies' ports it leads. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::{api::core::v1::Service, apimachinery::pkg::util::intstr::IntOrString};
use xxhash_rust::xxh3::xxh3_64;

use crate::model::ObjectKey;

pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
pub const OURS: &str = "tcplb";
pub const CLASS: &str = "tcplb.io/class";
pub const OWNER: &str = "tcplb.io/owner";
pub const UID: &str = "tcplb.io/uid";

/// The longest name that a Service can have.
const LONGEST: usize = 63;

/// The name of the Service that is kept for a load balancer.
pub fn name(object: &ObjectKey) -> String {
    let hash = format!("{:016x}", xxh3_64(object.to_string().as_bytes()));
    let room = LONGEST - OURS.len() - hash.len() - 2;
    let name = object.name.get(..room).unwrap_or(&object.name).replace('.', "-");
    format!("{OURS}-{}-{hash}", name.trim_matches('-'))
}

/// A Service in the cluster that is kept for a load balancer, there or not.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    pub service: &'a Service,
    pub uid: &'a str,
}

/// Where a Service that is kept leads: who comes through it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The load balancer's uid.
    pub uid: Arc<str>,
    /// `namespace/name`.
    pub object: Arc<str>,
    /// The port that clients connect to.
    pub listener: u16,
}

/// Who is sent to each of the proxies' ports; several only if something is wrong.
pub type Targets = BTreeMap<u16, BTreeSet<Target>>;

/// The Services of a namespace that are kept by controllers of a class, by the load balancer that each is kept for.
pub fn kept<'a>(
    services: &'a BTreeMap<ObjectKey, Arc<Service>>,
    namespace: &str,
    class: &str,
) -> BTreeMap<ObjectKey, Kept<'a>> {
    of_namespace(services, namespace).filter_map(|service| Kept::read(service, class)).collect()
}

pub fn of_namespace<'a>(
    services: &'a BTreeMap<ObjectKey, Arc<Service>>,
    namespace: &str,
) -> impl Iterator<Item = &'a Service> {
    let first = ObjectKey::new(namespace, "");
    services.range(first..).take_while(move |(key, _)| *key.namespace == *namespace).map(|(_, service)| &**service)
}

/// Whether it is kept by a controller, of whichever class.
pub fn is_ours(service: &Service) -> bool {
    let labels = service.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|manager| manager == OURS)
}

/// To whom the proxies' ports belong as Services show it.
pub fn targets(kept: &BTreeMap<ObjectKey, Kept>) -> Targets {
    let mut targets = Targets::new();
    for (object, kept) in kept {
        let (uid, object): (Arc<str>, Arc<str>) = (kept.uid.into(), object.to_string().into());
        for (listener, port) in kept.ports() {
            let target = Target { uid: uid.clone(), object: object.clone(), listener };
            targets.entry(port).or_default().insert(target);
        }
    }
    targets
}

/// The ports of its pods that a Service leads to, by its own.
pub fn ports(service: &Service) -> BTreeMap<u16, u16> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let numbers = ports.filter_map(|port| match &port.target_port {
        Some(IntOrString::Int(target)) => Some((port.port.try_into().ok()?, (*target).try_into().ok()?)),
        // What does not say is sent to the port of the same number.
        None => Some((port.port.try_into().ok()?, port.port.try_into().ok()?)),
        Some(IntOrString::String(_)) => None,
    });
    numbers.collect()
}

impl<'a> Kept<'a> {
    fn read(service: &'a Service, class: &str) -> Option<(ObjectKey, Self)> {
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

    /// The proxies' ports that it leads to, by the ports that clients connect to.
    pub fn ports(&self) -> BTreeMap<u16, u16> {
        ports(self.service)
    }
}
