//! Where backends may be. What is refused is an address, wherever it comes from: a name that resolves to it, an
//! EndpointSlice that somebody wrote, or a load balancer's own text.

mod forms;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use forms::{METADATA, forms, nowhere, special};
use k8s_openapi::api::core::v1::Service;

use super::{bindings::Bindings, endpoint_slices::Slices, pods::Target};
use crate::{
    model::ObjectKey,
    translate::{field_errors::FieldPath, messages::listed, verdict::Reason},
    world::{Tenancy, World, kept},
};

pub enum Reach<'a> {
    /// Nobody shares the process with others.
    Everywhere,
    Bounded(Bounds<'a>),
}

/// Why an address may not be a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// What kind of address it is that nothing can be connected to.
    Nowhere(&'static str),
    /// What kind of address it is.
    Special(&'static str),
    Denied,
    /// It is one of the proxies, the API server or a Service.
    Ours,
    Outside,
}

impl<'a> Reach<'a> {
    pub fn of(world: &'a World, slices: &Slices, bindings: &Bindings) -> Self {
        match world.site.tenancy() {
            None => Self::Everywhere,
            Some(tenancy) => Self::Bounded(Bounds::of(tenancy, world, slices, bindings)),
        }
    }

    pub fn refusal(&self, address: SocketAddr, target: Target) -> Option<Refusal> {
        match self {
            Self::Everywhere => nowhere(address.ip()).map(Refusal::Nowhere),
            Self::Bounded(bounds) => bounds.refusal(address, target),
        }
    }

    /// What is said of an address that is refused: `10.0.0.1:80 is …`.
    pub fn sentence(&self, refusal: Refusal) -> String {
        match (refusal, self) {
            (Refusal::Nowhere(kind), _) => {
                format!("{kind}, to which nothing can be connected: write the address of a server")
            }
            (Refusal::Special(kind), _) => format!("{kind}, where no backend may be"),
            (Refusal::Denied, _) => "in a network that the administrator denies".into(),
            (Refusal::Ours, _) => {
                "an address of the proxies, of the API server or of a Service, which no backend may be".into()
            }
            (Refusal::Outside, Self::Bounded(Bounds { tenancy, .. })) => {
                let allowed = listed(tenancy.backend_networks.iter());
                format!(
                    "neither a pod that a Service of the same namespace selects nor in a network that the administrator \
                     allows ({allowed})"
                )
            }
            (Refusal::Outside, Self::Everywhere) => "out of reach".into(),
        }
    }
}

/// The addresses of one place that are refused, and why: so many that each is not told on its own.
#[derive(Default)]
pub struct Refused(BTreeMap<Refusal, (SocketAddr, usize)>);

impl Refused {
    /// Whether the address may be a backend.
    pub fn admit(&mut self, address: SocketAddr, target: Target, reach: &Reach) -> bool {
        let refusal = reach.refusal(address, target);
        if let Some(refusal) = refusal {
            self.0.entry(refusal).or_insert((address, 0)).1 += 1;
        }
        refusal.is_none()
    }

    /// Says that they are left out, and who has them if that is not the place itself.
    pub fn tell(self, who: Option<&str>, reach: &Reach, path: &mut FieldPath) {
        for (refusal, (address, count)) in self.0 {
            let which = match (who, count - 1) {
                (None, _) => format!("{address} is"),
                (Some(who), 0) => format!("{who} has {address}, which is"),
                (Some(who), more) => format!("{who} has {address} and {more} more, each of which is"),
            };
            let message = format!("{which} {}; left out", reach.sentence(refusal));
            match refusal {
                // Whoever has it, it is no mistake of the manifest.
                Refusal::Nowhere(_) if who.is_some() => path.warn(Reason::Invalid, message),
                Refusal::Nowhere(_) => path.drop_item(Reason::Invalid, message),
                _ => path.drop_item(Reason::NotPermitted, message),
            }
        }
    }
}

pub struct Bounds<'a> {
    tenancy: &'a Tenancy,
    /// Addresses of the proxies and of the API server.
    ours: BTreeSet<IpAddr>,
    /// Where the proxies listen themselves.
    our_ports: BTreeSet<u16>,
    api_server: BTreeSet<SocketAddr>,
    /// Addresses of Services, which no pod has.
    services: BTreeSet<IpAddr>,
}

