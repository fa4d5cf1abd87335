//! The endpoints behind a Service's port, by the rules that kube-proxy has for EndpointSlices.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use k8s_openapi::api::{
    core::v1::{Service, ServicePort},
    discovery::v1::{Endpoint, EndpointPort, EndpointSlice},
};

use super::{Reason, backends::Member, findings::Place, missing};
use crate::{
    api::{BackendService, PortRef},
    model::ObjectKey,
    source::World,
};

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
const TCP: &str = "TCP";
const IPV4: &str = "IPv4";
const IPV6: &str = "IPv6";

/// The endpoints that serve now: the ready ones, or, where none is, those that still serve while they terminate.
pub(super) fn members(
    declared: &BackendService,
    namespace: &Arc<str>,
    world: &World,
    place: &mut Place,
) -> Vec<Member> {
    let key = ObjectKey { namespace: namespace.clone(), name: declared.name.0.as_str().into() };
    let Some(service) = world.services.get(&key) else {
        place.at("name").refuse_for(Reason::RefNotFound, missing("Service", &key, world));
        return Vec::new();
    };
    if service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
        let message = format!(
            "Service {key} is an ExternalName, which has no endpoints: write the name it stands for in `addresses`"
        );
        place.at("name").refuse(message);
        return Vec::new();
    }
    let Some(port) = target_port(&declared.port, &key, service, &mut place.at("port")) else {
        return Vec::new();
    };
    let slices = slices(&key, world);
    for (key, slice) in slices.iter().filter(|(_, slice)| slice.address_type != IPV4 && slice.address_type != IPV6) {
        let message = format!(
            "EndpointSlice {key} has addresses of type {}, which are not followed: write IPv4 or IPv6 addresses there, or \
             DNS names in `addresses`; it is left out",
            slice.address_type
        );
        place.leave_out(Reason::Invalid, message);
    }
    let family = family(service, &slices);
    serving(slices.into_iter().filter(|(_, slice)| slice.address_type == family), &port, place)
}

/// How a slice's own port is found.
enum TargetPort {
    /// By the Service port's name; empty: the Service has one port without a name.
    Named(String),
    /// As written: a headless Service need not declare its ports.
    Number(u16),
}

fn target_port(declared: &PortRef, key: &ObjectKey, service: &Service, place: &mut Place) -> Option<TargetPort> {
    let spec = service.spec.as_ref();
    let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let named = ports.iter().filter(|port| match declared {
        PortRef::Number(number) => port.port == i32::from(*number),
        PortRef::Name(name) => port.name.as_deref() == Some(name),
    });
    let headless = spec.and_then(|spec| spec.cluster_ip.as_deref()) == Some("None");
    match (named.clone().find(|port| is_tcp(port.protocol.as_deref())), declared) {
        (Some(port), _) => Some(TargetPort::Named(port.name.clone().unwrap_or_default())),
        (None, PortRef::Number(number)) if headless => Some(TargetPort::Number(*number)),
        (None, _) => {
            let problem = match named.clone().next().and_then(|port| port.protocol.as_deref()) {
                Some(protocol) => format!("port {declared} of Service {key} is {protocol}, not TCP"),
                None => format!("Service {key} has no port {declared}"),
            };
            place.refuse_for(Reason::RefNotFound, format!("{problem}: write one of {}", listed(ports)));
            None
        }
    }
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == TCP)
}

/// The TCP ports there are, for a sentence.
fn listed(ports: &[ServicePort]) -> String {
    let ports: Vec<_> = ports
        .iter()
        .filter(|port| is_tcp(port.protocol.as_deref()))
        .map(|port| match &port.name {
            Some(name) => format!("{} ({name})", port.port),
            None => port.port.to_string(),
        })
        .collect();
    if ports.is_empty() { "its TCP ports, of which it has none".into() } else { ports.join(", ") }
}

