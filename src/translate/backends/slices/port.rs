use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::{
    core::v1::{Service, ServicePort},
    discovery::v1::{Endpoint, EndpointPort, EndpointSlice},
};

use crate::{
    api::PortRef,
    model::ObjectKey,
    translate::{field_errors::FieldPath, verdict::Reason},
};

const TCP: &str = "TCP";

/// Reference to a port in EndpointSlices.
pub enum TargetPort {
    /// The Service port's name. Empty: the Service has one unnamed port.
    Named(String),
    /// The declared number, since a headless Service need not declare its ports.
    Number(u16),
}

impl TargetPort {
    /// Resolves a declared port. `None`: the Service has no such port, and `path` lists those it has.
    pub fn of(declared: &PortRef, key: &ObjectKey, service: &Service, path: &mut FieldPath) -> Option<Self> {
        let spec = service.spec.as_ref();
        let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
        let named = ports.iter().filter(|port| match declared {
            PortRef::Number(number) => port.port == i32::from(*number),
            PortRef::Name(name) => port.name.as_deref() == Some(name),
        });
        let headless = spec.and_then(|spec| spec.cluster_ip.as_deref()) == Some("None");
        match (named.clone().find(|port| is_tcp(port.protocol.as_deref())), declared) {
            (Some(port), _) => Some(Self::Named(port.name.clone().unwrap_or_default())),
            (None, PortRef::Number(number)) if headless => Some(Self::Number(*number)),
            (None, _) => {
                let problem = match named.clone().next().and_then(|port| port.protocol.as_deref()) {
                    Some(protocol) => format!("port {declared} of Service {key} is {protocol}, not TCP"),
                    None => format!("Service {key} has no port {declared}"),
                };
                path.refuse_for(Reason::RefNotFound, format!("{problem}: write one of {}", tcp_ports(ports)));
                None
            }
        }
    }

    /// Endpoints of a slice, with their address at this port.
    pub fn addresses<'a>(
        &self,
        key: &ObjectKey,
        slice: &'a EndpointSlice,
        path: &mut FieldPath,
    ) -> Vec<(SocketAddr, &'a Endpoint)> {
        for number in self.invalid_numbers(slice) {
            let message =
                format!("EndpointSlice {key} has port {number}: write a number from 1 to 65535; it is ignored");
            path.drop_item(Reason::Invalid, message);
        }
        let numbers = self.numbers(slice);
        let mut found = Vec::with_capacity(numbers.len() * slice.endpoints.len());
        for endpoint in &slice.endpoints {
            // Only the first address has a meaning.
            let address = endpoint.addresses.first().map_or("", String::as_str);
            let ip = match address.parse::<IpAddr>() {
                Ok(ip) if ip.is_ipv4() == (slice.address_type == "IPv4") => ip,
                other => {
                    let kind = if other.is_ok() { slice.address_type.as_str() } else { "IP" };
                    let message = format!(
                        "EndpointSlice {key} has `{address}`, which is not an {kind} address: write one; it is ignored"
                    );
                    path.drop_item(Reason::Invalid, message);
                    continue;
                }
            };
            found.extend(numbers.iter().map(|number| (SocketAddr::new(ip.to_canonical(), *number), endpoint)));
        }
        found
    }

    /// True if a slice has this port. A slice without endpoints has every port.
    pub fn is_in(&self, slice: &EndpointSlice) -> bool {
        slice.endpoints.is_empty() || !self.numbers(slice).is_empty()
    }

    /// The valid numbers of this port in a slice.
    fn numbers(&self, slice: &EndpointSlice) -> Vec<u16> {
        match self {
            Self::Number(number) => vec![*number],
            Self::Named(name) => listed(name, slice).filter_map(valid).collect(),
        }
    }

    fn invalid_numbers(&self, slice: &EndpointSlice) -> Vec<i32> {
        match self {
            Self::Number(_) => Vec::new(),
            Self::Named(name) => listed(name, slice).filter(|number| valid(*number).is_none()).collect(),
        }
    }
}

/// The numbers of the TCP ports of this name in a slice.
fn listed(name: &str, slice: &EndpointSlice) -> impl Iterator<Item = i32> {
    let same = move |port: &&EndpointPort| {
        port.name.as_deref().unwrap_or_default() == name && is_tcp(port.protocol.as_deref())
    };
    slice.ports.iter().flatten().filter(same).filter_map(|port| port.port)
}

fn valid(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number > 0)
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == TCP)
}

/// Lists the TCP ports for a message.
fn tcp_ports(ports: &[ServicePort]) -> String {
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
