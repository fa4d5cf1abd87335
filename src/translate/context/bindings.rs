//! Bind addresses of listeners, by the mode that the process runs in.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    sync::Arc,
};

use crate::{
    api,
    model::{Listener, ListenerKey, ObjectKey, Snapshot, ip_kinds::unreachable},
    translate::{field_errors::FieldPath, messages::listed, verdict::Reason},
    world::{Allocations, Declared, ProcessMode, Quotas, Tenancy, World, oldest_first},
};

const EVERY_ADDRESS: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

pub enum Bindings {
    /// The declared addresses.
    Declared,
    /// One address for all listeners.
    To(IpAddr),
    /// Allocated ports, by the load balancer's uid and the declared port.
    Allocated(BTreeMap<Arc<str>, BTreeMap<u16, u16>>),
    /// Node ports as declared, each owned by one load balancer.
    Claimed { tenancy: Arc<Tenancy>, owners: BTreeMap<u16, ObjectKey> },
}

impl Bindings {
    pub fn of(world: &World, previous: &Snapshot, quotas: &Quotas) -> Self {
        match &world.mode {
            ProcessMode::Standalone => Self::Declared,
            ProcessMode::Sidecar(address) => Self::To(address.to_canonical()),
            ProcessMode::Gateway(allocations, _) => Self::Allocated(allocated(allocations)),
            ProcessMode::Host(tenancy) => {
                Self::Claimed { tenancy: tenancy.clone(), owners: claims(world, previous, tenancy, quotas) }
            }
        }
    }

    /// The bind address of a listener. `None`: there is none, and `path` has the reason.
    pub fn address(
        &self,
        object: &ObjectKey,
        uid: Option<&str>,
        listener: &api::Listener,
        path: &mut FieldPath,
    ) -> Option<SocketAddr> {
        let port = path.at("port").number(listener.port, 1..=u16::MAX);
        if listener.address.is_some() && !matches!(self, Self::Declared) {
            path.at("address").refuse("is not supported in a cluster: remove it");
        }
        match self {
            Self::Declared => {
                let address = declared_ip(listener);
                if let Some(kind) = unreachable(address) {
                    path.at("address").refuse(format!(
                        "{address} is {kind}, at which no client can reach the listener: write an address of this host, \
                         or remove `address` to listen on all addresses"
                    ));
                }
                Some(SocketAddr::new(address, port))
            }
            Self::To(address) => Some(SocketAddr::new(*address, port)),
            Self::Allocated(ports) => {
                let allocated = uid.and_then(|uid| ports.get(uid)?.get(&port));
                if allocated.is_none() {
                    let message = "waiting for a proxy port; until then the listener is not served";
                    path.at("port").warn(Reason::Pending, message);
                }
                Some(SocketAddr::new(EVERY_ADDRESS, *allocated?))
            }
            Self::Claimed { tenancy, owners } => {
                check_claim(port, object, tenancy, owners, &mut path.at("port"));
                Some(SocketAddr::new(EVERY_ADDRESS, port))
            }
        }
    }

    /// The bind address of a listener of this host or pod, where no port is allocated.
    pub fn local_address(&self, listener: &api::Listener) -> Option<SocketAddr> {
        let ip = match self {
            Self::Declared => declared_ip(listener),
            Self::To(address) => *address,
            Self::Allocated(_) | Self::Claimed { .. } => return None,
        };
        Some(SocketAddr::new(ip, listener.port))
    }

    /// Ports that are or will be bound, except those that depend on the load balancers.
    pub fn ports(&self) -> Vec<u16> {
        match self {
            Self::Declared | Self::To(_) => Vec::new(),
            Self::Allocated(ports) => ports.values().flat_map(BTreeMap::values).copied().collect(),
            Self::Claimed { owners, .. } => owners.keys().copied().collect(),
        }
    }

