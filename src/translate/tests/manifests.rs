//! A small reader of manifests for tests: it knows no file and no schema.

use std::{path::PathBuf, sync::Arc};

use k8s_openapi::{
    api::{
        core::v1::{Secret, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    api::{TcpLoadBalancer, TcpLoadBalancerSpec},
    model::ObjectKey,
    source::{Declared, World},
};

/// The namespace of all that does not name one.
const NAMESPACE: &str = "shop";
pub const FOLDER: &str = "/etc/tcplb";

pub fn world(text: &str) -> World {
    let mut world = World::default();
    for document in serde_saphyr::from_multiple::<Value>(text).unwrap() {
        match document["kind"].as_str().unwrap() {
            "TcpLoadBalancer" => {
                let read: TcpLoadBalancer = from(document);
                let declared = declared(Some(read.spec), &[]);
                world.load_balancers.insert(key(&read.metadata), declared);
            }
            "Secret" => {
                let read: Secret = from(document);
                world.secrets.insert(key(&read.metadata), Arc::new(read));
            }
            "Service" => {
                let read: Service = from(document);
                world.services.insert(key(&read.metadata), Arc::new(read));
            }
            "EndpointSlice" => {
                let read: EndpointSlice = from(document);
                world.endpoint_slices.insert(key(&read.metadata), Arc::new(read));
            }
            kind => panic!("{kind} is not read here"),
        }
    }
    world
}

/// A world of one load balancer.
pub fn load_balancer(name: &str, spec: &str) -> World {
    let mut world = World::default();
    let spec = serde_saphyr::from_str(spec).unwrap_or_else(|error| panic!("{error}: {spec}"));
    world.load_balancers.insert(ObjectKey::new(NAMESPACE, name), declared(Some(spec), &[]));
    world
}

pub fn declared(spec: Option<TcpLoadBalancerSpec>, problems: &[&str]) -> Declared {
    Declared {
        spec: spec.map(Arc::new),
        problems: problems.iter().map(ToString::to_string).collect(),
        origin: "test.yaml".into(),
        folder: PathBuf::from(FOLDER),
        identity: None,
        status: None,
    }
}

fn from<T: DeserializeOwned>(document: Value) -> T {
    serde_json::from_value(document.clone()).unwrap_or_else(|error| panic!("{error}: {document}"))
}

fn key(metadata: &ObjectMeta) -> ObjectKey {
    ObjectKey::new(metadata.namespace.as_deref().unwrap_or(NAMESPACE), metadata.name.as_deref().unwrap())
}
