use std::{collections::BTreeMap, sync::Arc};

use super::{Listener, ListenerKey, Upstream, UpstreamKey};

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
    /// Whether both configure the same, whatever their generations.
    pub fn configures_the_same(&self, other: &Self) -> bool {
        self.listeners == other.listeners && self.upstreams == other.upstreams
    }
}