    /// True if a listener of the load balancer with this uid may keep its bind address.
    pub fn allow(&self, key: &ListenerKey, uid: Option<&str>, listener: &Listener) -> bool {
        match self {
            Self::Declared | Self::To(_) => true,
            Self::Allocated(ports) => {
                uid.and_then(|uid| ports.get(uid)?.get(&key.port)).is_some_and(|port| *port == listener.bind.port())
            }
            Self::Claimed { owners, .. } => owners.get(&key.port) == Some(&key.object),
        }
    }
}

fn declared_ip(listener: &api::Listener) -> IpAddr {
    listener.address.unwrap_or(EVERY_ADDRESS).to_canonical()
}

/// The port of every listener, by the load balancer's uid and the declared port.
fn allocated(allocations: &Allocations) -> BTreeMap<Arc<str>, BTreeMap<u16, u16>> {
    let mut ports: BTreeMap<Arc<str>, BTreeMap<u16, u16>> = BTreeMap::new();
    for ((uid, listener), port) in allocations.by_listener() {
        ports.entry(uid.into()).or_default().insert(listener, port);
    }
    ports
}

/// The owner of each node port: the oldest load balancer that declares and may have it, regardless of its previous
/// owner and of other mistakes in its declaration. So all replicas agree, including those that have just started.
fn claims(world: &World, previous: &Snapshot, tenancy: &Tenancy, quotas: &Quotas) -> BTreeMap<u16, ObjectKey> {
    let mut owners = BTreeMap::new();
    let oldest_first = oldest_first(&world.load_balancers);
    for (object, declared) in oldest_first.into_iter().filter(|(object, _)| allowed_in(object, tenancy)) {
        let ports = ports_of(object, declared, previous).into_iter().take(quotas.listeners(object));
        for port in ports.filter(|port| allowed_port(*port, tenancy)) {
            owners.entry(port).or_insert_with(|| object.clone());
        }
    }
    owners
}

/// The declared ports, or the served ones if the declaration cannot be parsed.
fn ports_of(object: &ObjectKey, declared: &Declared, previous: &Snapshot) -> Vec<u16> {
    match &declared.spec {
        Some(spec) => spec.listeners.iter().map(|listener| listener.port).collect(),
        None => {
            let served = previous.listeners_of(object);
            served
                .filter(|(_, listener)| listener.owner.as_deref() == declared.uid())
                .map(|(key, _)| key.port)
                .collect()
        }
    }
}

fn check_claim(
    port: u16,
    object: &ObjectKey,
    tenancy: &Tenancy,
    owners: &BTreeMap<u16, ObjectKey>,
    path: &mut FieldPath,
) {
    if !allowed_in(object, tenancy) {
        let allowed = listed(tenancy.host_namespaces.iter().flatten());
        let message = format!(
            "namespace {} may not open ports on the nodes: the administrator allows {allowed}",
            object.namespace
        );
        path.refuse_for(Reason::NotPermitted, message);
    } else if !allowed_port(port, tenancy) {
        let allowed = listed(tenancy.host_ports.iter().map(range));
        let message = format!("{port} may not be opened on the nodes: the administrator allows {allowed}");
        path.refuse_for(Reason::NotPermitted, message);
    } else if let Some(owner) = owners.get(&port).filter(|owner| *owner != object) {
        let message = format!("{port} of the nodes belongs to {owner}, which is older: write another port");
        path.refuse_for(Reason::PortConflict, message);
    }
}

fn range(range: &RangeInclusive<u16>) -> String {
    if range.start() == range.end() { range.start().to_string() } else { format!("{}-{}", range.start(), range.end()) }
}

fn allowed_port(port: u16, tenancy: &Tenancy) -> bool {
    tenancy.host_ports.iter().any(|range| range.contains(&port))
}

fn allowed_in(object: &ObjectKey, tenancy: &Tenancy) -> bool {
    tenancy.host_namespaces.as_ref().is_none_or(|namespaces| namespaces.contains(&*object.namespace))
}
