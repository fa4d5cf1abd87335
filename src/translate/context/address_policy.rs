//! Addresses that backends may have. Addresses are refused whatever their source: a DNS name, an EndpointSlice, or the
//! declaration itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use k8s_openapi::api::core::v1::Service;

use super::{bindings::Bindings, endpoint_slices::SlicesByService, pods::AddressOwner};
use crate::{
    model::{
        ObjectKey,
        ip_kinds::{METADATA, forms, special, unconnectable},
    },
    translate::{field_errors::FieldPath, messages::listed, verdict::Reason},
    world::{ProcessMode, Tenancy, World, managed_service},
};

pub enum AddressPolicy {
    /// The process has a single tenant.
    Unrestricted,
    Tenant(TenantPolicy),
}

/// The reason to refuse a backend address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressRefusal {
    /// The kind of an address that cannot be connected to.
    Unconnectable(&'static str),
    /// The kind of a special address.
    Special(&'static str),
    Denied,
    /// An address of the proxies, the API server or a Service.
    Internal,
    Outside,
}

impl AddressPolicy {
    pub fn of(world: &World, slices: &SlicesByService, bindings: &Bindings) -> Self {
        match &world.mode {
            ProcessMode::Standalone | ProcessMode::Sidecar(_) => Self::Unrestricted,
            ProcessMode::Gateway(_, tenancy) | ProcessMode::Host(tenancy) => Self::Tenant(TenantPolicy {
                tenancy: tenancy.clone(),
                internal: InternalAddresses::of(tenancy, world, slices, bindings),
            }),
        }
    }

    /// Internal addresses, which other objects determine. `None`: backends may have any address.
    pub fn internal(&self) -> Option<&InternalAddresses> {
        match self {
            Self::Unrestricted => None,
            Self::Tenant(policy) => Some(&policy.internal),
        }
    }

    pub fn refusal(&self, address: SocketAddr, target: AddressOwner) -> Option<AddressRefusal> {
        match self {
            Self::Unrestricted => unconnectable(address.ip()).map(AddressRefusal::Unconnectable),
            Self::Tenant(bounds) => bounds.refusal(address, target),
        }
    }

    /// Message part for a refused address: `10.0.0.1:80 is …`.
    pub fn sentence(&self, refusal: AddressRefusal) -> String {
        match (refusal, self) {
            (AddressRefusal::Unconnectable(kind), _) => {
                format!("{kind}, which is not connectable: write the address of a server")
            }
            (AddressRefusal::Special(kind), _) => format!("{kind}, which is not permitted for backends"),
            (AddressRefusal::Denied, _) => "in a network that the administrator denies".into(),
            (AddressRefusal::Internal, _) => {
                "an address of the proxies, of the API server or of a Service, which is not permitted for backends"
                    .into()
            }
            (AddressRefusal::Outside, Self::Tenant(TenantPolicy { tenancy, .. })) => {
                let allowed = listed(tenancy.backend_networks.iter());
                format!(
                    "neither a pod that a Service of the same namespace selects nor in a network that the administrator \
                     allows ({allowed})"
                )
            }
            (AddressRefusal::Outside, Self::Unrestricted) => "out of reach".into(),
        }
    }
}

/// Refused addresses of one field, counted by reason, since there may be too many to report each.
#[derive(Default)]
pub struct RefusedAddresses(BTreeMap<AddressRefusal, (SocketAddr, usize)>);

impl RefusedAddresses {
    /// True if the address is allowed. Counts refused ones.
    pub fn admit(&mut self, address: SocketAddr, target: AddressOwner, policy: &AddressPolicy) -> bool {
        let refusal = policy.refusal(address, target);
        if let Some(refusal) = refusal {
            self.0.entry(refusal).or_insert((address, 0)).1 += 1;
        }
        refusal.is_none()
    }

    /// Reports the dropped addresses. `who` names their source if it is not the field itself.
    pub fn report(self, who: Option<&str>, policy: &AddressPolicy, path: &mut FieldPath) {
        for (refusal, (address, count)) in self.0 {
            let which = match (who, count - 1) {
                (None, _) => format!("{address} is"),
                (Some(who), 0) => format!("{who} has {address}, which is"),
                (Some(who), more) => format!("{who} has {address} and {more} more, each of which is"),
            };
            let message = format!("{which} {}; ignored", policy.sentence(refusal));
            match refusal {
                // Not a mistake of the manifest.
                AddressRefusal::Unconnectable(_) if who.is_some() => path.warn(Reason::Invalid, message),
                AddressRefusal::Unconnectable(_) => path.drop_item(Reason::Invalid, message),
                AddressRefusal::Special(_)
                | AddressRefusal::Denied
                | AddressRefusal::Internal
                | AddressRefusal::Outside => {
                    path.drop_item(Reason::NotPermitted, message);
                }
            }
        }
    }
}

pub struct TenantPolicy {
    tenancy: Arc<Tenancy>,
    internal: InternalAddresses,
}

/// Addresses of the proxies, of the API server and of Services.
#[derive(PartialEq, Eq)]
pub struct InternalAddresses {
    /// Addresses of the proxies and of the API server.
    ours: BTreeSet<IpAddr>,
    /// Ports that the proxies listen on.
    our_ports: BTreeSet<u16>,
    api_server: BTreeSet<SocketAddr>,
    /// Cluster IPs of Services, which no pod has.
    services: BTreeSet<IpAddr>,
}

impl InternalAddresses {
    fn of(tenancy: &Tenancy, world: &World, slices: &SlicesByService, bindings: &Bindings) -> Self {
        let mut internal = Self {
            ours: tenancy.own_addresses.iter().map(IpAddr::to_canonical).collect(),
            our_ports: tenancy.admin_port.into_iter().chain(bindings.ports()).collect(),
            api_server: BTreeSet::new(),
            services: world.services.values().flat_map(|service| cluster_ips(service)).collect(),
        };
        internal.add_replicas(tenancy, slices);
        internal.add_managed_services(tenancy, world);
        internal.add_api_server(world);
        internal
    }

    /// Adds the pods of the proxies, ready or not.
    fn add_replicas(&mut self, tenancy: &Tenancy, slices: &SlicesByService) {
        let replicas = tenancy.replicas.iter().flat_map(|service| slices.of_service(service));
        let endpoints = replicas.flat_map(|(_, slice)| &slice.endpoints);
        self.ours.extend(endpoints.flat_map(|endpoint| &endpoint.addresses).filter_map(|address| canonical(address)));
    }

    /// Adds the Services in front of the proxies, since a load balancer with itself as backend would be a loop.
    fn add_managed_services(&mut self, tenancy: &Tenancy, world: &World) {
        let Some(home) = &tenancy.replicas else { return };
        for service in managed_service::of_namespace(&world.services, &home.namespace)
            .filter(|service| managed_service::is_ours(service))
        {
            let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
            let ingress = status.into_iter().flat_map(|status| status.ingress.iter().flatten());
            self.ours.extend(ingress.filter_map(|ingress| canonical(ingress.ip.as_ref()?)));
            self.ours.extend(cluster_ips(service));
        }
    }

    /// Adds the API server. Only its own objects count, by name; otherwise a tenant could block other tenants' pods.
    fn add_api_server(&mut self, world: &World) {
        let key = api_server();
        if let Some(slice) = world.endpoint_slices.get(&key) {
            let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
            for ip in addresses.filter_map(|address| canonical(address)) {
                self.ours.insert(ip);
                let ports = slice.ports.iter().flatten().filter_map(|port| u16::try_from(port.port?).ok());
                self.api_server.extend(ports.map(|port| SocketAddr::new(ip, port)));
            }
        }
        self.ours.extend(world.services.get(&key).into_iter().flat_map(|service| cluster_ips(service)));
    }

    fn contains(&self, address: SocketAddr, target: AddressOwner) -> bool {
        let ip = address.ip();
        match target {
            AddressOwner::Unknown => self.ours.contains(&ip),
            // Host-network pods share the address of the node with other processes.
            AddressOwner::Pod => {
                self.ours.contains(&ip) && self.our_ports.contains(&address.port())
                    || self.api_server.contains(&address)
                    || self.services.contains(&ip)
            }
        }
    }
}

impl TenantPolicy {
    fn refusal(&self, address: SocketAddr, target: AddressOwner) -> Option<AddressRefusal> {
        let mut forms = forms(address.ip()).map(|ip| SocketAddr::new(ip, address.port()));
        let outside = target == AddressOwner::Unknown && !self.tenancy.backend_networks.contains(address.ip());
        forms.find_map(|form| self.refusal_of_form(form, target)).or(outside.then_some(AddressRefusal::Outside))
    }

    fn refusal_of_form(&self, address: SocketAddr, target: AddressOwner) -> Option<AddressRefusal> {
        let ip = address.ip();
        if let Some(kind) = special(ip) {
            Some(AddressRefusal::Special(kind))
        } else if target == AddressOwner::Unknown && METADATA.contains(&ip) {
            Some(AddressRefusal::Special("a metadata service"))
        } else if self.tenancy.denied_networks.contains(ip) {
            Some(AddressRefusal::Denied)
        } else {
            self.internal.contains(address, target).then_some(AddressRefusal::Internal)
        }
    }
}

/// The Service of the API server, and its EndpointSlice.
pub fn api_server() -> ObjectKey {
    ObjectKey::new("default", "kubernetes")
}

/// True if two versions of a Service have the same addresses, which no backend may use.
pub fn has_same_addresses(before: &Service, now: &Service) -> bool {
    let status = |service: &Service| service.status.as_ref().and_then(|status| status.load_balancer.clone());
    cluster_ips(before).eq(cluster_ips(now))
        && status(before) == status(now)
        && managed_service::is_ours(before) == managed_service::is_ours(now)
}

fn cluster_ips(service: &Service) -> impl Iterator<Item = IpAddr> {
    let spec = service.spec.iter();
    let addresses = spec.flat_map(|spec| spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip));
    addresses.filter_map(|address| canonical(address))
}

fn canonical(address: &str) -> Option<IpAddr> {
    address.parse().ok().map(|ip: IpAddr| ip.to_canonical())
}
