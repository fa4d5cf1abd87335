//! The endpoints of a load balancer, according to its spec and the EndpointSlices of its Services.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::{
    api::{EndpointRef, Host, Placement, PortRef, TcpLoadBalancerSpec},
    kubectl::connection::ClusterConnection,
    world::{SERVICE_NAME, service_of},
};

/// The endpoints that a load balancer can have now.
pub struct CurrentEndpoints {
    /// The addresses, with the names of their pods.
    known: Vec<(SocketAddr, Option<String>)>,
    /// True if a backend has a DNS name. Only the replicas know its addresses.
    has_dns_names: bool,
}

impl CurrentEndpoints {
    /// Reads the EndpointSlices. `None`: the user may not list them, or each pod has endpoints of its own.
    pub async fn read(connection: &ClusterConnection, spec: &TcpLoadBalancerSpec) -> Option<Self> {
        match spec.placement.unwrap_or_default() {
            Placement::Gateway | Placement::Host => {}
            Placement::Sidecar => return None,
        }
        let services = spec.backends.iter().filter_map(|backend| backend.service.as_ref());
        let names: BTreeSet<&str> = services.map(|service| service.name.0.as_str()).collect();
        let mut slices = Vec::new();
        for name in names {
            let labels = format!("{SERVICE_NAME}={name}");
            slices.extend(connection.list::<EndpointSlice>(Some(&connection.namespace), &labels).await.ok()?);
        }
        Some(Self::new(spec, &slices))
    }

    fn new(spec: &TcpLoadBalancerSpec, slices: &[EndpointSlice]) -> Self {
        let mut endpoints = Self { known: Vec::new(), has_dns_names: false };
        for backend in &spec.backends {
            for address in backend.addresses.iter().flatten() {
                match &address.host {
                    Host::Ip(ip) => endpoints.known.push((SocketAddr::new(ip.to_canonical(), address.port), None)),
                    Host::Name(_) => endpoints.has_dns_names = true,
                }
            }
            if let Some(service) = &backend.service {
                let of_service = slices.iter().filter(|slice| service_of(slice) == Some(service.name.0.as_str()));
                endpoints.known.extend(of_service.flat_map(|slice| possible(slice, &service.port)));
            }
        }
        endpoints
    }

    /// True if the entry matches an endpoint, or the address of a DNS name that is not known here.
    pub fn may_include(&self, entry: &EndpointRef) -> bool {
        let is_known = self.known.iter().any(|(address, pod)| entry.matches(*address, pod.as_deref()));
        is_known || self.has_dns_names && !matches!(entry, EndpointRef::Pod(_))
    }
}

/// The endpoints of a slice at all of its ports, since only the Service has the name of the declared one.
fn possible(slice: &EndpointSlice, declared: &PortRef) -> Vec<(SocketAddr, Option<String>)> {
    let listed = slice.ports.iter().flatten().filter_map(|port| u16::try_from(port.port?).ok());
    // A headless Service need not declare its ports.
    let number = match declared {
        PortRef::Number(number) => Some(*number),
        PortRef::Name(_) => None,
    };
    let ports: Vec<u16> = listed.chain(number).collect();
    let mut found = Vec::new();
    for endpoint in &slice.endpoints {
        // Only the first address has a meaning.
        let first = endpoint.addresses.first().and_then(|address| address.parse::<IpAddr>().ok());
        let Some(ip) = first.map(|ip| ip.to_canonical()) else { continue };
        let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
        let pod = target.and_then(|target| target.name.as_deref());
        found.extend(ports.iter().map(|port| (SocketAddr::new(ip, *port), pod.map(str::to_owned))));
    }
    found
}

#[cfg(test)]
pub mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The endpoints with these backends, and with the pod `db-0` behind Service `db`.
    pub fn endpoints(backends: Value) -> CurrentEndpoints {
        let spec = json!({"listeners": [{"port": 5432}], "backends": backends});
        let slice = json!({
            "metadata": {"namespace": "shop", "name": "db-x", "labels": {"kubernetes.io/service-name": "db"}},
            "addressType": "IPv4",
            "ports": [{"name": "pg", "port": 6432}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "db-0"}},
                {"addresses": ["10.0.0.2"], "targetRef": {"kind": "Node", "name": "db-2"}},
            ],
        });
        let spec: TcpLoadBalancerSpec = serde_json::from_value(spec).unwrap();
        let slice: EndpointSlice = serde_json::from_value(slice).unwrap();
        CurrentEndpoints::new(&spec, &[slice])
    }

    fn included(endpoints: &CurrentEndpoints, entries: &[&str]) -> Vec<bool> {
        entries.iter().map(|entry| endpoints.may_include(&entry.parse().unwrap())).collect()
    }

    #[test]
    fn entries_match_the_endpoints_of_services() {
        let entries = ["db-0", "10.0.0.1", "10.0.0.1:6432", "10.0.0.2", "10.0.0.1:1", "10.0.0.3", "db-1", "db-2"];
        let of_db = endpoints(json!([{"service": {"name": "db", "port": "pg"}}]));
        assert_eq!(included(&of_db, &entries), [true, true, true, true, false, false, false, false]);
        let headless = endpoints(json!([{"service": {"name": "db", "port": 5432}}]));
        assert_eq!(included(&headless, &["10.0.0.1:5432"]), [true]);
        let of_other = endpoints(json!([{"service": {"name": "other", "port": "pg"}}]));
        assert_eq!(included(&of_other, &entries), [false; 8]);
    }

    #[test]
    fn entries_match_declared_addresses() {
        let entries = ["10.0.0.8", "10.0.0.8:5432", "10.0.0.8:1", "10.0.0.9", "db-0"];
        let addresses = endpoints(json!([{"addresses": ["10.0.0.8:5432"]}]));
        assert_eq!(included(&addresses, &entries), [true, true, false, false, false]);
        let names = endpoints(json!([{"addresses": ["10.0.0.8:5432", "db.example.com:5432"]}]));
        assert_eq!(included(&names, &entries), [true, true, true, true, false], "the name may have any address");
    }
}
