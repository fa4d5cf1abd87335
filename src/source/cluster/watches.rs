//! The watches of a cluster.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::{
    core::v1::{ConfigMap, Secret, Service},
    discovery::v1::EndpointSlice,
};

use super::{
    kinds::{CachedObject, LoadBalancer, PortAllocations},
    scope::Scope,
    selector::{API_SERVER, Selector},
    watch_task::{Common, KindWatches},
};
use crate::{
    api::{RefKind, TcpLoadBalancerSpec},
    model::ObjectKey,
    world::{ObjectRef, backend_services},
};

/// Defines [`Selectors`] and [`Watches`] for a list of kinds.
macro_rules! watched_kinds {
    ($($kinds:ident: $read:ty;)*) => {
        /// The selectors of the watches that are needed, by kind.
        #[derive(Debug, Default, PartialEq)]
        pub struct Selectors {
            $(pub $kinds: BTreeSet<Selector>,)*
        }

        impl Selectors {
            pub fn add(&mut self, other: &Self) {
                $(self.$kinds.extend(other.$kinds.iter().cloned());)*
            }
        }

        /// The watches of each kind.
        #[derive(Default)]
        pub struct Watches {
            $(pub $kinds: KindWatches<$read>,)*
        }

        impl Watches {
            /// Starts the wanted watches that do not run.
            pub fn start(&mut self, wanted: &Selectors, common: &Common) {
                $(self.$kinds.start(&wanted.$kinds, common);)*
            }

            /// Ends all other watches.
            pub fn retain(&mut self, wanted: &Selectors) {
                $(self.$kinds.retain(&wanted.$kinds);)*
            }

            /// The number of watches that were started or ended so far.
            pub fn changes(&self) -> u64 {
                0 $(+ self.$kinds.watch_changes())*
            }

            /// The reported refusals by the API server, a sentence for each watch.
            pub fn refusals(&self) -> Vec<String> {
                let mut refusals = Vec::new();
                $(refusals.extend(self.$kinds.refusals());)*
                refusals
            }
        }
    };
}

watched_kinds! {
    load_balancers: LoadBalancer;
    services: CachedObject<Service>;
    slices: CachedObject<EndpointSlice>;
    secrets: CachedObject<Secret>;
    config_maps: CachedObject<ConfigMap>;
    ports: CachedObject<PortAllocations>;
}

impl Selectors {
    /// The selectors that are needed independently of the load balancers.
    pub fn of_scope(scope: &Scope) -> Self {
        let home = scope.home.as_ref();
        let ports = home.and_then(|home| Some(ObjectKey::new(&home.namespace, &home.allocations.as_ref()?.0)));
        let ports = ports.iter().map(Selector::named).collect();
        if let Some(only) = &scope.only {
            return Self { load_balancers: [Selector::named(only)].into(), ports, ..Self::default() };
        }
        let chosen: Option<BTreeSet<Arc<str>>> =
            scope.namespaces.as_ref().map(|names| names.iter().map(|name| name.as_str().into()).collect());
        let load_balancers = each(chosen.as_ref(), Selector::all);
        let mut everywhere = chosen;
        if let (Some(namespaces), Some(home)) = (&mut everywhere, home) {
            namespaces.insert(home.namespace.as_str().into());
        }
        let mut services = each(everywhere.as_ref(), Selector::all);
        let mut slices = each(everywhere.as_ref(), Selector::of_any_service);
        let api_server = Selector::of_api_server();
        if everywhere.is_some_and(|namespaces| !namespaces.contains(API_SERVER.0)) {
            services.insert(api_server.clone());
            slices.insert(api_server);
        }
        Self { load_balancers, services, slices, ports, ..Self::default() }
    }

    /// The selectors that a load balancer adds.
    pub fn of_load_balancer(scope: &Scope, key: &ObjectKey, spec: &TcpLoadBalancerSpec) -> Self {
        let mut selectors = Self::default();
        for ObjectRef { kind, key } in ObjectRef::all_by(key, spec) {
            selectors.referred_mut(kind).insert(Selector::named(&key));
        }
        if scope.only.is_some() {
            let services = backend_services(key, spec);
            selectors.services = services.clone().map(|service| Selector::named(&service)).collect();
            selectors.slices = services.map(|service| Selector::of_service(&service)).collect();
        }
        selectors
    }

    fn referred_mut(&mut self, kind: RefKind) -> &mut BTreeSet<Selector> {
        match kind {
            RefKind::Secret => &mut self.secrets,
            RefKind::ConfigMap => &mut self.config_maps,
        }
    }
}

fn each(
    namespaces: Option<&BTreeSet<Arc<str>>>,
    selector: impl Fn(Option<&Arc<str>>) -> Selector,
) -> BTreeSet<Selector> {
    match namespaces {
        None => [selector(None)].into(),
        Some(namespaces) => namespaces.iter().map(|namespace| selector(Some(namespace))).collect(),
    }
}
