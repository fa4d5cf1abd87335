use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
};

use k8s_openapi::api::{
    core::v1::{Secret, Service},
    discovery::v1::EndpointSlice,
};

use crate::{api::TcpLoadBalancerSpec, model::ObjectKey};

/// Everything that users and the cluster say at one moment: what [`translate`](crate::translate) reads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    pub load_balancers: BTreeMap<ObjectKey, Declared>,
    pub secrets: BTreeMap<ObjectKey, Arc<Secret>>,
    pub services: BTreeMap<ObjectKey, Arc<Service>>,
    pub endpoint_slices: BTreeMap<ObjectKey, Arc<EndpointSlice>>,
    /// Certificate and key files that manifests name, by path, or why they cannot be read.
    pub files: BTreeMap<PathBuf, Result<Arc<[u8]>, Arc<str>>>,
    /// What is known of the DNS names that manifests have.
    pub names: BTreeMap<Arc<str>, Lookup>,
    /// What is wrong with no load balancer in particular: files that cannot be read, documents without a name.
    pub problems: Vec<String>,
}

/// A load balancer as it is declared.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared {
    /// The latest that could be read. `None`: none could since the start.
    pub spec: Option<Arc<TcpLoadBalancerSpec>>,
    /// Why the present text cannot be read, each a sentence that names the field; empty when `spec` is the present text.
    pub problems: Vec<String>,
    /// Where it is declared, for people: a file, or `command line`.
    pub origin: Arc<str>,
    /// What relative paths in it are relative to.
    pub folder: PathBuf,
}

/// What is known of a DNS name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lookup {
    /// The last good answer; empty: there was none yet.
    pub addresses: BTreeSet<IpAddr>,
    /// Why the latest look-up gave no answer.
    pub problem: Option<Arc<str>>,
}
