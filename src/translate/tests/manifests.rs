//! A small parser of manifests for tests, without files and schema. A document of kind Gateway, Host or Sidecar states
//! the mode.

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive, path::PathBuf, sync::Arc};

use ipnet::IpNet;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::{Secret, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    api::{ServiceType, TcpLoadBalancer, TcpLoadBalancerSpec},
    model::ObjectKey,
    world::{Allocation, Allocations, Declared, ObjectIdentity, ProcessMode, Tenancy, World},
};

/// The default namespace.
const NAMESPACE: &str = "shop";
pub const FOLDER: &str = "/etc/tcplb";

pub fn world(text: &str) -> World {
    let mut world = World::default();
    for document in serde_saphyr::from_multiple::<Value>(text).unwrap() {
        match document["kind"].as_str().unwrap() {
            "TcpLoadBalancer" => {
                let read: TcpLoadBalancer = from(document);
                let declared = Declared { identity: identity(&read.metadata), ..declared(Some(read.spec), &[]) };
                world.load_balancers.insert(key(&read.metadata), declared);
            }
            "Secret" => {
                let read: Secret = from(document);
                world.secrets.insert(key(&read.metadata), read.into());
            }
            "Service" => {
                let read: Service = from(document);
                world.services.insert(key(&read.metadata), read.into());
            }
            "EndpointSlice" => {
                let read: EndpointSlice = from(document);
                world.endpoint_slices.insert(key(&read.metadata), read.into());
            }
            "Gateway" => world.mode = from::<ModeDocument>(document).gateway(),
            "Host" => world.mode = ProcessMode::Host(Arc::new(from::<ModeDocument>(document).tenancy.read())),
            "Sidecar" => world.mode = ProcessMode::Sidecar(from::<ModeDocument>(document).address.unwrap()),
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
        without_value: Vec::new(),
        origin: "test.yaml".into(),
        folder: PathBuf::from(FOLDER),
        identity: None,
        status: None,
    }
}

/// The identity of an object, if the manifest has a uid.
fn identity(metadata: &ObjectMeta) -> Option<ObjectIdentity> {
    let uid = metadata.uid.as_deref()?.into();
    let created = metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |created| created.0);
    Some(ObjectIdentity { created, uid, generation: metadata.generation.unwrap_or(1) })
}

/// The mode of the process.
#[derive(Deserialize)]
struct ModeDocument {
    /// Address of a sidecar.
    address: Option<IpAddr>,
    #[serde(default)]
    ports: BTreeMap<u16, Allocation>,
    #[serde(default)]
    tenancy: Rules,
}

impl ModeDocument {
    fn gateway(self) -> ProcessMode {
        ProcessMode::Gateway(Arc::new(Allocations(self.ports)), Arc::new(self.tenancy.read()))
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Rules {
    /// `None`: ClusterIP.
    service_types: Option<Vec<ServiceType>>,
    annotations: Vec<String>,
    labels: Vec<String>,
    load_balancer_classes: Vec<String>,
    node_ports: bool,
    backend_networks: Vec<IpNet>,
    denied_networks: Vec<IpNet>,
    load_balancers_per_namespace: Option<u32>,
    listeners_per_namespace: Option<u32>,
    secrets_per_namespace: Option<u32>,
    host_ports: Vec<(u16, u16)>,
    host_namespaces: Option<Vec<String>>,
    replicas: Option<String>,
    own_addresses: Vec<IpAddr>,
    admin_port: Option<u16>,
}

impl Rules {
    fn read(self) -> Tenancy {
        let range = |(first, last): (u16, u16)| RangeInclusive::new(first, last);
        Tenancy {
            service_types: self.service_types.unwrap_or_else(|| vec![ServiceType::ClusterIp]).into_iter().collect(),
            annotations: self.annotations,
            labels: self.labels,
            load_balancer_classes: self.load_balancer_classes,
            node_ports: self.node_ports,
            backend_networks: self.backend_networks.into_iter().collect(),
            denied_networks: self.denied_networks.into_iter().collect(),
            load_balancers_per_namespace: self.load_balancers_per_namespace,
            listeners_per_namespace: self.listeners_per_namespace,
            secrets_per_namespace: self.secrets_per_namespace,
            host_ports: self.host_ports.into_iter().map(range).collect(),
            host_namespaces: self.host_namespaces.map(|namespaces| namespaces.into_iter().collect()),
            replicas: self.replicas.map(|name| ObjectKey::new("tcplb", &name)),
            own_addresses: self.own_addresses.into_iter().collect(),
            admin_port: self.admin_port,
            namespace: "tcplb".into(),
        }
    }
}

fn from<T: DeserializeOwned>(document: Value) -> T {
    serde_json::from_value(document.clone()).unwrap_or_else(|error| panic!("{error}: {document}"))
}

fn key(metadata: &ObjectMeta) -> ObjectKey {
    ObjectKey::new(metadata.namespace.as_deref().unwrap_or(NAMESPACE), metadata.name.as_deref().unwrap())
}
