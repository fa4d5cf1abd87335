//! Retention of endpoints that no source confirms any more, since their source is gone or no longer declared.
//!
//! Declared addresses are retained without a limit; addresses of pods, whose endpoints have a uid, are not.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use super::pods::AddressOwner;
use crate::{
    model::{EndpointConfig, EndpointKey, Listener, ObjectKey, UpstreamConfig, UpstreamKey},
    translate::context::TranslateContext,
};

/// Long enough to restore a deleted or misspelt object. Not longer, since the address of a deleted pod is reused by
/// other pods of any namespace.
pub const MAX_RETENTION: SignedDuration = SignedDuration::from_mins(5);

/// Long enough for consecutive EndpointSlice updates, in which a Service gets new slices or endpoints move between
/// slices.
pub const SETTLE_TIME: SignedDuration = SignedDuration::from_secs(1);

/// Delay before missing or mismatched EndpointSlices of a Service are reported.
pub const REPORT_DELAY: SignedDuration = SignedDuration::from_secs(10);

/// Suffix of messages about endpoints that are retained for [`MAX_RETENTION`].
pub const RETENTION_NOTE: &str = "; pods that no EndpointSlice lists any more are removed after 5 minutes";

impl TranslateContext<'_> {
    /// The last good upstream, without expired endpoints.
    pub fn retained(&self, object: &ObjectKey, before: &Arc<UpstreamConfig>) -> Arc<UpstreamConfig> {
        let is_retained = |endpoint: &&EndpointConfig| self.is_retained(object, endpoint);
        if before.endpoints.iter().all(|endpoint| is_retained(&endpoint)) {
            return before.clone();
        }
        let endpoints = before.endpoints.iter().filter(is_retained).cloned().collect();
        Arc::new(UpstreamConfig { endpoints, ..UpstreamConfig::clone(before) })
    }

    /// Restores the endpoints of backends that are no longer declared, but still used by the routes of a last good
    /// listener.
    pub fn restore_routed_endpoints(&self, listener: &Listener, upstream: &mut Arc<UpstreamConfig>) {
        let routes = listener.tls.iter().flat_map(|tls| &tls.routes);
        let names = routes.filter_map(|route| route.backends.as_ref()).flat_map(|names| names.iter());
        let Some(previous) = self.previous.upstreams.get(&listener.upstream) else { return };
        let missing = names.filter(|name| !upstream.backends.contains_key(*name));
        let missing: BTreeMap<_, _> =
            missing.filter_map(|name| Some((name.clone(), previous.backends.get(name)?.clone()))).collect();
        let is_routed = |endpoint: &&EndpointConfig| {
            missing.contains_key(&endpoint.key.backend)
                && self.address_policy.refusal(endpoint.address(), AddressOwner::Pod).is_none()
                && self.is_retained(&listener.upstream.object, endpoint)
        };
        let endpoints: Vec<_> = previous.endpoints.iter().filter(is_routed).cloned().collect();
        if endpoints.is_empty() {
            return;
        }
        let upstream = Arc::make_mut(upstream);
        upstream.backends.extend(missing);
        upstream.endpoints.extend(endpoints);
        upstream.endpoints.sort_unstable_by(|one, other| one.key.cmp(&other.key));
    }

    pub fn is_retained(&self, object: &ObjectKey, endpoint: &EndpointConfig) -> bool {
        self.expires_at(object, endpoint).is_none_or(|then| self.now < then)
    }

    /// Expiration of each unconfirmed endpoint of an upstream. `None`: there are none.
    pub fn expirations_of(
        &self,
        key: &UpstreamKey,
        upstream: &UpstreamConfig,
    ) -> Option<BTreeMap<EndpointKey, Timestamp>> {
        let to_go = |endpoint: &EndpointConfig| Some((endpoint.key.clone(), self.expires_at(&key.object, endpoint)?));
        // Expired endpoints are not retained. Those still present are from another source.
        let later = upstream.endpoints.iter().filter_map(to_go).filter(|(_, then)| *then > self.now);
        let all: BTreeMap<_, _> = later.collect();
        (!all.is_empty()).then_some(all)
    }

    /// Expiration of an endpoint. `None`: an EndpointSlice confirms it.
    pub fn expires_at(&self, object: &ObjectKey, endpoint: &EndpointConfig) -> Option<Timestamp> {
        let (uid, address) = (endpoint.key.uid.as_deref()?, endpoint.address());
        let slices = self.slices_by_address();
        let listed = || slices.at(address.ip(), self.world);
        if listed().any(|pod| pod.uid == uid && self.address_policy.refusal(address, pod.target).is_none()) {
            return None;
        }
        // Another pod has the address. Only slices written by Kubernetes count; with other slices, any user could
        // remove endpoints of others. The port must match too, since host-network pods share the address of their node.
        if listed().any(|pod| pod.target == AddressOwner::Pod && pod.has_port(address.port())) {
            return Some(self.now);
        }
        Some(self.recorded_expiration(object, &endpoint.key, MAX_RETENTION))
    }

    /// Recorded expiration of an unconfirmed endpoint, at most `limit` from now.
    pub fn recorded_expiration(&self, object: &ObjectKey, endpoint: &EndpointKey, limit: SignedDuration) -> Timestamp {
        let expirations = self.previous.retained_until.get(&UpstreamKey { object: object.clone() });
        let recorded = expirations.and_then(|expirations| expirations.get(endpoint)).copied();
        let latest = self.now.saturating_add(limit).unwrap_or(Timestamp::MAX);
        // A recorded time can be later than that after the clock was set back.
        recorded.map_or(latest, |recorded| recorded.min(latest))
    }
}