fn slices<'a>(service: &ObjectKey, world: &'a World) -> Vec<(&'a ObjectKey, &'a EndpointSlice)> {
    world
        .endpoint_slices
        .range(ObjectKey { namespace: service.namespace.clone(), name: "".into() }..)
        .take_while(|(key, _)| key.namespace == service.namespace)
        .map(|(key, slice)| (key, &**slice))
        .filter(|(_, slice)| {
            let labels = slice.metadata.labels.as_ref();
            labels.and_then(|labels| labels.get(SERVICE_NAME_LABEL)).is_some_and(|name| **name == *service.name)
        })
        .collect()
}

/// The Service's first family. Where it names none, IPv4 if there is any: a pod that has an address of each family
/// would count twice if both were used.
fn family<'a>(service: &'a Service, slices: &[(&ObjectKey, &EndpointSlice)]) -> &'a str {
    let declared = service.spec.as_ref().and_then(|spec| spec.ip_families.as_ref()?.first());
    match declared {
        Some(family) => family,
        None if slices.iter().any(|(_, slice)| slice.address_type == IPV4) => IPV4,
        None => IPV6,
    }
}

fn serving<'a>(
    slices: impl Iterator<Item = (&'a ObjectKey, &'a EndpointSlice)>,
    port: &TargetPort,
    place: &mut Place,
) -> Vec<Member> {
    // An endpoint may be in two slices for a moment, as it moves from one to the other.
    let mut found: BTreeMap<(SocketAddr, Option<&str>), (Member, Conditions)> = BTreeMap::new();
    for (key, slice) in slices {
        for number in port.numbers(slice) {
            for endpoint in &slice.endpoints {
                // The first address is the only one with a meaning.
                let address = endpoint.addresses.first().map_or("", String::as_str);
                let Ok(ip) = address.parse::<IpAddr>() else {
                    let message = format!("EndpointSlice {key} has `{address}`, which is not an IP address");
                    place.leave_out(Reason::Invalid, message + ": write one; it is left out");
                    continue;
                };
                let address = SocketAddr::new(ip.to_canonical(), number);
                let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref());
                let conditions = Conditions::of(endpoint);
                found
                    .entry((address, uid))
                    .and_modify(|(_, known)| *known = known.or(conditions))
                    .or_insert_with(|| (member(endpoint, address), conditions));
            }
        }
    }
    let any_ready = found.values().any(|(_, conditions)| conditions.ready);
    found
        .into_values()
        .filter(|(_, conditions)| if any_ready { conditions.ready } else { conditions.last_resort })
        .map(|(member, _)| member)
        .collect()
}

impl TargetPort {
    /// The numbers of this port in a slice.
    fn numbers(&self, slice: &EndpointSlice) -> Vec<u16> {
        match self {
            Self::Number(number) => vec![*number],
            Self::Named(name) => {
                let same = |port: &&EndpointPort| {
                    port.name.as_deref().unwrap_or_default() == name && is_tcp(port.protocol.as_deref())
                };
                let number = |port: &EndpointPort| u16::try_from(port.port?).ok().filter(|number| *number > 0);
                slice.ports.iter().flatten().filter(same).filter_map(number).collect()
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Conditions {
    ready: bool,
    /// Terminates, and serves meanwhile.
    last_resort: bool,
}

impl Conditions {
    fn of(endpoint: &Endpoint) -> Self {
        let conditions = endpoint.conditions.as_ref();
        let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
        let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(ready);
        let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
        Self { ready, last_resort: serving && terminating }
    }

    fn or(self, other: Self) -> Self {
        Self { ready: self.ready || other.ready, last_resort: self.last_resort || other.last_resort }
    }
}

fn member(endpoint: &Endpoint, address: SocketAddr) -> Member {
    let target = endpoint.target_ref.as_ref();
    let pod = target.filter(|target| target.kind.as_deref() == Some("Pod"));
    // A pod that has its own name for hostname belongs to a StatefulSet: its name outlives its address.
    let stable = pod.filter(|pod| pod.name.is_some() && pod.name == endpoint.hostname);
    let stable_id = stable.map(|pod| {
        format!("{}/{}", pod.namespace.as_deref().unwrap_or_default(), pod.name.as_deref().unwrap_or_default()).into()
    });
    Member {
        address,
        uid: target.and_then(|target| target.uid.as_deref()).map(Into::into),
        stable_id: stable_id.unwrap_or_else(|| address.to_string().into()),
    }
}
