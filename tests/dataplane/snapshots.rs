//! Changes of snapshots, and their effect on open connections.

use std::{
    collections::BTreeSet,
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use tcplb::{
    model::{Algorithm, ListenerKey, ObjectKey, Snapshot, UpstreamKey},
    proxy::accounting::CloseReason,
};

use crate::rig::*;

#[test]
fn open_connections_live_through_changes_of_everything_else() {
    let (echo, other) = (Backend::echo(), Backend::echo());
    let mut rig = Rig::new(&[echo]);
    let client = rig.connect();
    is_echoed(&client);
    let key = ListenerKey { object: ObjectKey::new("shop", "other"), port: 1 };
    let bind = SocketAddr::from(([127, 0, 0, 1], free_port()));
    for turn in 0..20u32 {
        match turn % 5 {
            0 => rig.change_upstream(|upstream| *upstream = crate::rig::upstream(&[echo, other])),
            1 => rig.change_listener(|listener| {
                listener.limits.max_connections = some(turn + 1);
                listener.timeouts.idle = Some(Duration::from_millis(1));
                listener.keepalive = None;
                listener.access.deny = crate::limits::networks(&["127.0.0.0/8"]);
            }),
            2 => rig.publish(|snapshot| {
                let other = tcplb::model::Listener { bind, ..listener() };
                snapshot.listeners.insert(key.clone(), other.into());
            }),
            3 => {
                is_echoed(connect(rig.address_of(&key)));
                rig.publish(|snapshot| drop(snapshot.listeners.remove(&key)));
            }
            _ => rig.change_upstream(|upstream| {
                upstream.balancing.algorithm = Algorithm::Maglev;
                upstream.connect.timeout = Duration::from_millis(1);
                upstream.keepalive = None;
                upstream.endpoints.retain(|endpoint| endpoint.address() == echo);
            }),
        }
        is_echoed(&client);
    }
}

#[test]
fn connections_of_a_removed_endpoint_go_on() {
    let (echo, other) = (Backend::echo(), Backend::echo());
    let mut rig = Rig::new(&[echo]);
    let client = rig.connect();
    is_echoed(&client);
    rig.change_upstream(|upstream| *upstream = crate::rig::upstream(&[other]));
    let endpoint = rig.endpoint(echo);
    is_echoed(&client);
    assert_eq!(endpoint.active(), 1);
    is_echoed(rig.connect());
    assert_eq!((endpoint.connections(), rig.endpoint(other).connections()), (1, 1), "new ones go elsewhere");
    is_echoed(&client);
    rig.publish(|snapshot| {
        snapshot.upstreams.clear();
        snapshot.listeners.clear();
    });
    is_echoed(&client);
}

#[test]
fn connections_of_a_removed_listener_go_on_and_are_still_counted() {
    let mut rig = Rig::new(&[Backend::echo()]);
    let client = rig.connect();
    is_echoed(&client);
    let address = rig.address();
    rig.publish(|snapshot| snapshot.listeners.clear());
    wait_until("nobody listens any more", || TcpStream::connect(address).is_err());
    is_echoed(&client);
    assert_eq!(rig.active(), 1);
    assert_eq!(rig.monitor.view().listeners.len(), 1, "it is still shown");

    rig.publish(|snapshot| {
        let listener = tcplb::model::Listener { bind: address, ..listener() };
        snapshot.listeners.insert(listener_key(), listener.into());
    });
    is_echoed(rig.connect());
    is_echoed(&client);
    assert_eq!(rig.monitor.view().listeners.len(), 1, "it is the same one that came back");
    drop(client);
    rig.wait_closed(CloseReason::Complete, 2);
}

#[test]
fn a_connection_keeps_the_settings_it_was_accepted_with() {
    let mut rig = Rig::new(&[Backend::echo()]);
    let before = rig.connect();
    is_echoed(&before);
    rig.change_listener(|listener| listener.timeouts.idle = Some(Duration::from_millis(100)));
    let after = rig.connect();
    is_reset(&after);
    rig.wait_closed(CloseReason::IdleTimeout, 1);
    is_echoed(&before);
}

/// An unused port, below the kernel's ephemeral range. Each call returns another one.
fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = fastrand::u16(20_000..32_000);
        if GIVEN.lock().unwrap().insert(port) && TcpListener::bind(("::", port)).is_ok() {
            return port;
        }
    }
}

