//! The managed Services: one for each load balancer, in the controller's own namespace. Pure.

pub mod plan;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

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
    world::{
        World,
        managed_service::{self, CLASS, MANAGED_BY, ManagedService, OURS, OWNER, UID, name},
    },
};

const NAMESPACE: &str = "tcplb.io/namespace";
const NAME: &str = "tcplb.io/name";
/// A hash of everything that was written. It shows that a field that was written is no longer desired.
const APPLIED: &str = "tcplb.io/applied";

/// The maximum length of a label value.
const LONGEST: usize = 63;

fn cut(text: &str, room: usize) -> &str {
    text.get(..room).unwrap_or(text)
}

/// The managed Services in the cluster, by load balancer.
pub fn managed<'a>(world: &'a World, settings: &Settings) -> BTreeMap<ObjectKey, ManagedService<'a>> {
    managed_service::of_class(&world.services, &settings.namespace, &settings.class)
}

/// The managed Service of a load balancer.
pub fn managed_service<'a>(world: &'a World, settings: &Settings, object: &ObjectKey) -> Option<ManagedService<'a>> {
    managed_service::of_load_balancer(&world.services, &settings.namespace, &settings.class, object)
}

/// The proxy ports that other Services send connections to, mainly those of other classes.
pub fn taken(world: &World, managed: &BTreeMap<ObjectKey, ManagedService>, settings: &Settings) -> BTreeSet<u16> {
    let ours: BTreeSet<_> = managed.values().map(|managed| &managed.service.metadata.name).collect();
    let selects_proxies = |service: &&Arc<Service>| {
        service.spec.as_ref().is_some_and(|spec| spec.selector.as_ref() == Some(&settings.selector))
    };
    managed_service::of_namespace(&world.services, &settings.namespace)
        .filter(|service| !ours.contains(&service.metadata.name) && selects_proxies(service))
        .flat_map(|service| managed_service::ports(service).into_values())
        .collect()
}

/// True if `wanted` is exposed to other clients than the present Service.
pub fn exposure_differs(there: &Service, wanted: &Service) -> bool {
    exposure(there) != exposure(wanted)
}

/// True if the present Service differs from `wanted` in a field that is immutable in Kubernetes.
pub fn must_be_replaced(there: &Service, wanted: &Service) -> bool {
    fn class(service: &Service) -> Option<&str> {
        service.spec.as_ref()?.load_balancer_class.as_deref()
    }
    let stays_load_balancer = exposure(wanted).0 == Some("LoadBalancer") && exposure(there).0 == exposure(wanted).0;
    stays_load_balancer && class(there) != class(wanted)
}

/// True if the present Service has all desired fields, and none that was applied before and is no longer desired.
pub fn is_up_to_date(there: &Service, wanted: &Service) -> bool {
    match (serde_json::to_value(wanted), serde_json::to_value(there)) {
        (Ok(wanted), Ok(there)) => covers(&there, &wanted),
        _ => false,
    }
}

/// The Service type and the traffic policy, which determine the client addresses that the proxies see.
fn exposure(service: &Service) -> (Option<&str>, Option<&str>) {
    let spec = service.spec.as_ref();
    (spec.and_then(|spec| spec.type_.as_deref()), spec.and_then(|spec| spec.external_traffic_policy.as_deref()))
}

/// True if `there` contains `wanted`; list items in any order, possibly among others. The API server omits empty lists
/// and `false`. Selectors must be equal.
fn covers(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => wanted.iter().all(|(key, wanted)| match there.get(key) {
            Some(there) if key == "selector" => there == wanted,
            Some(there) => covers(there, wanted),
            None => *wanted == Value::Bool(false) || *wanted == Value::Array(Vec::new()),
        }),
        (Value::Array(there), Value::Array(wanted)) if wanted.is_empty() => there.is_empty(),
        (Value::Array(there), Value::Array(wanted)) => {
            wanted.iter().all(|wanted| there.iter().any(|there| covers(there, wanted)))
        }
        _ => there == wanted,
    }
}

/// A load balancer with a Service.
pub struct ExposedLoadBalancer<'a> {
    pub key: &'a ObjectKey,
    pub uid: &'a str,
    pub spec: &'a TcpLoadBalancerSpec,
}

/// The Service of a load balancer. `ports` has the proxy port of each listener.
pub fn wanted(
    load_balancer: &ExposedLoadBalancer,
    ports: &BTreeMap<u16, u16>,
    owners: &[OwnerReference],
    settings: &Settings,
) -> Service {
    let ExposedLoadBalancer { key: object, uid, spec } = *load_balancer;
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
            owner_references: (!owners.is_empty()).then(|| owners.to_vec()),
            ..ObjectMeta::default()
        },
        spec: Some(service_spec(spec, &template, ports, settings)),
        status: None,
    };
    // Maps and structs of strings and numbers: the conversion to JSON cannot fail.
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
        // Fields that templates cannot set; set here so that manual edits are reverted.
        internal_traffic_policy: Some("Cluster".into()),
        session_affinity: Some("None".into()),
        publish_not_ready_addresses: Some(false),
        external_ips: Some(Vec::new()),
        ..ServiceSpec::default()
    }
}

#[cfg(test)]
mod tests;