impl<'a> Bounds<'a> {
    fn of(tenancy: &'a Tenancy, world: &World, slices: &Slices, bindings: &Bindings) -> Self {
        let mut bounds = Self {
            tenancy,
            ours: tenancy.own_addresses.iter().map(IpAddr::to_canonical).collect(),
            our_ports: tenancy.admin_port.into_iter().chain(bindings.ports()).collect(),
            api_server: BTreeSet::new(),
            services: world.services.values().flat_map(|service| cluster_ips(service)).collect(),
        };
        bounds.add_replicas(slices);
        bounds.add_kept(world);
        bounds.add_api_server(world);
        bounds
    }

    /// The proxies' pods, ready or not.
    fn add_replicas(&mut self, slices: &Slices) {
        let replicas = self.tenancy.replicas.iter().flat_map(|service| slices.of_service(service));
        let endpoints = replicas.flat_map(|(_, slice)| &slice.endpoints);
        self.ours.extend(endpoints.flat_map(|endpoint| &endpoint.addresses).filter_map(|address| canonical(address)));
    }

    /// The Services in front of the proxies: a load balancer before itself would be a loop.
    fn add_kept(&mut self, world: &World) {
        let Some(home) = &self.tenancy.replicas else { return };
        for service in kept::of_namespace(&world.services, &home.namespace).filter(|service| kept::is_ours(service)) {
            let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
            let ingress = status.into_iter().flat_map(|status| status.ingress.iter().flatten());
            self.ours.extend(ingress.filter_map(|ingress| canonical(ingress.ip.as_ref()?)));
            self.ours.extend(cluster_ips(service));
        }
    }

    /// Only the API server's own objects count, by their names: others could be made to keep tenants from their pods.
    fn add_api_server(&mut self, world: &World) {
        let key = ObjectKey::new("default", "kubernetes");
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

    fn refusal(&self, address: SocketAddr, target: Target) -> Option<Refusal> {
        let mut forms = forms(address.ip()).map(|ip| SocketAddr::new(ip, address.port()));
        let outside = target == Target::Anybody && !self.tenancy.backend_networks.contains(address.ip());
        forms.find_map(|form| self.refusal_of_form(form, target)).or(outside.then_some(Refusal::Outside))
    }

    fn refusal_of_form(&self, address: SocketAddr, target: Target) -> Option<Refusal> {
        let ip = address.ip();
        let ours = match target {
            Target::Anybody => self.ours.contains(&ip),
            // A pod in the network of its node shares the node's address with whoever else runs there.
            Target::Pod => {
                self.ours.contains(&ip) && self.our_ports.contains(&address.port())
                    || self.api_server.contains(&address)
                    || self.services.contains(&ip)
            }
        };
        if let Some(kind) = special(ip) {
            Some(Refusal::Special(kind))
        } else if target == Target::Anybody && METADATA.contains(&ip) {
            Some(Refusal::Special("a metadata service"))
        } else if self.tenancy.denied_networks.contains(ip) {
            Some(Refusal::Denied)
        } else {
            ours.then_some(Refusal::Ours)
        }
    }
}

fn cluster_ips(service: &Service) -> impl Iterator<Item = IpAddr> {
    let spec = service.spec.iter();
    let addresses = spec.flat_map(|spec| spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip));
    addresses.filter_map(|address| canonical(address))
}

fn canonical(address: &str) -> Option<IpAddr> {
    address.parse().ok().map(|ip: IpAddr| ip.to_canonical())
}
