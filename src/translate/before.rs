use std::{collections::BTreeMap, sync::Arc};

use super::bindings::Bindings;
use crate::{
    model::{Listener, ListenerKey, ObjectKey, Snapshot, Upstream, UpstreamKey},
    source::Declared,
};

/// What a load balancer served before and may go on with: what it keeps while its declaration is wrong.
///
/// Another object of the same name has other uids, and inherits nothing.
pub(super) struct Before<'a> {
    /// By the declared port.
    pub listeners: BTreeMap<u16, &'a Arc<Listener>>,
    pub upstream: Option<&'a Arc<Upstream>>,
}

impl<'a> Before<'a> {
    pub fn of(object: &ObjectKey, declared: &Declared, bindings: &Bindings, previous: &'a Snapshot) -> Self {
        let uid = declared.uid();
        let own = |(key, listener): &(&ListenerKey, &Arc<Listener>)| {
            listener.owner.as_deref() == uid && bindings.allow(key, uid, listener)
        };
        let listeners: BTreeMap<_, _> =
            previous.listeners_of(object).filter(own).map(|(key, listener)| (key.port, listener)).collect();
        // An upstream without listeners is not kept, so that of the same name is its own if a listener is.
        let upstream = previous.upstreams.get(&UpstreamKey { object: object.clone() });
        Self { upstream: upstream.filter(|_| !listeners.is_empty()), listeners }
    }
}
