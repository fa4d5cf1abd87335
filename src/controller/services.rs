//! The Services that are kept: one for each load balancer, in the controller's own namespace. Pure.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::{
        apis::meta::v1::{ObjectMeta, OwnerReference},
        util::intstr::IntOrString,
    },
};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::Settings;
use crate::{
    api::{ExternalTrafficPolicy, IpFamilyPolicy, Listener, ServiceTemplate, ServiceType, TcpLoadBalancerSpec},
    model::ObjectKey,
    source::World,
};

const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const OURS: &str = "tcplb";
const CLASS: &str = "tcplb.io/class";
const NAMESPACE: &str = "tcplb.io/namespace";
const NAME: &str = "tcplb.io/name";
const OWNER: &str = "tcplb.io/owner";
const UID: &str = "tcplb.io/uid";
/// A hash of all that was written, by which it is seen that something of it is wanted no more.
const APPLIED: &str = "tcplb.io/applied";

/// The longest name that a Service can have, and the longest value of a label.
const LONGEST: usize = 63;

/// The name of the Service that is kept for a load balancer.
pub fn name(object: &ObjectKey) -> String {
    let hash = format!("{:016x}", xxh3_64(object.to_string().as_bytes()));
    let room = LONGEST - OURS.len() - hash.len() - 2;
    let name = cut(&object.name, room).replace('.', "-");
    format!("{OURS}-{}-{hash}", name.trim_matches('-'))
}

fn cut(text: &str, room: usize) -> &str {
    text.get(..room).unwrap_or(text)
}

/// A Service in the cluster that is kept for a load balancer, there or not.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    pub service: &'a Service,
    pub uid: &'a str,
}

/// The Services of ours in the cluster, by the load balancer that each is kept for.
pub fn kept<'a>(world: &'a World, settings: &Settings) -> BTreeMap<ObjectKey, Kept<'a>> {
    let first = ObjectKey::new(&settings.namespace, "");
    let in_our_namespace = world.services.range(first..).take_while(|(key, _)| *key.namespace == *settings.namespace);
    in_our_namespace.filter_map(|(_, service)| Kept::read(service, settings)).collect()
}

impl<'a> Kept<'a> {
    fn read(service: &'a Service, settings: &Settings) -> Option<(ObjectKey, Self)> {
        let metadata = &service.metadata;
        let label = |key: &str| metadata.labels.as_ref()?.get(key).map(String::as_str);
        let annotation = |key: &str| metadata.annotations.as_ref()?.get(key).map(String::as_str);
        if label(MANAGED_BY) != Some(OURS) || label(CLASS) != Some(&*settings.class) {
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

    /// The proxies' ports that it sends connections to, by the ports that clients connect to.
    pub fn ports(&self) -> BTreeMap<u16, u16> {
        let ports = self.service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let numbers = ports.filter_map(|port| match &port.target_port {
            Some(IntOrString::Int(target)) => Some((port.port.try_into().ok()?, (*target).try_into().ok()?)),
            // What does not say is sent to the port of the same number.
            None => Some((port.port.try_into().ok()?, port.port.try_into().ok()?)),
            Some(IntOrString::String(_)) => None,
        });
        numbers.collect()
    }

    /// How clients reach it, which decides what proxies see of them.
    fn exposure(&self) -> (Option<&'a str>, Option<&'a str>) {
        exposure(self.service)
    }

    /// Whether other clients would reach `wanted` than reach this one.
    pub fn is_reached_otherwise_than(&self, wanted: &Service) -> bool {
        self.exposure() != exposure(wanted)
    }

    /// Whether it differs from `wanted` in something that Kubernetes never changes.
    pub fn has_to_be_replaced_by(&self, wanted: &Service) -> bool {
        let class = |service: &'a Service| service.spec.as_ref()?.load_balancer_class.as_deref();
        let wanted_class = wanted.spec.as_ref().and_then(|spec| spec.load_balancer_class.as_deref());
        let stays_load_balancer = exposure(wanted).0 == Some("LoadBalancer") && self.exposure().0 == exposure(wanted).0;
        stays_load_balancer && class(self.service) != wanted_class
    }

    /// Whether all that is wanted is there, and nothing that once was.
    pub fn is_as(&self, wanted: &Service) -> bool {
        match (serde_json::to_value(wanted), serde_json::to_value(self.service)) {
            (Ok(wanted), Ok(there)) => covers(&there, &wanted),
            _ => false,
        }
    }
}

fn exposure(service: &Service) -> (Option<&str>, Option<&str>) {
    let spec = service.spec.as_ref();
    (spec.and_then(|spec| spec.type_.as_deref()), spec.and_then(|spec| spec.external_traffic_policy.as_deref()))
}

/// Whether `there` has everything that `wanted` has; of lists, in any order and among others.
fn covers(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| there.get(key).is_some_and(|there| covers(there, wanted)))
        }
        (Value::Array(there), Value::Array(wanted)) => {
            wanted.iter().all(|wanted| there.iter().any(|there| covers(there, wanted)))
        }
        _ => there == wanted,
    }
}

