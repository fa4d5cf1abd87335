//! The facts that the checks examine.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Service},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};

use super::{metrics::ReplicaMetrics, workload::WorkloadFacts};
use crate::{
    api::TcpLoadBalancer,
    kubectl::{
        admin_pages::{PageError, ReplicaPages},
        permission::{AccessError, Permission},
        replica::ReplicaPod,
    },
    model::ObjectKey,
    world::Allocations,
};

/// All facts. Those that were not requested are absent.
pub struct DoctorFacts {
    /// The time by the clock of this machine.
    pub now: Timestamp,
    pub server: Result<ServerFacts, AccessError>,
    pub crd: Result<Option<CustomResourceDefinition>, AccessError>,
    /// The answers of the API server about permissions of the user.
    pub permissions: Vec<(Permission, Result<bool, AccessError>)>,
    /// `None`: before installation.
    pub installation: Option<InstallationFacts>,
}

pub struct ServerFacts {
    /// The major and the minor version of Kubernetes.
    pub version: (u32, u32),
    /// The version as a text.
    pub git_version: String,
    /// The time by which the clock of the API server is ahead of that of this machine.
    pub clock_offset: Option<SignedDuration>,
}

/// The facts about replicas and load balancers.
pub struct InstallationFacts {
    /// The namespace of the load balancers. `None`: all.
    pub namespace: Option<String>,
    /// The Deployments and DaemonSets of the replicas, as far as they can be listed.
    pub workloads: Vec<WorkloadFacts>,
    pub replicas: Result<Vec<ReplicaFacts>, AccessError>,
    /// Pods that look like replicas, in namespaces without an installation.
    pub other_pods: Vec<ObjectKey>,
    pub leases: Vec<(ObjectKey, Result<Option<Lease>, AccessError>)>,
    /// The allocated ports of the gateways, by their ConfigMap.
    pub allocations: Vec<(ObjectKey, Result<Option<Allocations>, AccessError>)>,
    pub load_balancers: Result<Vec<TcpLoadBalancer>, AccessError>,
    /// The Services in the namespaces of the replicas.
    pub services: Result<Vec<Service>, AccessError>,
    pub attempts: Vec<ConnectionAttempt>,
}

pub struct ReplicaFacts {
    pub pod: ReplicaPod,
    pub pages: Result<ReplicaPages, PageError>,
    pub metrics: Option<ReplicaMetrics>,
    /// The time by which its clock is ahead of that of this machine.
    pub clock_offset: Option<SignedDuration>,
}

/// A connection to an address of a load balancer.
#[derive(Clone, Debug)]
pub struct ConnectionAttempt {
    pub object: ObjectKey,
    /// The address and port, for display.
    pub address: String,
    /// True if the address is only for clients in the cluster.
    pub is_internal: bool,
    pub direct: AttemptOutcome,
    /// A connection through the proxy port of a replica, if the direct one failed.
    pub through_replica: Option<(String, AttemptOutcome)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The connection is established and stays open, or the server has sent the first bytes.
    Open,
    /// The connection is established, and closed at once.
    Closed,
    /// The connection could not be established.
    Failed(String),
}

impl DoctorFacts {
    /// The time by the clock of the API server. If that is unknown, by the clock of this machine.
    pub fn server_time(&self) -> Timestamp {
        let offset = self.server.as_ref().ok().and_then(|server| server.clock_offset);
        offset.and_then(|offset| self.now.checked_add(offset).ok()).unwrap_or(self.now)
    }
}

impl InstallationFacts {
    /// The replicas, if they could be listed.
    pub fn replicas(&self) -> &[ReplicaFacts] {
        self.replicas.as_deref().unwrap_or_default()
    }

    /// The load balancers, if they could be listed.
    pub fn load_balancers(&self) -> &[TcpLoadBalancer] {
        self.load_balancers.as_deref().unwrap_or_default()
    }

    /// The replicas whose admin pages could be read.
    pub fn readable(&self) -> impl Iterator<Item = (&ReplicaPod, &ReplicaPages)> {
        self.replicas().iter().filter_map(|replica| Some((&replica.pod, replica.pages.as_ref().ok()?)))
    }

    /// The same, without terminating replicas: their listeners are closed, or are about to be.
    pub fn accepting(&self) -> impl Iterator<Item = (&ReplicaPod, &ReplicaPages)> {
        self.readable().filter(|(pod, _)| !pod.is_terminating)
    }
}

/// `NAMESPACE/NAME` of a load balancer.
pub fn key(object: &TcpLoadBalancer) -> ObjectKey {
    let metadata = &object.metadata;
    ObjectKey::new(metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}
