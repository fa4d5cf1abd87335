//! Loop detection: endpoints are omitted if their connections would return to their listener.

use std::{borrow::Cow, collections::HashSet, mem, sync::Arc, time::Duration};

use imbl::OrdMap;
use tokio::time::Instant;
use tracing::{info, warn};

use super::local_addresses::LocalAddresses;
use crate::{
    model::{EndpointKey, Listener, Loops, Snapshot, UpstreamConfig, UpstreamKey, loops},
    shared::changes,
};

/// The interval between refreshes of this host's addresses, at least [`REFRESH_COST`] times the duration of a refresh.
const REFRESH_INTERVAL: Duration = Duration::from_secs(5);
/// Refreshes use at most a hundredth of a thread.
const REFRESH_COST: u32 = 100;

/// Prevents connections from looping through the host's own addresses until no descriptor is left. The translation
/// refuses loops that are visible in manifests; only this module knows the addresses of the host.
#[derive(Default)]
pub struct LoopGuard {
    addresses: LocalAddresses,
    /// The snapshot in which loops were last looked for.
    searched: Snapshot,
    /// The ports of its listeners.
    ports: HashSet<u16>,
    found: Loops,
    /// `None`: there are no addresses to refresh.
    next_refresh: Option<Instant>,
}

impl LoopGuard {
    /// The upstreams without endpoints through which connections would loop.
    ///
    /// After a change, the search is skipped if no changed endpoint can be a listener of this process.
    pub fn without_loops<'a>(&mut self, snapshot: &'a Snapshot) -> Cow<'a, OrdMap<UpstreamKey, Arc<UpstreamConfig>>> {
        if self.found.is_empty() && self.is_unaffected(snapshot) {
            self.searched = snapshot.clone();
            return Cow::Borrowed(&snapshot.upstreams);
        }
        self.search(snapshot)
    }

    fn is_unaffected(&self, snapshot: &Snapshot) -> bool {
        let mut upstreams = changes(&self.searched.upstreams, &snapshot.upstreams).filter_map(|(.., now)| now);
        let mut listeners = changes(&self.searched.listeners, &snapshot.listeners);
        listeners.all(|(_, before, now)| before.zip(now).is_some_and(|(before, now)| has_same_targets(before, now)))
            && upstreams.all(|upstream| {
                let mut ports = upstream.endpoints.iter().map(|endpoint| endpoint.key.address.port());
                ports.all(|port| !self.ports.contains(&port))
            })
    }

    /// Like [`Self::without_loops`], but always searches.
    pub fn search<'a>(&mut self, snapshot: &'a Snapshot) -> Cow<'a, OrdMap<UpstreamKey, Arc<UpstreamConfig>>> {
        if self.searched.listeners != snapshot.listeners {
            self.ports = snapshot.listeners.values().map(|listener| listener.bind.port()).collect();
        }
        self.searched = snapshot.clone();
        let previous_addresses = mem::take(&mut self.addresses);
        let found =
            loops(&snapshot.listeners, &snapshot.upstreams, |ip| self.addresses.contain(ip, &previous_addresses));
        let mut upstreams = Cow::Borrowed(&snapshot.upstreams);
        for (key, endpoints) in &found {
            let Some(upstream) = upstreams.to_mut().get_mut(key) else { continue };
            Arc::make_mut(upstream).endpoints.retain(|endpoint| !endpoints.contains_key(&endpoint.key));
        }
        log_difference(&self.found, &found, snapshot);
        self.found = found;
        let due = || Instant::now() + REFRESH_INTERVAL;
        self.next_refresh = (!self.addresses.is_empty()).then(|| self.next_refresh.unwrap_or_else(due));
        upstreams
    }

    /// The omitted endpoints.
    pub fn found(&self) -> &Loops {
        &self.found
    }

    /// The time of the next [`Self::refresh`].
    pub fn next_refresh(&self) -> Option<Instant> {
        self.next_refresh
    }

    /// Refreshes the addresses of this host. True if an answer for an endpoint has changed: then other endpoints may
    /// loop.
    pub fn refresh(&mut self) -> bool {
        let begun = Instant::now();
        let changed = self.addresses.refresh();
        let now = Instant::now();
        self.next_refresh = Some(now + REFRESH_INTERVAL.max((now - begun) * REFRESH_COST));
        changed
    }
}

/// True if two versions of a listener accept connections at the same address, and lead them to the same backends.
fn has_same_targets(before: &Listener, now: &Listener) -> bool {
    let routes = |listener: &'_ Listener| listener.tls.as_ref().map(|tls| tls.routes.clone());
    before.bind == now.bind && before.upstream == now.upstream && routes(before) == routes(now)
}

fn log_difference(before: &Loops, now: &Loops, snapshot: &Snapshot) {
    let missing_in = |loops: &Loops, key, endpoint| !loops.get(key).is_some_and(|found| found.contains_key(endpoint));
    for (upstream, endpoints) in now {
        for (endpoint, listener) in endpoints.iter().filter(|(endpoint, _)| missing_in(before, upstream, *endpoint)) {
            warn!(%upstream, %endpoint, %listener, "endpoint ignored: it is a listener of this process, so its \
                                                    connections would loop");
        }
    }
    for (upstream, endpoints) in before {
        let declared = |endpoint: &EndpointKey| {
            let upstream = snapshot.upstreams.get(upstream);
            upstream.is_some_and(|upstream| upstream.endpoints.iter().any(|declared| declared.key == *endpoint))
        };
        for endpoint in endpoints.keys().filter(|endpoint| missing_in(now, upstream, *endpoint) && declared(endpoint)) {
            info!(%upstream, %endpoint, "endpoint no longer ignored: its connections do not loop");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;
    use crate::model::{ListenerKey, ObjectKey};

    /// Listeners on all addresses, each with the next one as its endpoint. Nothing listens at the last endpoint.
    fn chain(count: usize) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for number in 0..count {
            let object = ObjectKey::new("shop", &number.to_string());
            let port = u16::try_from(number + 1).unwrap();
            let key = ListenerKey { object: object.clone(), port };
            let bind = (Ipv4Addr::UNSPECIFIED, port).into();
            snapshot.listeners.insert(key, Arc::new(Listener::plain(object.clone(), bind)));
            let next = SocketAddr::from((Ipv4Addr::LOCALHOST, port + 1));
            snapshot.upstreams.insert(UpstreamKey { object }, Arc::new(UpstreamConfig::plain([next])));
        }
        snapshot
    }

    #[test]
    fn the_cost_of_a_search_is_that_of_sorting_listeners_and_endpoints() {
        crate::cost::assert_grows_no_faster_than_n_log_n(500, chain, |snapshot| {
            let mut guard = LoopGuard::default();
            assert!(matches!(guard.without_loops(snapshot), Cow::Borrowed(_)));
            // Nothing has changed since.
            assert!(matches!(guard.without_loops(snapshot), Cow::Borrowed(_)));
            assert!(guard.found().is_empty());
        });
    }
}
