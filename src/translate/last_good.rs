use std::{collections::BTreeMap, sync::Arc};

use super::context::{TranslateContext, address_policy::AddressPolicy, pods::AddressOwner};
use crate::{
    model::{EndpointConfig, EndpointKey, Listener, ListenerKey, ObjectKey, UpstreamConfig, UpstreamKey},
    world::Declared,
};

/// The configuration that a load balancer served last and keeps while its declaration is wrong.
///
/// A recreated object has another uid and inherits nothing.
pub(super) struct LastGood<'a> {
    /// Listeners by declared port.
    pub listeners: BTreeMap<u16, &'a Arc<Listener>>,
    /// The upstream without endpoints whose addresses are no longer allowed.
    pub upstream: Option<Arc<UpstreamConfig>>,
}

impl<'a> LastGood<'a> {
    pub fn of(object: &ObjectKey, declared: &Declared, context: &TranslateContext<'a>) -> Self {
        let TranslateContext { previous, bindings, address_policy, .. } = context;
        let uid = declared.uid();
        let own = |(key, listener): &(&ListenerKey, &Arc<Listener>)| {
            listener.owner.as_deref() == uid && bindings.allow(key, uid, listener)
        };
        let listeners: BTreeMap<_, _> =
            previous.listeners_of(object).filter(own).map(|(key, listener)| (key.port, listener)).collect();
        // Upstreams are kept only with a listener, so the upstream of this name has the same owner as its listeners.
        let upstream = previous.upstreams.get(&UpstreamKey { object: object.clone() });
        let upstream = upstream.filter(|_| !listeners.is_empty()).map(|upstream| within(upstream, address_policy));
        Self { listeners, upstream }
    }

    /// True if the endpoint may have open connections.
    pub fn contained(&self, endpoint: &EndpointKey) -> bool {
        self.served(endpoint).is_some()
            || self.upstream.as_ref().is_some_and(|before| before.unready.contains_key(endpoint))
    }

    /// The equal key of a previous endpoint, if there is one. Live endpoints keep the texts of their first key, which then
    /// do not take memory twice.
    pub fn shared(&self, endpoint: EndpointKey) -> EndpointKey {
        self.served(&endpoint).cloned().unwrap_or(endpoint)
    }

    fn served(&self, endpoint: &EndpointKey) -> Option<&EndpointKey> {
        let endpoints = &self.upstream.as_ref()?.endpoints;
        let place = endpoints.binary_search_by(|other| other.key.cmp(endpoint)).ok()?;
        Some(&endpoints[place].key)
    }
}

fn within(upstream: &Arc<UpstreamConfig>, policy: &AddressPolicy) -> Arc<UpstreamConfig> {
    let stays = |endpoint: &EndpointConfig| policy.refusal(endpoint.address(), AddressOwner::Pod).is_none();
    if upstream.endpoints.iter().all(stays) {
        return upstream.clone();
    }
    let endpoints = upstream.endpoints.iter().filter(|endpoint| stays(endpoint)).cloned().collect();
    Arc::new(UpstreamConfig { endpoints, ..UpstreamConfig::clone(upstream) })
}
