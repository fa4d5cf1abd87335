use std::{collections::BTreeMap, sync::Arc};

use crate::{
    model::{ListenerKey, LoadBalancerTraffic, ObjectKey, ReplicaTraffic, UpstreamKey},
    proxy::{Draining, ListenerState, Monitor, View},
    state::{Configuration, ReadinessState},
    upstream::Upstream,
};

/// The configuration and the live state at one moment.
pub struct Moment {
    pub configuration: Arc<Configuration>,
    pub view: Arc<View>,
    /// The drains in progress that still have connections.
    pub draining: Vec<Draining>,
}

pub type LiveListeners<'a> = BTreeMap<&'a ListenerKey, &'a Arc<ListenerState>>;

impl Moment {
    pub fn now(monitor: &Monitor, state: &ReadinessState) -> Self {
        let (configuration, view) = (state.configuration(), monitor.view());
        let draining = monitor.draining().iter().filter(|draining| draining.resource.open() > 0).cloned().collect();
        Self { configuration, view, draining }
    }

    /// The served listeners. If several have the same key, the first one is served.
    pub fn listeners(&self) -> LiveListeners<'_> {
        self.view.listeners.iter().rev().map(|live| (&live.key, live)).collect()
    }

    /// The sums of the listeners of a load balancer.
    pub fn traffic_of(&self, object: &ObjectKey, listeners: &LiveListeners) -> LoadBalancerTraffic {
        let mut sum = LoadBalancerTraffic::default();
        for (key, _) in self.view.snapshot.listeners_of(object) {
            let Some(listener) = listeners.get(key) else { continue };
            let traffic = listener.counters.traffic();
            sum.active += traffic.active;
            sum.connections += traffic.accepted;
            sum.bytes += traffic.bytes;
            sum.failures += traffic.failures;
        }
        sum
    }

    /// The traffic of the load balancers that have a uid from an API server.
    pub fn traffic(&self) -> ReplicaTraffic {
        let listeners = self.listeners();
        let load_balancers = self.configuration.verdicts.iter().filter_map(|(object, verdict)| {
            let uid = verdict.identity.as_ref()?.uid.clone();
            Some((uid, self.traffic_of(object, &listeners)))
        });
        ReplicaTraffic { load_balancers: load_balancers.collect() }
    }

    pub fn upstream(&self, object: &ObjectKey) -> Option<&Arc<Upstream>> {
        let key = UpstreamKey { object: object.clone() };
        // The upstreams are sorted.
        let place = self.view.upstreams.binary_search_by(|(other, _)| other.cmp(&key)).ok()?;
        Some(&self.view.upstreams[place].1)
    }
}
