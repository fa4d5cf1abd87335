use std::sync::Arc;

use super::listener::ListenerState;
use crate::{
    model::{ListenerDrain, Report, Snapshot, UpstreamKey},
    upstream::Upstream,
};

/// Everything that is live at one moment: what metrics and the admin pages show.
#[derive(Debug, Default)]
pub struct View {
    pub snapshot: Arc<Snapshot>,
    pub report: Arc<Report>,
    /// Also those that are no longer served and still have connections.
    pub listeners: Vec<Arc<ListenerState>>,
    /// The latter alone.
    pub draining: Vec<DrainingListener>,
    /// Sorted by key.
    pub upstreams: Vec<(UpstreamKey, Arc<Upstream>)>,
}

/// A listener that is no longer served and still has connections.
#[derive(Clone, Debug)]
pub struct DrainingListener {
    pub listener: Arc<ListenerState>,
    /// What is done with these, as it was declared last.
    pub drain: ListenerDrain,
}
