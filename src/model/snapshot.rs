use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use super::{CertificateCache, EndpointKey, Listener, ListenerKey, ObjectKey, Upstream, UpstreamKey};

/// The whole configuration at one moment.
///
/// A listener names its upstream by key, so a change of endpoints never touches a listener.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts published snapshots; 0 is the empty one before the first.
    pub generation: u64,
    pub listeners: BTreeMap<ListenerKey, Arc<Listener>>,
    pub upstreams: BTreeMap<UpstreamKey, Arc<Upstream>>,
    /// The endpoints that nothing confirms any more, and when each of them has to go. Whoever serves need not know.
    pub retained_until: BTreeMap<UpstreamKey, BTreeMap<EndpointKey, Timestamp>>,
    /// The time at which the endpoints that are kept are to be reported. Whoever serves need not know.
    pub report_due: Option<Timestamp>,
    /// For the next translation.
    pub certificate_cache: Arc<CertificateCache>,
}

impl Snapshot {
    /// The listeners of a load balancer.
    pub fn listeners_of(&self, object: &ObjectKey) -> impl Iterator<Item = (&ListenerKey, &Arc<Listener>)> {
        let key = |port| ListenerKey { object: object.clone(), port };
        self.listeners.range(key(0)..=key(u16::MAX))
    }

    /// When the next endpoint has to go, or is to be reported, though nothing else changes.
    pub fn next_expiration(&self) -> Option<Timestamp> {
        self.retained_until.values().flat_map(BTreeMap::values).copied().chain(self.report_due).min()
    }

    /// Whether both configure the same, whatever their generations, and until when.
    pub fn configures_the_same(&self, other: &Self) -> bool {
        self.listeners == other.listeners && self.upstreams == other.upstreams
    }
}
