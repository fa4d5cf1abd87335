use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU16,
};

use imbl::OrdMap;
use tokio::runtime::Handle;

use super::*;
use crate::{
    model::{self, Balancing, Connect, EndpointKey, ObjectKey, Weight},
    upstream::{ActiveConnection, Backends, PreconnectBudget, TriedEndpoints, Upstreams},
};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn key() -> UpstreamKey {
    UpstreamKey { object: ObjectKey::new("shop", "postgres") }
}

/// An upstream with an endpoint at each of these ports.
fn wanted(ports: impl IntoIterator<Item = u16>) -> OrdMap<UpstreamKey, Arc<model::UpstreamConfig>> {
    let endpoint = |port| {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let key = EndpointKey { backend: "b".into(), address, uid: None };
        let (stable_id, proximity) = (model::StableId::Address(address), model::Proximity::Remote);
        model::EndpointConfig { key, stable_id, weight: Weight::ONE, proximity }
    };
    let (timeout, deadline) = (Duration::from_secs(3), Duration::from_secs(10));
    let upstream = model::UpstreamConfig {
        balancing: Balancing { hash_prefix_v6: 64, ..Balancing::default() },
        backends: [("b".into(), Arc::default())].into(),
        endpoints: ports.into_iter().map(endpoint).collect(),
        active_check: None,
        passive_check: None,
        connect: Connect { timeout, deadline, attempts: NonZeroU16::MIN, preconnect: None },
        keepalive: None,
        unready: Default::default(),
        drain: Default::default(),
        rebalance: None,
    };
    OrdMap::unit(key(), Arc::new(upstream))
}

/// Upstreams, and what the drain knows about them.
struct DrainFixture {
    upstreams: Upstreams,
    view: View,
    known: DrainingEndpoints,
}

impl DrainFixture {
    fn new(wanted: &OrdMap<UpstreamKey, Arc<model::UpstreamConfig>>) -> Self {
        let mut upstreams = Upstreams::new(Handle::current(), PreconnectBudget::new(0), 1000);
        upstreams.update(wanted);
        let view = View { upstreams: [(key(), upstreams.find(&key()).unwrap())].into(), ..View::default() };
        Self { upstreams, view, known: DrainingEndpoints::default() }
    }

    /// A connection to one of the endpoints.
    fn connect(&self) -> ActiveConnection {
        let subset = self.upstreams.find(&key()).unwrap().subset(&Backends::All);
        subset.pick(CLIENT, &TriedEndpoints::default()).unwrap()
    }

    /// The ports of the draining endpoints after the changes until now.
    fn draining(&mut self, now: Instant) -> BTreeSet<u16> {
        self.known.follow(&self.view, &self.upstreams.changes(), now);
        let input = self.known.drain_input(&self.view);
        let port = |resource: &DrainingResource| match resource {
            DrainingResource::Endpoint { endpoint, .. } => endpoint.key().address.port(),
            DrainingResource::Listener(listener) => panic!("{} drains", listener.key),
        };
        input.draining.values().map(|(_, resource, _)| port(resource)).collect()
    }
}

#[tokio::test]
async fn removed_endpoints_without_connections_are_ignored_after_a_second() {
    let mut fixture = DrainFixture::new(&wanted([1]));
    let now = Instant::now();
    assert!(fixture.draining(now).is_empty());
    let open = fixture.connect();
    fixture.upstreams.update(&wanted([1, 2]));
    fixture.upstreams.update(&wanted([3]));
    assert_eq!(fixture.draining(now), [1, 2].into(), "a connection to port 2 may be about to begin");
    let later = now + IDLE_TIMEOUT;
    assert_eq!(fixture.draining(later), [1].into(), "only the connection to port 1 has to be drained");
    drop(open);
    assert!(fixture.draining(later).is_empty());
}

#[tokio::test]
async fn ignored_endpoints_drain_again_after_a_change() {
    let mut fixture = DrainFixture::new(&wanted([1]));
    let now = Instant::now();
    let open = fixture.connect();
    fixture.upstreams.update(&wanted([2]));
    fixture.draining(now);
    drop(open);
    assert!(fixture.draining(now + IDLE_TIMEOUT).is_empty());
    // The endpoint comes back, gets a connection, and is removed again.
    fixture.upstreams.update(&wanted([1]));
    let _open = fixture.connect();
    fixture.upstreams.update(&wanted([2]));
    assert_eq!(fixture.draining(now + 2 * IDLE_TIMEOUT), [1].into());
}
