use std::{collections::BTreeMap, sync::Arc};

use imbl::OrdMap;
use jiff::Timestamp;

use super::{CertificateCache, EndpointKey, Listener, ListenerKey, ObjectKey, UpstreamConfig, UpstreamKey};
use crate::shared::changes;

/// The expiry of each retained endpoint, by upstream.
pub type RetainedUntil = OrdMap<UpstreamKey, Arc<BTreeMap<EndpointKey, Timestamp>>>;

/// The whole configuration at one moment.
///
/// Its maps are persistent, see [`World`](crate::world::World). A listener refers to its upstream by key, so a change of
/// endpoints never changes a listener.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// A counter of published snapshots. 0: the empty snapshot before the first.
    pub generation: u64,
    pub listeners: OrdMap<ListenerKey, Arc<Listener>>,
    pub upstreams: OrdMap<UpstreamKey, Arc<UpstreamConfig>>,
    /// The endpoints that no source confirms any more, with their expiry. The proxy does not need it.
    pub retained_until: RetainedUntil,
    /// The time at which retained endpoints are reported. The proxy does not need it.
    pub report_due: Option<Timestamp>,
    /// Input for the next translation.
    pub certificate_cache: Arc<CertificateCache>,
}

impl Snapshot {
    /// The listeners of a load balancer.
    pub fn listeners_of(&self, object: &ObjectKey) -> impl Iterator<Item = (&ListenerKey, &Arc<Listener>)> {
        let key = |port| ListenerKey { object: object.clone(), port };
        self.listeners.range(key(0)..=key(u16::MAX))
    }

    /// The time at which the next endpoint expires or a report is due without any other change.
    pub fn next_expiration(&self) -> Option<Timestamp> {
        self.retained_until.values().flat_map(|endpoints| endpoints.values()).copied().chain(self.report_due).min()
    }

    /// The listeners that differ. `None`: listener keys, addresses or upstreams differ, or the keys of upstreams.
    pub fn changed_listeners(&self, other: &Self) -> Option<Vec<ListenerKey>> {
        let is_same_place = |(_, before, now): (&ListenerKey, Option<&Arc<Listener>>, Option<&Arc<Listener>>)| {
            before.zip(now).is_some_and(|(before, now)| before.bind == now.bind && before.upstream == now.upstream)
        };
        let changed = || changes(&self.listeners, &other.listeners);
        let mut upstreams = changes(&self.upstreams, &other.upstreams);
        let are_same = upstreams.all(|(_, before, now)| before.is_some() && now.is_some());
        (are_same && changed().all(is_same_place)).then(|| changed().map(|(key, ..)| key.clone()).collect())
    }

    /// True if both have the same listeners and upstreams. Generations and expiries may differ.
    pub fn configures_the_same(&self, other: &Self) -> bool {
        self.listeners == other.listeners && self.upstreams == other.upstreams
    }
}
