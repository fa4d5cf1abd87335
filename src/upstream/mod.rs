//! Live state of endpoints that outlives snapshots: counts, balancing, health, ejection, preconnected sockets.
//!
//! The topology task owns [`Upstreams`]. A connection picks an endpoint from a [`Subset`] of an [`Upstream`] and gets
//! an [`ActiveConnection`], without a lock. Everything else happens in the control task of each upstream, on the
//! control runtime: probes and failed connections report to it; it decides which endpoints are usable, and publishes
//! new balancers. Changes that arrive together are published together, and only subsets whose endpoints have changed
//! are rebuilt.

mod backends;
mod balance;
mod change_log;
mod control;
mod dial;
mod endpoint;
mod endpoint_set;
mod in_place;
mod priority;
mod probe;
mod published;
pub mod rebalance;
pub mod socket_options;
mod subset;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, atomic::Ordering::Relaxed},
};

use imbl::OrdMap;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

#[cfg(feature = "fuzzing")]
pub use self::probe::fuzzing;
pub use self::{
    backends::Backends,
    change_log::ChangeLog,
    dial::{dial, is_local},
    endpoint::{
        ActiveConnection, Endpoint, TriedEndpoints,
        pool::{PoolFigures, PreconnectBudget},
    },
    in_place::{in_place, in_place_if},
    published::FormerEndpoint,
    subset::Subset,
};
use self::{
    control::{UpstreamContext, UpstreamControl, run, task},
    published::Published,
    rebalance::{Group, RebalancePolicy},
};
use crate::{
    capacity::TenantPlaces,
    model::{self, UpstreamKey},
    shared::changes,
};

/// All upstreams, by key.
pub struct Upstreams {
    context: UpstreamContext,
    entries: BTreeMap<UpstreamKey, UpstreamEntry>,
    /// The settings that were applied last.
    applied: OrdMap<UpstreamKey, Arc<model::UpstreamConfig>>,
}

impl Upstreams {
    /// Probes, pools and control tasks run on `control`. All pools together hold as many sockets as `budget` allows. At
    /// most `probes` run concurrently, divided among namespaces.
    pub fn new(control: Handle, budget: PreconnectBudget, probes: usize) -> Self {
        let (changes, probes) = (Arc::default(), TenantPlaces::new(probes));
        let context = UpstreamContext { control, budget, probes, changes };
        Self { context, entries: BTreeMap::new(), applied: OrdMap::new() }
    }

    /// Adds and changes upstreams. Endpoints that stay, by key, keep their state.
    ///
    /// A `pick` that begins after this returns sees only the new endpoints.
    pub fn update(&mut self, wanted: &OrdMap<UpstreamKey, Arc<model::UpstreamConfig>>) {
        /// The number of endpoints whose upstreams take long to change.
        const MANY: usize = 1000;

        let before = mem::replace(&mut self.applied, wanted.clone());
        let is_probed = |settings: Option<&Arc<model::UpstreamConfig>>| settings.is_some_and(|it| is_probed(it));
        let changed: Vec<_> = changes(&before, wanted).collect();
        if changed.iter().any(|(_, before, now)| is_probed(*before) != is_probed(*now)) {
            let probed = wanted.iter().filter(|(_, wanted)| is_probed(Some(wanted)));
            self.context.probes.divide(probed.map(|(key, _)| &key.object.namespace));
        }
        let endpoints: usize = changed.iter().filter_map(|(.., now)| Some(now.as_ref()?.endpoints.len())).sum();
        in_place_if(endpoints >= MANY, || {
            for (key, _, now) in changed {
                let Some(wanted) = now else { continue };
                match self.entries.get_mut(key) {
                    Some(entry) => entry.upstream.change(wanted),
                    None => {
                        let entry = UpstreamEntry::new(key, wanted, &self.context);
                        self.entries.insert(key.clone(), entry);
                    }
                }
            }
        });
    }

    /// Removes the upstreams that are not in `wanted`. Their connections continue.
    pub fn retain(&mut self, wanted: &OrdMap<UpstreamKey, Arc<model::UpstreamConfig>>) {
        self.entries.retain(|key, _| wanted.contains_key(key));
        if self.applied.keys().any(|key| !wanted.contains_key(key)) {
            self.applied = self.applied.clone().into_iter().filter(|(key, _)| wanted.contains_key(key)).collect();
        }
    }

