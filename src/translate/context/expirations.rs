//! How long endpoints are kept that nothing confirms any more: what they came from is gone, or no longer named.
//!
//! Addresses that somebody wrote are kept without a limit. Those of pods, which have uids beside them, are not.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use super::pods::{Pods, Target};
use crate::{
    model::{Endpoint, EndpointKey, Listener, ObjectKey, Upstream, UpstreamKey},
    translate::context::TranslateContext,
};

/// Long enough to put right what was deleted or misspelt. Not longer, since the address of a pod that is gone is given
/// to another one sooner or later, of any namespace.
pub const MAX_RETENTION: SignedDuration = SignedDuration::from_mins(5);

/// Long enough for EndpointSlices that are written one after the other, while a Service gets new ones or its endpoints
/// move from one to another.
pub const SETTLE_TIME: SignedDuration = SignedDuration::from_secs(1);

/// How long the EndpointSlices of a Service may be missing, or not match it, before it is reported.
pub const REPORT_DELAY: SignedDuration = SignedDuration::from_secs(10);

/// What is said of endpoints that are kept no longer than that.
pub const RETENTION_NOTE: &str = "; pods that no EndpointSlice lists any more are left out after 5 minutes";

impl TranslateContext<'_> {
    /// What a load balancer had before, as far as it may be kept.
    pub fn retained(&self, object: &ObjectKey, before: &Arc<Upstream>) -> Arc<Upstream> {
        let is_retained = |endpoint: &&Endpoint| self.is_retained(object, endpoint);
        if before.endpoints.iter().all(|endpoint| is_retained(&endpoint)) {
            return before.clone();
        }
        let endpoints = before.endpoints.iter().filter(is_retained).cloned().collect();
        Arc::new(Upstream { endpoints, ..Upstream::clone(before) })
    }

    /// Adds to an upstream, as far as it may be kept, what a listener leads to that goes on as before, while its backends
    /// are no longer declared.
    pub fn restore_routed_endpoints(&self, listener: &Listener, upstream: &mut Arc<Upstream>) {
        let routes = listener.tls.iter().flat_map(|tls| &tls.routes);
        let names = routes.filter_map(|route| route.backends.as_ref()).flat_map(|names| names.iter());
        let Some(previous) = self.previous.upstreams.get(&listener.upstream) else { return };
        let missing = names.filter(|name| !upstream.backends.contains_key(*name));
        let missing: BTreeMap<_, _> =
            missing.filter_map(|name| Some((name.clone(), previous.backends.get(name)?.clone()))).collect();
        let is_routed = |endpoint: &&Endpoint| {
            missing.contains_key(&endpoint.key.backend)
                && self.reach.refusal(endpoint.address(), Target::Pod).is_none()
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

    pub fn is_retained(&self, object: &ObjectKey, endpoint: &Endpoint) -> bool {
        self.expires_at(object, endpoint).is_none_or(|then| self.now < then)
    }

    /// When endpoints of an upstream have to go. `None`: none has to.
    pub fn expirations_of(&self, key: &UpstreamKey, upstream: &Upstream) -> Option<BTreeMap<EndpointKey, Timestamp>> {
        let to_go = |endpoint: &Endpoint| Some((endpoint.key.clone(), self.expires_at(&key.object, endpoint)?));
        // One whose time is over is not kept: whatever has it, has it from elsewhere.
        let later = upstream.endpoints.iter().filter_map(to_go).filter(|(_, then)| *then > self.now);
        let all: BTreeMap<_, _> = later.collect();
        (!all.is_empty()).then_some(all)
    }

    /// When an endpoint has to go. `None`: something confirms it.
    pub fn expires_at(&self, object: &ObjectKey, endpoint: &Endpoint) -> Option<Timestamp> {
        let (uid, address) = (endpoint.key.uid.as_deref()?, endpoint.address());
        let listed = self.pods.get_or_init(|| Pods::of(self.world)).at(address.ip());
        if listed.iter().any(|pod| *pod.uid == *uid && self.reach.refusal(address, pod.target).is_none()) {
            return None;
        }
        // It is another's already. Only Kubernetes is believed that, or anybody could take endpoints from others; and only
        // of the port too, for pods in the network of their node share its address.
        if listed.iter().any(|pod| pod.target == Target::Pod && pod.ports.contains(&address.port())) {
            return Some(self.now);
        }
        Some(self.recorded_expiration(object, &endpoint.key, MAX_RETENTION))
    }

    /// The recorded expiration of an endpoint that nothing confirms, at most `limit` from now.
    pub fn recorded_expiration(&self, object: &ObjectKey, endpoint: &EndpointKey, limit: SignedDuration) -> Timestamp {
        let known = self.previous.retained_until.get(&UpstreamKey { object: object.clone() });
        let known = known.and_then(|known| known.get(endpoint)).copied();
        let latest = self.now.saturating_add(limit).unwrap_or(Timestamp::MAX);
        // It may be later than that where the clock has been put back.
        known.map_or(latest, |known| known.min(latest))
    }
}
