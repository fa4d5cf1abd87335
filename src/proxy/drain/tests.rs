use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use imbl::OrdMap;
use tokio::runtime::Handle;

use super::*;
use crate::{
    model::{ObjectKey, UpstreamConfig},
    upstream::{ActiveConnection, Backends, PreconnectBudget, TriedEndpoints, Upstreams},
};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn key() -> UpstreamKey {
    UpstreamKey { object: ObjectKey::new("shop", "postgres") }
}

/// An upstream with an endpoint at each of these ports.
fn wanted(ports: impl IntoIterator<Item = u16>) -> OrdMap<UpstreamKey, Arc<UpstreamConfig>> {
    let addresses = ports.into_iter().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    OrdMap::unit(key(), Arc::new(UpstreamConfig::plain(addresses)))
}

/// Upstreams, and what the drain knows about them.
struct DrainFixture {
    upstreams: Upstreams,
    view: View,
    known: DrainingEndpoints,
}

impl DrainFixture {
    fn new(wanted: &OrdMap<UpstreamKey, Arc<UpstreamConfig>>) -> Self {
        let mut upstreams = Upstreams::new(Handle::current(), PreconnectBudget::new(0), 1000);
        upstreams.update(wanted);
        let mut fixture = Self { upstreams, view: View::default(), known: DrainingEndpoints::default() };
        fixture.view_upstreams(wanted);
        fixture
    }

    /// Updates the upstreams of the view, which have these settings.
    fn view_upstreams(&mut self, wanted: &OrdMap<UpstreamKey, Arc<UpstreamConfig>>) {
        self.view.snapshot = Arc::new(Snapshot { upstreams: wanted.clone(), ..Snapshot::default() });
        self.view.upstreams = self.upstreams.iter().map(|(key, upstream)| (key.clone(), upstream.clone())).collect();
    }

    /// A connection to one of the endpoints.
    fn connect(&self) -> ActiveConnection {
        let subset = self.upstreams.find(&key()).unwrap().subset(&Backends::All);
        subset.pick(CLIENT, &TriedEndpoints::default()).unwrap()
    }

    /// The ports of the draining endpoints after the changes until now.
    fn draining(&mut self, now: Instant) -> BTreeSet<u16> {
        let changed = self.known.take_changes(&self.upstreams.changes());
        self.known.follow(&self.view, changed, now);
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

#[tokio::test]
async fn a_new_or_removed_upstream_changes_nothing_for_the_others() {
    let mut fixture = DrainFixture::new(&wanted([1]));
    let now = Instant::now();
    fixture.draining(now);
    fixture.upstreams.update(&wanted([2]));
    assert_eq!(fixture.draining(now), [1].into());
    let later = now + IDLE_TIMEOUT;
    assert!(fixture.draining(later).is_empty());
    let other = UpstreamKey { object: ObjectKey::new("shop", "redis") };
    let both = |port| wanted([2]).update(other.clone(), wanted([port])[&key()].clone());
    for configured in [both(3), both(4)] {
        fixture.upstreams.update(&configured);
        fixture.view_upstreams(&configured);
        let draining = fixture.draining(later);
        assert!(!draining.contains(&1), "it has no connections: {draining:?}");
    }
    assert_eq!(fixture.draining(later), [3].into(), "the new upstream is followed");
    fixture.upstreams.retain(&wanted([2]));
    fixture.view_upstreams(&wanted([2]));
    assert!(fixture.draining(later).is_empty());
}

#[tokio::test]
async fn an_upstream_that_was_removed_and_came_back_between_two_views_is_followed() {
    let mut fixture = DrainFixture::new(&wanted([1]));
    let now = Instant::now();
    let _open = fixture.connect();
    fixture.upstreams.update(&wanted([2]));
    assert_eq!(fixture.draining(now), [1].into());
    fixture.upstreams.retain(&OrdMap::new());
    fixture.upstreams.update(&wanted([1]));
    fixture.view_upstreams(&wanted([1]));
    assert!(fixture.draining(now).is_empty(), "the new upstream has no draining endpoint");
    let _open = fixture.connect();
    fixture.upstreams.update(&wanted([2]));
    assert_eq!(fixture.draining(now + IDLE_TIMEOUT), [1].into());
}
