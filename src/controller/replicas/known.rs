//! The ready proxies with their last reports, and the differences between two moments.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use crate::{model::ReplicaReport, shared::changes};

/// The ready proxies, by the names of their pods.
pub type Replicas = BTreeMap<Arc<str>, Replica>;

/// A ready proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// The address of the admin pages.
    pub address: SocketAddr,
    /// The last report. `None`: there is none so far, or none for a while.
    pub report: Option<Arc<ReplicaReport>>,
}

/// The uids of the load balancers whose parts of the reports differ. `None`: the replicas differ, or some reports are
/// known only before or after the change.
pub fn changed_parts<'a>(before: &'a Replicas, now: &'a Replicas) -> Option<BTreeSet<&'a str>> {
    let mut parts = BTreeSet::new();
    if before.len() != now.len() {
        return None;
    }
    for ((pod, before), (other, now)) in before.iter().zip(now) {
        if (pod, before.address) != (other, now.address) {
            return None;
        }
        match (&before.report, &now.report) {
            (None, None) => {}
            (Some(before), Some(now)) => {
                parts.extend(changes(&before.load_balancers, &now.load_balancers).map(|(uid, ..)| &**uid));
            }
            (Some(_), None) | (None, Some(_)) => return None,
        }
    }
    Some(parts)
}

/// True if the same replicas report the same states of listeners.
pub fn have_same_listeners(before: &Replicas, now: &Replicas) -> bool {
    let mut pairs = before.iter().zip(now);
    before.len() == now.len()
        && pairs.all(|((pod, before), (other, now))| pod == other && before.has_same_listeners(now))
}

impl Replica {
    fn has_same_listeners(&self, other: &Self) -> bool {
        let (Some(before), Some(now)) = (&self.report, &other.report) else {
            return self.report.is_none() && other.report.is_none();
        };
        let mut changes = changes(&before.load_balancers, &now.load_balancers);
        changes.all(|(_, before, now)| before.map(|before| &before.listeners) == now.map(|now| &now.listeners))
    }
}
