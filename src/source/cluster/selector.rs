//! Selectors of watches, and the objects of interest.

use std::{collections::BTreeSet, sync::Arc};

use crate::{model::ObjectKey, world::SERVICE_NAME};

/// The objects of one kind that a watch selects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    /// `None`: all namespaces.
    pub namespace: Option<Arc<str>>,
    pub select: Select,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Select {
    All,
    /// The object of this name.
    Name(Arc<str>),
    /// The objects of any Service.
    AnyService,
    /// The objects of this Service.
    Service(Arc<str>),
}

impl Selector {
    pub fn all(namespace: Option<&Arc<str>>) -> Self {
        Self { namespace: namespace.cloned(), select: Select::All }
    }

    pub fn of_any_service(namespace: Option<&Arc<str>>) -> Self {
        Self { namespace: namespace.cloned(), select: Select::AnyService }
    }

    pub fn named(key: &ObjectKey) -> Self {
        Self { namespace: Some(key.namespace.clone()), select: Select::Name(key.name.clone()) }
    }

    pub fn of_service(key: &ObjectKey) -> Self {
        Self { namespace: Some(key.namespace.clone()), select: Select::Service(key.name.clone()) }
    }

    /// The Service of the API server, and by the same name its only slice. Permissions for these two objects are
    /// sufficient.
    pub fn of_api_server() -> Self {
        Self::named(&ObjectKey::new(API_SERVER.0, API_SERVER.1))
    }

    pub fn is_of_api_server(&self) -> bool {
        *self == Self::of_api_server()
    }

    /// The key of the object, if the selector selects a single one.
    pub fn key(&self) -> Option<ObjectKey> {
        match (&self.namespace, &self.select) {
            (Some(namespace), Select::Name(name)) => {
                Some(ObjectKey { namespace: namespace.clone(), name: name.clone() })
            }
            (None, _) | (_, Select::All | Select::AnyService | Select::Service(_)) => None,
        }
    }

    pub fn fields(&self) -> Option<String> {
        match &self.select {
            Select::Name(name) => Some(format!("metadata.name={name}")),
            Select::All | Select::AnyService | Select::Service(_) => None,
        }
    }

    pub fn labels(&self) -> Option<String> {
        match &self.select {
            Select::AnyService => Some(SERVICE_NAME.into()),
            Select::Service(name) => Some(format!("{SERVICE_NAME}={name}")),
            Select::All | Select::Name(_) => None,
        }
    }

    /// The description for messages about objects of a kind.
    pub fn of_kind(&self, kind: &str) -> String {
        let namespace = self.namespace.as_deref();
        match (&self.select, namespace) {
            (Select::Name(name), namespace) => format!("{kind} {}/{name}", namespace.unwrap_or("*")),
            (Select::Service(name), namespace) => format!("{kind}s of Service {}/{name}", namespace.unwrap_or("*")),
            (Select::All | Select::AnyService, Some(namespace)) => format!("{kind}s in namespace {namespace}"),
            (Select::All | Select::AnyService, None) => format!("{kind}s"),
        }
    }
}

/// The Services of interest. Changes of other Services and of their endpoints are ignored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interest {
    /// The Services that load balancers refer to.
    pub services: BTreeSet<ObjectKey>,
    /// All Services of this namespace: those of the proxies, and the managed ones.
    pub home: Option<Arc<str>>,
}

impl Interest {
    pub fn has(&self, service: &ObjectKey) -> bool {
        self.home.as_ref() == Some(&service.namespace)
            || self.services.contains(service)
            || (&*service.namespace, &*service.name) == API_SERVER
    }
}

/// The Service of the API server, which no load balancer may use as a backend.
pub const API_SERVER: (&str, &str) = ("default", "kubernetes");
