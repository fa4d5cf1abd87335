use std::sync::Arc;

use super::listener::ListenerState;
use crate::{
    model::{ListenerDrain, Report, Snapshot, UpstreamKey},
    upstream::Upstream,
};

/// The live state at one moment, for metrics and the admin pages.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub snapshot: Arc<Snapshot>,
    pub report: Arc<Report>,
    /// All listeners, including draining ones.
    pub listeners: Arc<[Arc<ListenerState>]>,
    /// The draining listeners.
    pub draining: Arc<[DrainingListener]>,
    /// Sorted by key.
    pub upstreams: Arc<[(UpstreamKey, Arc<Upstream>)]>,
}

/// A removed listener that still has connections.
#[derive(Clone, Debug)]
pub struct DrainingListener {
    pub listener: Arc<ListenerState>,
    /// The last declared drain policy.
    pub drain: ListenerDrain,
}
