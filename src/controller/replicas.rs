use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use crate::model::ReplicaReport;

/// The proxies that are ready, by the names of their pods.
pub type Replicas = BTreeMap<Arc<str>, Replica>;

/// A proxy that is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Of its admin pages.
    pub address: SocketAddr,
    /// What it last told. `None`: nothing so far, or nothing for a while.
    pub report: Option<Arc<ReplicaReport>>,
}
