use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use super::ListenerKey;

/// What the proxy made of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The generation of the snapshot that is applied.
    pub generation: u64,
    pub listeners: BTreeMap<ListenerKey, ListenerState>,
    /// Counts up when endpoints may have become usable or unusable: whoever shows them looks again.
    pub usable_changes: u64,
}

impl Report {
    /// The listeners that could not be bound, each with the reason.
    pub fn unbound(&self) -> impl Iterator<Item = (&ListenerKey, &Arc<str>)> {
        self.listeners.iter().filter_map(|(key, state)| match state {
            ListenerState::Bound(_) => None,
            ListenerState::Failed(sentence) => Some((key, sentence)),
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenerState {
    /// Accepting connections on this address.
    Bound(SocketAddr),
    /// Not bound; tried again with growing pauses. The sentence says why.
    Failed(Arc<str>),
}
