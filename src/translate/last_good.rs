use std::{collections::BTreeMap, sync::Arc};

use super::context::{TranslateContext, pods::Target, reach::Reach};
use crate::{
    model::{Endpoint, EndpointKey, Listener, ListenerKey, ObjectKey, Upstream, UpstreamKey},
    world::Declared,
};

/// What a load balancer served before and may go on with: what it keeps while its declaration is wrong.
///
/// Another object of the same name has other uids, and inherits nothing.
pub(super) struct LastGood<'a> {
    /// By the declared port.
    pub listeners: BTreeMap<u16, &'a Arc<Listener>>,
    /// Without endpoints that no backend may have any more.
    pub upstream: Option<Arc<Upstream>>,
}

impl<'a> LastGood<'a> {
    pub fn of(object: &ObjectKey, declared: &Declared, context: &TranslateContext<'a>) -> Self {
        let TranslateContext { previous, bindings, reach, .. } = context;
        let uid = declared.uid();
        let own = |(key, listener): &(&ListenerKey, &Arc<Listener>)| {
            listener.owner.as_deref() == uid && bindings.allow(key, uid, listener)
        };
        let listeners: BTreeMap<_, _> =
            previous.listeners_of(object).filter(own).map(|(key, listener)| (key.port, listener)).collect();
        // An upstream without listeners is not kept, so that of the same name is its own if a listener is.
        let upstream = previous.upstreams.get(&UpstreamKey { object: object.clone() });
        let upstream = upstream.filter(|_| !listeners.is_empty()).map(|upstream| within(upstream, reach));
        Self { listeners, upstream }
    }

    /// Whether there may be connections to this endpoint.
    pub fn contained(&self, endpoint: &EndpointKey) -> bool {
        self.upstream.as_ref().is_some_and(|before| {
            before.endpoints.binary_search_by(|other| other.key.cmp(endpoint)).is_ok()
                || before.unready.contains_key(endpoint)
        })
    }
}

fn within(upstream: &Arc<Upstream>, reach: &Reach) -> Arc<Upstream> {
    let stays = |endpoint: &Endpoint| reach.refusal(endpoint.address(), Target::Pod).is_none();
    if upstream.endpoints.iter().all(stays) {
        return upstream.clone();
    }
    let endpoints = upstream.endpoints.iter().filter(|endpoint| stays(endpoint)).cloned().collect();
    Arc::new(Upstream { endpoints, ..Upstream::clone(upstream) })
}
