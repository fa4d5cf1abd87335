use std::{collections::BTreeMap, sync::Arc};

use super::{Listener, ListenerKey, ObjectKey, Upstream, UpstreamKey};

/// The whole configuration at one moment.
///
/// A listener names its upstream by key, so a change of endpoints never touches a listener.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts published snapshots; 0 is the empty one before the first.
    pub generation: u64,
    pub listeners: BTreeMap<ListenerKey, Arc<Listener>>,
    pub upstreams: BTreeMap<UpstreamKey, Arc<Upstream>>,
}

impl Snapshot {
    /// The listeners of a load balancer.
    pub fn listeners_of(&self, object: &ObjectKey) -> impl Iterator<Item = (&ListenerKey, &Arc<Listener>)> {
        let key = |port| ListenerKey { object: object.clone(), port };
        self.listeners.range(key(0)..=key(u16::MAX))
    }

    /// Whether both configure the same, whatever their generations.
    pub fn configures_the_same(&self, other: &Self) -> bool {
        self.listeners == other.listeners && self.upstreams == other.upstreams
    }
}
