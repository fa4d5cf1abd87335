//! The watches of a cluster.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::{
    core::v1::{ConfigMap, Secret, Service},
    discovery::v1::EndpointSlice,
};

use super::{
    feed::{Common, Feeds},
    interest::{API_SERVER, Subject, references, services},
    kinds::{LoadBalancer, Ports, Reading},
    scope::Scope,
};
use crate::{
    api::{RefKind, TcpLoadBalancerSpec},
    model::ObjectKey,
    world::Referred,
};

/// Defines [`Subjects`] and [`Watches`] for a list of kinds.
macro_rules! watched_kinds {
    ($($kinds:ident: $read:ty;)*) => {
        /// The watches that are needed, by what they are of.
        #[derive(Debug, Default, PartialEq)]
        pub struct Subjects {
            $(pub $kinds: BTreeSet<Subject>,)*
        }

        impl Subjects {
            pub fn add(&mut self, other: &Self) {
                $(self.$kinds.extend(other.$kinds.iter().cloned());)*
            }
        }

        /// The watches of each kind.
        #[derive(Default)]
        pub struct Watches {
            $(pub $kinds: Feeds<$read>,)*
        }

        impl Watches {
            /// Begins those watches that are not there yet.
            pub fn start(&mut self, wanted: &Subjects, common: &Common) {
                $(self.$kinds.start(&wanted.$kinds, common);)*
            }

            /// Ends all others.
            pub fn retain(&mut self, wanted: &Subjects) {
                $(self.$kinds.retain(&wanted.$kinds);)*
            }

            /// What the API server refuses, once it has to be reported: a sentence for each watch.
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
    services: Reading<Service>;
    slices: Reading<EndpointSlice>;
    secrets: Reading<Secret>;
    config_maps: Reading<ConfigMap>;
    ports: Reading<Ports>;
}

impl Subjects {
    /// Those that are needed whatever is declared.
    pub fn of_scope(scope: &Scope) -> Self {
        let home = scope.home.as_ref();
        let ports = home.and_then(|home| Some(ObjectKey::new(&home.namespace, &home.allocations.as_ref()?.0)));
        let ports = ports.iter().map(Subject::named).collect();
        if let Some(only) = &scope.only {
            return Self { load_balancers: [Subject::named(only)].into(), ports, ..Self::default() };
        }
        let chosen: Option<BTreeSet<Arc<str>>> =
            scope.namespaces.as_ref().map(|names| names.iter().map(|name| name.as_str().into()).collect());
        let load_balancers = each(chosen.as_ref(), Subject::all);
        let mut everywhere = chosen;
        if let (Some(namespaces), Some(home)) = (&mut everywhere, home) {
            namespaces.insert(home.namespace.as_str().into());
        }
        let mut services = each(everywhere.as_ref(), Subject::all);
        let mut slices = each(everywhere.as_ref(), Subject::of_any_service);
        let api_server = Subject::of_api_server();
        if everywhere.is_some_and(|namespaces| !namespaces.contains(API_SERVER.0)) {
            services.insert(api_server.clone());
            slices.insert(api_server);
        }
        Self { load_balancers, services, slices, ports, ..Self::default() }
    }

    /// Those that a load balancer needs besides.
    pub fn of_load_balancer(scope: &Scope, key: &ObjectKey, spec: &TcpLoadBalancerSpec) -> Self {
        let mut subjects = Self::default();
        for Referred { kind, key } in references(key, spec) {
            subjects.referred_mut(kind).insert(Subject::named(&key));
        }
        if scope.only.is_some() {
            let services = services(key, spec);
            subjects.services = services.iter().map(Subject::named).collect();
            subjects.slices = services.iter().map(Subject::of_service).collect();
        }
        subjects
    }

    fn referred_mut(&mut self, kind: RefKind) -> &mut BTreeSet<Subject> {
        match kind {
            RefKind::Secret => &mut self.secrets,
            RefKind::ConfigMap => &mut self.config_maps,
        }
    }
}

fn each(namespaces: Option<&BTreeSet<Arc<str>>>, subject: impl Fn(Option<&Arc<str>>) -> Subject) -> BTreeSet<Subject> {
    match namespaces {
        None => [subject(None)].into(),
        Some(namespaces) => namespaces.iter().map(|namespace| subject(Some(namespace))).collect(),
    }
}
