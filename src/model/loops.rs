//! Endpoints that are listeners of the same process.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use super::{EndpointKey, Listener, ListenerKey, UpstreamConfig, UpstreamKey, covers};

/// The endpoints of each upstream that are listeners, with these listeners.
pub type Loops = BTreeMap<UpstreamKey, BTreeMap<EndpointKey, ListenerKey>>;

/// The endpoints through which connections of a listener would return to that listener, directly or through others.
///
/// `is_local` is true for the addresses of this host.
pub fn loops<'a>(
    listeners: impl IntoIterator<Item = (&'a ListenerKey, &'a Arc<Listener>)>,
    upstreams: impl IntoIterator<Item = (&'a UpstreamKey, &'a Arc<UpstreamConfig>)>,
    mut is_local: impl FnMut(IpAddr) -> bool,
) -> Loops {
    let numbered: Vec<(&ListenerKey, &Listener)> =
        listeners.into_iter().map(|(key, listener)| (key, &**listener)).collect();
    let candidates = listening_endpoints(&numbered, upstreams, &mut is_local);
    if candidates.is_empty() {
        return Loops::new();
    }
    let edges_of = |listener: &Listener| {
        let candidates = candidates.get(&listener.upstream).into_iter().flatten();
        candidates.filter(|(endpoint, _)| leads_to(listener, &endpoint.backend)).copied().collect()
    };
    let edges: Vec<Vec<(&EndpointKey, usize)>> = numbered.iter().map(|(_, listener)| edges_of(listener)).collect();
    let components =
        components(&edges.iter().map(|edges| edges.iter().map(|(_, to)| *to).collect()).collect::<Vec<_>>());
    let mut loops = Loops::new();
    for (from, edges) in edges.iter().enumerate() {
        for (endpoint, to) in edges.iter().filter(|(_, to)| components[from] == components[*to]) {
            let upstream = numbered[from].1.upstream.clone();
            loops.entry(upstream).or_default().insert((*endpoint).clone(), numbered[*to].0.clone());
        }
    }
    loops
}

/// The endpoints of each upstream that are listeners, with the indices of the listeners.
fn listening_endpoints<'a>(
    listeners: &[(&'a ListenerKey, &'a Listener)],
    upstreams: impl IntoIterator<Item = (&'a UpstreamKey, &'a Arc<UpstreamConfig>)>,
    is_local: &mut impl FnMut(IpAddr) -> bool,
) -> BTreeMap<&'a UpstreamKey, Vec<(&'a EndpointKey, usize)>> {
    const ANY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

    // No listener has the port of most endpoints: this saves their look-ups.
    let mut has_listener = vec![false; 1 << 16];
    listeners.iter().for_each(|(_, listener)| has_listener[usize::from(listener.bind.port())] = true);
    let mut by_bind: BTreeMap<(IpAddr, u16), Vec<usize>> = BTreeMap::new();
    for (number, (_, listener)) in listeners.iter().enumerate() {
        by_bind.entry((listener.bind.ip(), listener.bind.port())).or_default().push(number);
    }
    let mut found = BTreeMap::new();
    for (key, upstream) in upstreams {
        let endpoints = upstream.endpoints.iter().map(|endpoint| &endpoint.key);
        for endpoint in endpoints.filter(|endpoint| has_listener[usize::from(endpoint.address.port())]) {
            let (ip, port) = (endpoint.address.ip(), endpoint.address.port());
            for bind_ip in [ip, ANY[0], ANY[1]] {
                let Some(numbers) = by_bind.get(&(bind_ip, port)) else { continue };
                if covers(SocketAddr::new(bind_ip, port), endpoint.address) && (bind_ip == ip || is_local(ip)) {
                    let of_upstream = found.entry(key).or_insert_with(Vec::new);
                    of_upstream.extend(numbers.iter().map(|number| (endpoint, *number)));
                }
            }
        }
    }
    found
}

/// The strongly connected component of each node: the same for two nodes that reach each other. Kosaraju's algorithm,
/// with time linear in nodes and edges.
fn components(edges: &[Vec<usize>]) -> Vec<usize> {
    const NONE: usize = usize::MAX;

    let mut reversed = vec![Vec::new(); edges.len()];
    for (from, to) in edges.iter().enumerate().flat_map(|(from, edges)| edges.iter().map(move |to| (from, *to))) {
        reversed[to].push(from);
    }
    let mut components = vec![NONE; edges.len()];
    for root in post_order(edges).into_iter().rev() {
        let mut next = vec![root];
        while let Some(node) = next.pop() {
            if components[node] == NONE {
                components[node] = root;
                next.extend(&reversed[node]);
            }
        }
    }
    components
}

/// The nodes in the order in which a depth-first search leaves them.
fn post_order(edges: &[Vec<usize>]) -> Vec<usize> {
    let (mut seen, mut order) = (vec![false; edges.len()], Vec::with_capacity(edges.len()));
    for root in 0..edges.len() {
        let mut path = Vec::new();
        if !seen[root] {
            seen[root] = true;
            path.push((root, edges[root].iter()));
        }
        while let Some((node, next)) = path.last_mut() {
            match next.next() {
                Some(to) if seen[*to] => {}
                Some(to) => {
                    seen[*to] = true;
                    path.push((*to, edges[*to].iter()));
                }
                None => {
                    order.push(*node);
                    path.pop();
                }
            }
        }
    }
    order
}

/// True if connections of the listener may use this backend.
fn leads_to(listener: &Listener, backend: &Arc<str>) -> bool {
    let Some(tls) = &listener.tls else { return true };
    tls.routes.iter().any(|route| route.backends.as_ref().is_none_or(|backends| backends.contains(backend)))
}