/// The Service of a load balancer.
pub fn wanted(
    object: &ObjectKey,
    uid: &str,
    spec: &TcpLoadBalancerSpec,
    ports: &BTreeMap<u16, u16>,
    owner: Option<&OwnerReference>,
    settings: &Settings,
) -> Service {
    let template = spec.service.clone().unwrap_or_default();
    let mut labels = template.labels.clone();
    labels.extend(
        [
            (MANAGED_BY, OURS),
            (CLASS, &*settings.class),
            (NAMESPACE, &*object.namespace),
            (NAME, cut(&object.name, LONGEST).trim_end_matches(['.', '-'])),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    let mut annotations = template.annotations.clone();
    annotations.extend([(OWNER.to_owned(), object.to_string()), (UID.to_owned(), uid.to_owned())]);
    annotations.remove(APPLIED);
    let mut service = Service {
        metadata: ObjectMeta {
            name: Some(name(object)),
            namespace: Some(settings.namespace.clone()),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: owner.map(|owner| vec![owner.clone()]),
            ..ObjectMeta::default()
        },
        spec: Some(service_spec(spec, &template, ports, settings)),
        status: None,
    };
    // Maps and structs of strings and numbers: nothing in it can fail to be JSON.
    let hash = xxh3_64(&serde_json::to_vec(&service).unwrap_or_default());
    service.metadata.annotations.get_or_insert_default().insert(APPLIED.to_owned(), format!("{hash:016x}"));
    service
}

fn service_spec(
    spec: &TcpLoadBalancerSpec,
    template: &ServiceTemplate,
    ports: &BTreeMap<u16, u16>,
    settings: &Settings,
) -> ServiceSpec {
    let type_ = template.type_;
    let mut listeners: BTreeMap<u16, &Listener> = BTreeMap::new();
    for listener in &spec.listeners {
        listeners.entry(listener.port).or_insert(listener);
    }
    let port = |(port, target): (&u16, &u16)| {
        let listener = listeners.get(port)?;
        let node_port = listener.node_port.filter(|_| type_ != ServiceType::ClusterIp);
        Some(ServicePort {
            name: Some(listener.name.as_ref().map_or_else(|| format!("tcp-{port}"), |name| name.0.clone())),
            port: (*port).into(),
            protocol: Some("TCP".into()),
            target_port: Some(IntOrString::Int((*target).into())),
            node_port: node_port.map(Into::into),
            ..ServicePort::default()
        })
    };
    let policy = template.external_traffic_policy.map_or(
        // The health-check port of a LoadBalancer keeps clients away from nodes without a proxy; NodePorts have none.
        if type_ == ServiceType::LoadBalancer { "Local" } else { "Cluster" },
        |policy| match policy {
            ExternalTrafficPolicy::Cluster => "Cluster",
            ExternalTrafficPolicy::Local => "Local",
        },
    );
    let families = match template.ip_family_policy.unwrap_or(IpFamilyPolicy::SingleStack) {
        IpFamilyPolicy::SingleStack => "SingleStack",
        IpFamilyPolicy::PreferDualStack => "PreferDualStack",
        IpFamilyPolicy::RequireDualStack => "RequireDualStack",
    };
    ServiceSpec {
        type_: Some(type_.as_str().into()),
        selector: Some(settings.selector.clone()),
        ports: Some(ports.iter().filter_map(port).collect()),
        external_traffic_policy: (type_ != ServiceType::ClusterIp).then(|| policy.into()),
        load_balancer_class: template.load_balancer_class.clone().filter(|_| type_ == ServiceType::LoadBalancer),
        ip_family_policy: Some(families.into()),
        ..ServiceSpec::default()
    }
}

#[cfg(test)]
mod tests;
