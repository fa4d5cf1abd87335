use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc};

use super::admin_token::AdminToken;
use crate::{api::Placement, instruments::Instruments, model::ObjectKey};

/// The configuration of a controller.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The objects it serves: those of this class and placement.
    pub class: String,
    pub placement: Placement,
    /// The namespace that it runs in, with all objects of its own.
    pub namespace: String,
    /// The name of this replica's pod.
    pub pod: String,
    /// The Service whose EndpointSlices list the replicas, with a port named `admin`.
    pub replicas: ObjectKey,
    /// The name of the Lease that the leader holds.
    pub lease: String,
    /// The name of the ConfigMap with the allocated ports.
    pub allocations: String,
    /// The name of a ConfigMap of the release that owns the managed objects, so that they are deleted with the release.
    pub anchor: Option<String>,
    /// The workload of the replicas, which also owns the managed objects.
    pub workload: Option<Workload>,
    /// The labels of the proxies' pods, which the managed Services select.
    pub selector: BTreeMap<String, String>,
    /// The range of proxy ports.
    pub ports: RangeInclusive<u16>,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// The token for the admin pages of replicas.
    pub admin_token: AdminToken,
    /// The metrics that the controller updates.
    pub instruments: Arc<Instruments>,
}

/// The workload of the replicas, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Workload {
    Deployment(String),
    DaemonSet(String),
}

impl Settings {
    /// True if the controller manages load balancers of this class and placement.
    pub fn leads(&self, class: &str, placement: Placement) -> bool {
        class == self.class && placement == self.placement
    }

    /// The message for a missing Service of the replicas.
    pub fn replicas_unknown(&self) -> String {
        format!(
            "Service {} does not exist, but replicas are found through it: install the chart again. Until then, the \
             replicas known before are polled",
            self.replicas
        )
    }

    /// True if the controller writes the status of load balancers of this class and placement.
    pub fn judges(&self, class: &str, placement: Placement) -> bool {
        class == self.class && self.placement.judges(placement)
    }
}

#[cfg(test)]
impl Settings {
    /// A gateway in the namespace `lb`.
    pub fn of_a_gateway() -> Self {
        Self {
            class: "tcplb".into(),
            placement: Placement::Gateway,
            namespace: "lb".into(),
            pod: "tcplb-0".into(),
            replicas: ObjectKey::new("lb", "tcplb-replicas"),
            lease: "tcplb".into(),
            allocations: "tcplb-ports".into(),
            anchor: None,
            workload: None,
            selector: BTreeMap::from([("app".into(), "tcplb".into())]),
            ports: 20000..=24999,
            cluster_domain: "cluster.local".into(),
            admin_token: AdminToken::default(),
            instruments: Arc::default(),
        }
    }
}
