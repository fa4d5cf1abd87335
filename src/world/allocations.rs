//! The proxy ports of listeners.
//!
//! One ConfigMap stores them and is always replaced as a whole, so that no port ever has two owners. Each of its keys
//! is a port, and the value names the owner or the time at which the port was freed.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    ops::RangeInclusive,
    sync::Arc,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::managed_service::{ServiceTarget, Targets};

/// The owners of ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocations(pub BTreeMap<u16, Allocation>);

/// The owner of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Allocation {
    /// The load balancer's uid.
    pub uid: Arc<str>,
    /// Its listener's port.
    pub port: u16,
    /// The load balancer: `namespace/name`; of a free port, the namespace alone.
    pub object: Arc<str>,
    /// The time at which it was freed. A cooldown follows before another listener gets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freed: Option<Timestamp>,
}

/// The namespace of a text `namespace/name`, or of a namespace alone.
pub fn namespace_of(object: &str) -> &str {
    object.split_once('/').map_or(object, |(namespace, _)| namespace)
}

impl Allocation {
    pub fn namespace(&self) -> &str {
        namespace_of(&self.object)
    }

    /// True if a Service leads to the listener that owns or owned the port.
    pub fn is_of(&self, target: &ServiceTarget) -> bool {
        self.uid == target.uid && self.port == target.listener
    }

    /// Frees the port. The entry then takes no more space than its share of a full ConfigMap.
    pub fn free(&mut self, now: Timestamp) {
        self.object = self.namespace().into();
        self.freed = Some(now);
    }
}

impl Allocations {
    /// The maximum number of ports: with the longest names they fit into a ConfigMap, which holds 1 MiB.
    pub const MOST: u16 = 5000;

    /// Reads a ConfigMap's data. Returns a problem for each unreadable entry: a sentence that names the key. If the key
    /// is a port, the port counts as owned by an unknown object.
    pub fn read(data: &BTreeMap<String, String>) -> (Self, Vec<String>) {
        let (mut ports, mut problems) = (BTreeMap::new(), Vec::new());
        for (key, text) in data {
            // Ports have a single notation, so that none occurs twice.
            let Some(port) = key.parse().ok().filter(|port: &u16| *port > 0 && port.to_string() == *key) else {
                problems.push(format!("`{key}` is not a port: remove it"));
                continue;
            };
            let allocation = serde_json::from_str(text).unwrap_or_else(|error| {
                problems.push(format!("`{key}` cannot be read: {error}: remove it"));
                Allocation { uid: "".into(), port: 0, object: "".into(), freed: None }
            });
            ports.insert(port, allocation);
        }
        (Self(ports), problems)
    }

    /// The data of the ConfigMap.
    pub fn write(&self) -> BTreeMap<String, String> {
        // Strings, numbers and a time: the serialization cannot fail.
        let text = |allocation| serde_json::to_string(allocation).unwrap_or_default();
        self.0.iter().map(|(port, allocation)| (port.to_string(), text(allocation))).collect()
    }

    /// Returns the allocations corrected by Services. Clients connect through the Services, so the Services take
    /// precedence over the stored text. A restored older copy, or a deleted one, therefore cannot route clients to
    /// another tenant or to no backend.
    ///
    /// Services are trusted only for ports of the range: a Service that leads elsewhere was edited and is corrected. A
    /// port that its listener lost, because its Service leads to another one, is freed at `now`.
    pub fn corrected_by(&self, targets: &Targets, range: &RangeInclusive<u16>, now: Timestamp) -> Self {
        let mut corrected = self.clone();
        let targets = targets.iter().filter(|(port, _)| range.contains(port));
        let differing: Vec<_> =
            targets.filter_map(|(port, shown)| Some((*port, self.differing(*port, shown)?))).collect();
        if differing.is_empty() {
            return corrected;
        }
        let mut owned: BTreeMap<(Arc<str>, u16), Vec<u16>> = BTreeMap::new();
        for (port, allocation) in self.0.iter().filter(|(_, allocation)| allocation.freed.is_none()) {
            owned.entry((allocation.uid.clone(), allocation.port)).or_default().push(*port);
        }
        for (port, target) in differing {
            let ports = owned.entry((target.uid.clone(), target.listener)).or_default();
            for other in mem::replace(ports, vec![port]) {
                // Another listener may have got the port since.
                if let Some(lost) = corrected.0.get_mut(&other).filter(|allocation| allocation.is_of(target)) {
                    lost.free(now);
                }
            }
            let ServiceTarget { uid, object, listener } = target.clone();
            corrected.0.insert(port, Allocation { uid, port: listener, object, freed: None });
        }
        corrected
    }

    /// The target that Services show for a port, if the port is allocated to none of their targets.
    fn differing<'a>(&self, port: u16, shown: &'a BTreeSet<ServiceTarget>) -> Option<&'a ServiceTarget> {
        // The owner of a Service without a uid is known from the stored allocations only.
        let mut shown = shown.iter().filter(|target| !target.uid.is_empty());
        let written = self.0.get(&port);
        let is_written = written.is_some_and(|written| shown.clone().any(|target| written.is_of(target)));
        if is_written { None } else { shown.next() }
    }

    /// The port of every listener, by the load balancer's uid and the listener's port. The lowest one if there are
    /// several.
    pub fn by_listener(&self) -> BTreeMap<(&str, u16), u16> {
        let mut ports = BTreeMap::new();
        for (port, allocation) in self.0.iter().filter(|(_, allocation)| allocation.freed.is_none()) {
            ports.entry((&*allocation.uid, allocation.port)).or_insert(*port);
        }
        ports
    }

    /// The port of a listener. The lowest one if there are several.
    pub fn port_of(&self, uid: &str, listener: u16) -> Option<u16> {
        let owned = |allocation: &Allocation| {
            allocation.freed.is_none() && *allocation.uid == *uid && allocation.port == listener
        };
        self.0.iter().find(|(_, allocation)| owned(allocation)).map(|(port, _)| *port)
    }
}
