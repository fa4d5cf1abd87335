//! Retention of endpoints while a Service and its EndpointSlices do not match.
//!
//! Service and slices are written one after the other, by different writers. In between, a Service may have slices of
//! its predecessor, slices without its port, or none.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::endpoint::{BackendEndpoint, Conditions};
use crate::{
    model::{self, EndpointKey},
    translate::{
        context::{
            expirations::{MAX_RETENTION, REPORT_DELAY, SETTLE_TIME},
            pods::AddressOwner,
        },
        declaration::Declaration,
    },
};

/// Expirations of unconfirmed endpoints, and the time at which to report them.
#[derive(Default, PartialEq, Eq)]
pub struct Retention {
    pub expirations: BTreeMap<EndpointKey, Timestamp>,
    pub report_due: Option<Timestamp>,
}

impl Retention {
    pub fn merge(&mut self, other: Self) {
        self.expirations.extend(other.expirations);
        self.report_due = self.report_due.into_iter().chain(other.report_due).min();
    }
}

/// A retained endpoint.
pub struct Retained<'a> {
    pub endpoint: &'a model::EndpointConfig,
    pub conditions: Conditions,
    pub until: Timestamp,
}

impl Retained<'_> {
    pub fn member(&self, serves: bool, last_resort: bool) -> BackendEndpoint {
        let EndpointKey { address, uid, .. } = &self.endpoint.key;
        BackendEndpoint {
            address: *address,
            uid: uid.clone(),
            pod: None,
            stable_id: self.endpoint.stable_id.clone(),
            proximity: self.endpoint.proximity,
            unready: (!serves).then(|| self.conditions.unready()),
            last_resort,
            until: Some(self.until),
        }
    }
}

/// The slices of a Service, by whether they match its present declaration.
#[derive(Default)]
pub struct SliceMatch<'a> {
    pub matching: Vec<&'a EndpointSlice>,
    pub stale: Vec<&'a EndpointSlice>,
    /// True if Kubernetes writes the slices, so at least one exists for every Service.
    pub has_selector: bool,
}

impl<'a> SliceMatch<'a> {
    /// True if at least one slice matches the present declaration.
    pub fn is_current(&self) -> bool {
        !self.matching.is_empty() || self.stale.is_empty() && !self.has_selector
    }

    /// The endpoints in `missing` that may stay. A pod in a matching slice is judged by that slice alone.
    pub fn retained<'b>(
        &self,
        missing: &[&'b model::EndpointConfig],
        last_resort: bool,
        declaration: &Declaration,
    ) -> Vec<Retained<'b>> {
        if missing.is_empty() {
            return Vec::new();
        }
        let matching: BTreeSet<_> =
            self.matching.iter().flat_map(|slice| &slice.endpoints).filter_map(identity).collect();
        let mut stale: BTreeMap<_, Conditions> = BTreeMap::new();
        for endpoint in self.stale.iter().flat_map(|slice| &slice.endpoints) {
            let conditions = Conditions::of(endpoint);
            if let Some(identity) = identity(endpoint) {
                stale.entry(identity).and_modify(|known| *known = known.or(conditions)).or_insert(conditions);
            }
        }
        let as_before = Conditions { ready: !last_resort, terminating: last_resort, last_resort };
        let retained = missing.iter().filter_map(|endpoint| {
            let identity = identity_of(endpoint.key.uid.as_deref(), endpoint.address().ip());
            if matching.contains(&identity) {
                return None;
            }
            let listed = stale.get(&identity).copied();
            let limit = if listed.is_some() || !self.is_current() { MAX_RETENTION } else { SETTLE_TIME };
            let until = expiration(endpoint, limit, declaration)?;
            Some(Retained { endpoint, conditions: listed.unwrap_or(as_before), until })
        });
        retained.collect()
    }
}

/// Expiration of an unlisted endpoint. `None`: it may not stay.
fn expiration(endpoint: &model::EndpointConfig, limit: SignedDuration, declaration: &Declaration) -> Option<Timestamp> {
    let Declaration { object, context, .. } = declaration;
    // Pods were allowed while they were listed. Other addresses must be allowed by themselves.
    let target = if endpoint.key.uid.is_some() { AddressOwner::Pod } else { AddressOwner::Unknown };
    let is_allowed = context.address_policy.refusal(endpoint.address(), target).is_none();
    let until = context.recorded_expiration(object, &endpoint.key, limit);
    let until = context.expires_at(object, endpoint).map_or(until, |then| then.min(until));
    (is_allowed && context.now < until).then_some(until)
}

/// Time at which to report retained endpoints. Short retentions are not reported.
pub fn report_due<'a>(retained: &[Retained<'a>], now: Timestamp) -> Option<Timestamp> {
    let due = |retained: &Retained| {
        let since = retained.until.checked_sub(MAX_RETENTION).unwrap_or(Timestamp::MIN);
        since.saturating_add(REPORT_DELAY).unwrap_or(Timestamp::MAX)
    };
    // An endpoint that expires shortly was retained only briefly, or has been reported.
    let lasting = retained.iter().filter(|retained| retained.until.duration_since(now) > SETTLE_TIME);
    lasting.map(due).min()
}

/// Identity of an endpoint: the pod's uid, else the address.
fn identity(endpoint: &Endpoint) -> Option<(Option<&str>, Option<IpAddr>)> {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref());
    let ip: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    Some(identity_of(uid, ip.to_canonical()))
}

fn identity_of(uid: Option<&str>, ip: IpAddr) -> (Option<&str>, Option<IpAddr>) {
    (uid, uid.is_none().then_some(ip))
}
