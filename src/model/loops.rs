//! Endpoints that are listeners of the same process.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{EndpointKey, Listener, ListenerKey, Upstream, UpstreamKey, covers};

/// Endpoints of upstreams, each with the listener that it is.
pub type Loops = BTreeMap<UpstreamKey, BTreeMap<EndpointKey, ListenerKey>>;

/// The endpoints through which connections of a listener would come back to that listener, directly or through others.
///
/// `is_local` answers whether an address is one of this host's.
pub fn loops(
    listeners: &BTreeMap<ListenerKey, Arc<Listener>>,
    upstreams: &BTreeMap<UpstreamKey, Arc<Upstream>>,
    mut is_local: impl FnMut(IpAddr) -> bool,
) -> Loops {
    let mut by_port: BTreeMap<u16, Vec<(&ListenerKey, &Listener)>> = BTreeMap::new();
    for (key, listener) in listeners {
        by_port.entry(listener.bind.port()).or_default().push((key, listener));
    }
    let mut own = BTreeMap::new();
    for (key, upstream) in upstreams {
        for endpoint in upstream.endpoints.iter().map(|endpoint| &endpoint.key) {
            let candidates = by_port.get(&endpoint.address.port()).into_iter().flatten();
            for (listener, _) in candidates.filter(|(_, listener)| {
                let bind = listener.bind;
                covers(bind, endpoint.address)
                    && (bind.ip() == endpoint.address.ip() || is_local(endpoint.address.ip()))
            }) {
                own.entry(key).or_insert_with(Vec::new).push((endpoint, *listener));
            }
        }
    }
    let edges = Edges { listeners, own };
    let mut loops = Loops::new();
    for key in listeners.keys() {
        for (endpoint, target) in edges.of(key) {
            if edges.lead_back(target, key) {
                let upstream = &listeners[key].upstream;
                loops.entry(upstream.clone()).or_default().insert(endpoint.clone(), target.clone());
            }
        }
    }
    loops
}

/// The ways from listeners to listeners.
struct Edges<'a> {
    listeners: &'a BTreeMap<ListenerKey, Arc<Listener>>,
    /// The endpoints of each upstream that are listeners.
    own: BTreeMap<&'a UpstreamKey, Vec<(&'a EndpointKey, &'a ListenerKey)>>,
}

impl<'a> Edges<'a> {
    fn of(&self, from: &ListenerKey) -> impl Iterator<Item = (&'a EndpointKey, &'a ListenerKey)> {
        let listener = &self.listeners[from];
        let own = self.own.get(&listener.upstream).into_iter().flatten();
        own.filter(|(endpoint, _)| leads_to(listener, &endpoint.backend)).copied()
    }

    fn lead_back(&self, from: &'a ListenerKey, to: &ListenerKey) -> bool {
        let (mut seen, mut next) = (BTreeSet::from([from]), vec![from]);
        while let Some(listener) = next.pop() {
            if listener == to {
                return true;
            }
            next.extend(self.of(listener).map(|(_, target)| target).filter(|target| seen.insert(*target)));
        }
        false
    }
}

/// Whether connections of the listener may go to this backend.
fn leads_to(listener: &Listener, backend: &Arc<str>) -> bool {
    let Some(tls) = &listener.tls else { return true };
    tls.routes.iter().any(|route| route.backends.as_ref().is_none_or(|backends| backends.contains(backend)))
}