fn snapshot_of(keys: &[ObjectKey], bind: SocketAddr, owner: &ObjectKey, backend: SocketAddr) -> Snapshot {
    let upstream_of = |key: &ObjectKey| UpstreamKey { object: key.clone() };
    let served = tcplb::model::Listener { bind, upstream: upstream_of(owner), ..listener() };
    Snapshot {
        generation: 0,
        listeners: [(ListenerKey { object: owner.clone(), port: 1 }, std::sync::Arc::new(served))]
            .into_iter()
            .collect(),
        upstreams: keys.iter().map(|key| (upstream_of(key), std::sync::Arc::new(upstream(&[backend])))).collect(),
        ..Snapshot::default()
    }
}

/// Connects clients continuously while `change` runs; none of them may fail.
fn assert_no_client_refused_during(address: SocketAddr, change: impl FnOnce()) -> u64 {
    let (over, connected) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    is_echoed(connect(address));
                    connected.fetch_add(1, Relaxed);
                }
            });
        }
        let finished = Finished(&over);
        change();
        drop(finished);
    });
    connected.into_inner()
}

/// Stops the clients even if the change panics.
struct Finished<'a>(&'a AtomicBool);

impl Drop for Finished<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn moving_an_address_between_load_balancers_refuses_no_client() {
    let (echo, keys) = (Backend::echo(), [ObjectKey::new("shop", "one"), ObjectKey::new("shop", "two")]);
    let bind = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut rig = Rig::start(Size::default(), snapshot_of(&keys, bind, &keys[0], echo));
    let connected = assert_no_client_refused_during(bind, || {
        for turn in 0..200 {
            rig.publish(|snapshot| {
                let generation = snapshot.generation;
                *snapshot = snapshot_of(&keys, bind, &keys[turn % 2], echo);
                snapshot.generation = generation;
                let key = snapshot.listeners.keys().next().unwrap().clone();
                let listener = snapshot.listeners.get_mut(&key).unwrap();
                std::sync::Arc::make_mut(listener).name = format!("turn {turn}").into();
            });
        }
    });
    rig.wait_closed(CloseReason::Complete, connected);
    assert_eq!(rig.accepted(), connected, "the clients' count is the proxy's");
}

#[test]
fn widening_or_narrowing_an_address_refuses_no_client() {
    let (echo, keys) = (Backend::echo(), [ObjectKey::new("shop", "one")]);
    let key = ListenerKey { object: keys[0].clone(), port: 1 };
    for round in 0..20 {
        let port = free_port();
        let narrow = SocketAddr::from(([127, 0, 0, 1], port));
        let wide = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let turns = if round % 2 == 0 { [narrow, wide, narrow, wide] } else { [wide, narrow, wide, narrow] };
        let mut rig = Rig::start(Size::default(), snapshot_of(&keys, turns[0], &keys[0], echo));
        let connected = assert_no_client_refused_during(narrow, || {
            for bind in turns {
                rig.publish(|snapshot| {
                    let generation = snapshot.generation;
                    *snapshot = snapshot_of(&keys, bind, &keys[0], echo);
                    snapshot.generation = generation;
                });
                assert_eq!(rig.address_of(&key), bind);
            }
        });
        rig.wait_closed(CloseReason::Complete, connected);
    }
}

#[test]
fn a_takeover_with_wider_or_narrower_addresses_refuses_no_client() {
    let (echo, keys) = (Backend::echo(), [ObjectKey::new("shop", "one")]);
    for round in 0..20 {
        let port = free_port();
        let narrow = SocketAddr::from(([127, 0, 0, 1], port));
        let wide = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let (before, after) = if round % 2 == 0 { (narrow, wide) } else { (wide, narrow) };
        let old = Rig::start(Size::default(), snapshot_of(&keys, before, &keys[0], echo));
        let mut new = None;
        let connected = assert_no_client_refused_during(narrow, || {
            let size = Size { workers: 3, ..Size::default() };
            new = Some(old.taken_over(size, snapshot_of(&keys, after, &keys[0], echo)));
            is_echoed(connect(narrow));
        });
        assert_eq!(old.accepted() + new.unwrap().accepted(), connected + 1);
    }
}