    pub fn find(&self, key: &UpstreamKey) -> Option<Arc<Upstream>> {
        self.entries.get(key).map(|entry| entry.upstream.clone())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&UpstreamKey, &Arc<Upstream>)> {
        self.entries.iter().map(|(key, entry)| (key, &entry.upstream))
    }

    /// The changes of usable or draining endpoints.
    pub fn changes(&self) -> Arc<ChangeLog> {
        self.context.changes.clone()
    }
}

/// An upstream and its control task.
struct UpstreamEntry {
    upstream: Arc<Upstream>,
    _keeper: AbortOnDropHandle<()>,
}

impl UpstreamEntry {
    fn new(key: &UpstreamKey, wanted: &Arc<model::UpstreamConfig>, context: &UpstreamContext) -> Self {
        let upstream = Arc::new(Upstream::new(key.clone(), wanted, context.clone()));
        upstream.change(wanted);
        let entry = upstream.control.clone();
        let control = task::spawn(&context.control, "keeper", move || run(entry.clone()));
        Self { upstream, _keeper: control }
    }
}

fn is_probed(settings: &model::UpstreamConfig) -> bool {
    settings.backends.values().any(|backend| backend.active_check.is_some())
}

impl Drop for UpstreamEntry {
    fn drop(&mut self) {
        self.upstream.control().retire();
    }
}

/// A live set of endpoints that connections are balanced over.
pub struct Upstream {
    published: Arc<Published>,
    /// Never locked by a connection.
    control: Arc<Mutex<UpstreamControl>>,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("key", self.key()).finish_non_exhaustive()
    }
}

impl Upstream {
    fn new(key: UpstreamKey, wanted: &model::UpstreamConfig, context: UpstreamContext) -> Self {
        let published = Arc::new(Published::new(key, wanted));
        let control = UpstreamControl::new(context, published.clone());
        Self { published, control: Arc::new(Mutex::new(control)) }
    }

    pub fn key(&self) -> &UpstreamKey {
        &self.published.key
    }

    /// The subset of these backends, which connections are balanced over.
    pub fn subset(&self, backends: &Backends) -> Arc<Subset> {
        self.control().subset(backends)
    }

    /// TCP keepalive towards the endpoints.
    pub fn keepalive(&self) -> Option<model::Keepalive> {
        self.published.current.load().keepalive
    }

    /// All endpoints, sorted by key.
    pub fn endpoints(&self) -> Arc<[Arc<Endpoint>]> {
        self.published.endpoints()
    }

    /// All endpoints, sorted by key, and the removed ones that may have connections, at one moment.
    pub fn endpoints_and_former(&self) -> (Arc<[Arc<Endpoint>]>, Arc<[FormerEndpoint]>) {
        self.published.endpoints_and_former()
    }

    /// The active priority of these backends, if it is not their first one.
    pub fn failed_over(&self, backends: &Backends) -> Option<model::Priority> {
        self.control().failed_over(backends)
    }

    /// The endpoints that get no new connections, with the cause, and the policy for their open connections.
    pub fn draining(&self) -> Vec<(Arc<Endpoint>, model::DrainCause, Option<model::Close>)> {
        self.control().draining()
    }

    /// The rebalancing settings; `None`: disabled.
    pub fn rebalancing(&self) -> Option<RebalancePolicy> {
        self.published.current.load().rebalance
    }

    /// The endpoints that connections are balanced over, in groups of comparable shares.
    pub fn groups(&self) -> Vec<Group> {
        self.control().groups()
    }

    /// The number of usable endpoints.
    pub fn usable(&self) -> usize {
        self.published.current.load().usable
    }

    /// The number of changes of the active priority level, of the whole or of a route.
    pub fn priority_changes(&self) -> u64 {
        self.published.priority_changes.load(Relaxed)
    }

    fn change(&self, wanted: &Arc<model::UpstreamConfig>) {
        self.control().change(&self.control, wanted);
    }

    fn control(&self) -> MutexGuard<'_, UpstreamControl> {
        control::lock(&self.control)
    }
}
