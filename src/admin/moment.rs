use std::{collections::BTreeMap, sync::Arc};

use crate::{
    model::{ListenerKey, ObjectKey, UpstreamKey},
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

    pub fn upstream(&self, object: &ObjectKey) -> Option<&Arc<Upstream>> {
        let key = UpstreamKey { object: object.clone() };
        // The upstreams are sorted.
        let place = self.view.upstreams.binary_search_by(|(other, _)| other.cmp(&key)).ok()?;
        Some(&self.view.upstreams[place].1)
    }
}
