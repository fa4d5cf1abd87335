use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use imbl::{OrdMap, ordmap::DiffItem};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The report of one proxy to the leader: the served configuration of each load balancer, by uid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaReport {
    #[serde(serialize_with = "write_map", deserialize_with = "read_map")]
    pub load_balancers: OrdMap<Arc<str>, Arc<Served>>,
}

/// The name of [`ReportChanges`] in the headers `A-IM` and `IM` (RFC 3229).
pub const REPORT_CHANGES: &str = "tcplb-changes";

/// The difference between two reports of one proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportChanges {
    /// The new and changed load balancers, by uid.
    pub changed: BTreeMap<Arc<str>, Arc<Served>>,
    /// The uids of the removed load balancers.
    pub removed: BTreeSet<Arc<str>>,
}

impl ReportChanges {
    pub fn between(before: &ReplicaReport, now: &ReplicaReport) -> Self {
        let mut changes = Self::default();
        for change in before.load_balancers.diff(&now.load_balancers) {
            match change {
                DiffItem::Add(uid, served) | DiffItem::Update { new: (uid, served), .. } => {
                    changes.changed.insert(uid.clone(), served.clone());
                }
                DiffItem::Remove(uid, _) => drop(changes.removed.insert(uid.clone())),
            }
        }
        changes
    }

    /// The report after these changes.
    pub fn applied_to(self, before: &ReplicaReport) -> ReplicaReport {
        let mut load_balancers = before.load_balancers.clone();
        for uid in &self.removed {
            load_balancers.remove(uid);
        }
        load_balancers.extend(self.changed);
        ReplicaReport { load_balancers }
    }
}

fn write_map<S: Serializer>(map: &OrdMap<Arc<str>, Arc<Served>>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(map)
}

fn read_map<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OrdMap<Arc<str>, Arc<Served>>, D::Error> {
    BTreeMap::<Arc<str>, Arc<Served>>::deserialize(deserializer).map(|map| map.into_iter().collect())
}

/// The served state of a load balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Served {
    /// The generation of the spec that was processed.
    pub generation: i64,
    /// The latest generation that was served completely, as far as this process knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whole: Option<i64>,
    /// By declared port.
    pub listeners: BTreeMap<u16, ListenerOutcome>,
    /// By name. Backends without endpoints are absent, unless endpoints are drained or removed endpoints still have
    /// connections.
    pub backends: BTreeMap<String, BackendHealth>,
    /// Problems of this process that other replicas may not have, as sentences.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub here: BTreeSet<String>,
    /// Routes that are served by another priority than the preferred one.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub failed_over: BTreeSet<FailedOver>,
    /// The expiry of each certificate for clients, by source.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub certificates: BTreeMap<String, jiff::Timestamp>,
    /// The expiry of each certificate for backends, by source.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub certificates_for_backends: BTreeMap<String, jiff::Timestamp>,
}

/// A failover: connections go to another priority than the lowest possible one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedOver {
    /// The backends of the route. Empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<String>,
    /// The active priority.
    pub priority: u8,
}

/// The state of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ListenerOutcome {
    /// Open on this port.
    Bound(u16),
    /// Not open; a sentence with the reason.
    Failed(String),
}

/// The state of a backend's endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendHealth {
    pub endpoints: u32,
    /// Endpoints that may be picked.
    pub usable: u32,
    /// Usable endpoints on standby, because another priority is active.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub standby: u32,
    /// Usable endpoints that connections repeatedly fail to reach.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failing: u32,
    /// Further endpoints that the object lists as drained.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub drained: u32,
    /// Endpoints that are unusable until their pending first check.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unchecked: u32,
    /// Open connections that are being drained, because their endpoints get no new ones.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub draining: u32,
    /// The latest failure of a connection or a check.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Box<EndpointFailure>>,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// A failure of a connection or a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointFailure {
    pub endpoint: String,
    pub reason: String,
    pub time: jiff::Timestamp,
}
