//! Limits: exactly as many clients as allowed are admitted, at no cost for others.

use std::{
    net::{SocketAddr, TcpStream},
    sync::Barrier,
    thread,
    time::Duration,
};

use ipnet::IpNet;
use tcplb::{
    model::{Listener, ListenerKey, Networks, ObjectKey, Rate, Snapshot, UpstreamKey},
    proxy::accounting::CloseReason,
};

use crate::rig::*;

const WORKERS: Size = Size { workers: 4, capacity: 4000, preconnected: 0, pipes: 0, spare_from: i32::MAX };
const THREADS: usize = 8;
const EACH: usize = 10;

/// Connects many clients at once, which all stay connected, and returns those that are served. The others must have
/// been reset.
fn served_of_many(address: SocketAddr, connect: impl Fn(usize, SocketAddr) -> TcpStream + Sync) -> Vec<TcpStream> {
    let together = Barrier::new(THREADS);
    let clients: Vec<TcpStream> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (together, connect) = (&together, &connect);
                scope.spawn(move || {
                    together.wait();
                    (0..EACH).map(|_| connect(thread, address)).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    clients.into_iter().filter(greeted_or_reset).collect()
}

/// True if the greeting of the backend arrived. Otherwise a reset must have arrived.
fn greeted_or_reset(client: &TcpStream) -> bool {
    let mut client = client;
    use std::io::Read;
    match client.read(&mut [0; 2]) {
        Ok(count) => {
            assert_eq!(count, 2, "a refusal is a reset, never a clean end");
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
            false
        }
    }
}

/// A server that sends first, and waits for the client to disconnect.
fn greeter() -> SocketAddr {
    Backend::serving(|mut stream| {
        let _ = std::io::Write::write_all(&mut stream, b"hi");
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    })
}

fn rate(count: u32, per: Duration, burst: u32) -> Option<Rate> {
    Some(Rate { count: some(count).unwrap(), per, burst: some(burst).unwrap() })
}

const ALL: u64 = (THREADS * EACH) as u64;

#[test]
fn a_listener_has_exactly_as_many_connections_as_it_may_have() {
    let backend = greeter();
    let rig = Rig::sized(WORKERS, &[backend], |listener, _| listener.limits.max_connections = some(13));
    let open = served_of_many(rig.address(), |_, address| connect(address));
    assert_eq!(open.len(), 13);
    rig.wait_closed(CloseReason::ListenerFull, ALL - 13);
    assert_eq!(rig.endpoint(backend).connections(), 13, "no backend is dialled for the others");
    drop(open);
    rig.wait_closed(CloseReason::Complete, 13);
    // A place is given back a moment after the end of its connection is counted.
    wait_until("their places are free", || rig.monitor.open_by_worker().sum::<usize>() == 0);
    assert_eq!(served_of_many(rig.address(), |_, address| connect(address)).len(), 13, "places are given back");
}

#[test]
fn each_source_has_exactly_as_many_connections_as_it_may_have() {
    let backend = greeter();
    let rig = Rig::sized(WORKERS, &[backend], |listener, _| listener.limits.max_connections_per_source = some(3));
    let source = |thread: usize, address| connect_from([127, 0, 1, 1 + (thread / 4) as u8], address);
    let open = served_of_many(rig.address(), source);
    let of =
        |last| open.iter().filter(|c| c.local_addr().unwrap().ip().to_string() == format!("127.0.1.{last}")).count();
    assert_eq!((of(1), of(2)), (3, 3));
    rig.wait_closed(CloseReason::SourceFull, ALL - 6);
    assert_eq!(rig.endpoint(backend).connections(), 6);
}

#[test]
fn a_rate_lets_exactly_its_burst_in_at_once() {
    let backend = greeter();
    let slow = rate(1, Duration::from_secs(3600), 7);
    let rig = Rig::sized(WORKERS, &[backend], |listener, _| listener.limits.new_connections = slow);
    assert_eq!(served_of_many(rig.address(), |_, address| connect(address)).len(), 7);
    rig.wait_closed(CloseReason::ListenerRate, ALL - 7);
    assert_eq!(rig.endpoint(backend).connections(), 7);
}

#[test]
fn a_rate_per_source_lets_exactly_its_burst_of_each_in_at_once() {
    let backend = greeter();
    let slow = rate(1, Duration::from_secs(3600), 5);
    let rig = Rig::sized(WORKERS, &[backend], |listener, _| listener.limits.new_connections_per_source = slow);
    let source = |thread: usize, address| connect_from([127, 0, 1, 1 + (thread / 2) as u8], address);
    assert_eq!(served_of_many(rig.address(), source).len(), 4 * 5);
    rig.wait_closed(CloseReason::SourceRate, ALL - 20);
}

#[test]
fn a_rate_refills() {
    let rig = Rig::with(&[greeter()], |listener, _| {
        listener.limits.new_connections = rate(20, Duration::from_secs(1), 1);
    });
    let mut served = 0;
    wait_until("several in a row have had their turn", || {
        served += usize::from(greeted_or_reset(&rig.connect()));
        served == 5
    });
}

#[test]
fn the_process_and_each_load_balancer_have_a_capacity() {
    let size = Size { workers: 4, capacity: 20, preconnected: 0, pipes: 0, ..Size::default() };
    let rig = Rig::sized(size, &[greeter()], |_, _| {});
    let open = served_of_many(rig.address(), |_, address| connect(address));
    assert_eq!(open.len(), 18, "some are kept free for a load balancer that is still to come");
    rig.wait_closed(CloseReason::ProcessFull, ALL - 18);
}

#[test]
fn load_balancers_that_take_all_connections_leave_others_their_guaranteed_ones() {
    let (size, names) =
        (Size { workers: 2, capacity: 160, preconnected: 0, pipes: 0, ..Size::default() }, ["one", "two", "third"]);
    let keys = names.map(|name| ListenerKey { object: ObjectKey::new("shop", name), port: 1 });
    let declare = |snapshot: &mut Snapshot, key: &ListenerKey, last: u8| {
        let (bind, of) = (SocketAddr::from(([127, 0, 0, last], 0)), UpstreamKey { object: key.object.clone() });
        snapshot.listeners.insert(key.clone(), Listener { bind, upstream: of.clone(), ..listener() }.into());
        snapshot.upstreams.insert(of, upstream(&[greeter()]).into());
    };
    let mut snapshot = Snapshot::default();
    keys.iter().zip(1..).for_each(|(key, last)| declare(&mut snapshot, key, last));
    let mut rig = Rig::start(size, snapshot);
    let clients = |rig: &Rig, key: &ListenerKey, count: usize| -> Vec<TcpStream> {
        let address = rig.address_of(key);
        (0..count).map(|_| connect(address)).filter(greeted_or_reset).collect()
    };
    let greedy = [clients(&rig, &keys[0], 200), clients(&rig, &keys[1], 100)];
    assert_eq!(greedy.each_ref().map(Vec::len), [130, 10]);
    assert_eq!(clients(&rig, &keys[2], 20).len(), 10);
    rig.wait_closed(CloseReason::ProcessFull, 70 + 90 + 10);

    // A load balancer that is declared when all places are taken gets some, too.
    let late = ListenerKey { object: ObjectKey::new("shop", "late"), port: 1 };
    rig.publish(|snapshot| declare(snapshot, &late, 9));
    assert_eq!(rig.monitor.capacity().total(), 159, "its listening sockets have two descriptors");
    assert!(clients(&rig, &late, 3).len() == 3);
}

#[test]
fn listening_sockets_have_no_more_than_half_of_the_descriptors() {
    // 40 descriptors: 12 for the listening sockets of the first three listeners, 28 for connections.
    let size = Size { workers: 4, capacity: 14, preconnected: 0, pipes: 0, ..Size::default() };
    let mut snapshot = Snapshot::default();
    let key = |port| ListenerKey { object: ObjectKey::new("shop", "db"), port };
    snapshot.upstreams.insert(upstream_key(), upstream(&[greeter()]).into());
    let bind = |port: u16| SocketAddr::from(([127, 0, 0, port as u8], 0));
    for port in 1..=3 {
        snapshot.listeners.insert(key(port), Listener { bind: bind(port), ..listener() }.into());
    }
    let mut rig = Rig::start(size, snapshot);
    assert_eq!(rig.monitor.capacity().total(), 14);
    rig.publish(|snapshot| {
        for port in 4..=6 {
            snapshot.listeners.insert(key(port), Listener { bind: bind(port), ..listener() }.into());
        }
    });
    let report = rig.monitor.view().report.clone();
    let failed: Vec<_> = report.unbound().collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0].1.contains("raise the limit of open files"), "{failed:?}");
    assert_eq!(rig.monitor.capacity().total(), (40 - 20) / 2);
    assert!(greeted_or_reset(&connect(rig.address_of(&key(1)))));
    rig.publish(|snapshot| (3..=6).for_each(|port| drop(snapshot.listeners.remove(&key(port)))));
    assert_eq!(rig.monitor.capacity().total(), (40 - 8) / 2, "the sockets of removed listeners are free");
}

#[test]
fn clients_do_not_use_spare_descriptors() {
    let size = Size { spare_from: 0, ..Size::default() };
    let rig = Rig::sized(size, &[greeter()], |_, _| {});
    assert!(!greeted_or_reset(&rig.connect()));
    rig.wait_closed(CloseReason::ProcessFull, 1);
}

#[test]
fn refused_clients_are_reset_without_a_dial_or_a_place() {
    let backend = greeter();
    let mut rig = Rig::with(&[backend], |listener, _| {
        listener.access.allow = networks(&["127.0.2.0/24", "127.0.3.7/32"]);
        listener.access.deny = networks(&["127.0.2.128/25"]);
        listener.limits.max_connections = some(3);
        listener.limits.new_connections = rate(1, Duration::from_secs(3600), 3);
    });
    let mut open = Vec::new();
    for (source, allowed) in [
        ([127, 0, 2, 128], false),
        ([127, 0, 0, 1], false),
        ([127, 0, 3, 6], false),
        ([127, 0, 3, 8], false),
        ([127, 0, 2, 255], false),
        ([127, 0, 2, 1], true),
        ([127, 0, 3, 7], true),
        ([127, 0, 2, 127], true),
    ] {
        let client = connect_from(source, rig.address());
        assert_eq!(greeted_or_reset(&client), allowed, "{source:?}");
        open.extend(allowed.then_some(client));
    }
    rig.wait_closed(CloseReason::AccessDenied, 5);
    assert_eq!(rig.endpoint(backend).connections(), 3);
    drop(open);
    rig.wait_closed(CloseReason::Complete, 3);

    rig.change_listener(|listener| {
        listener.access = tcplb::model::Access { allow: Networks::default(), deny: networks(&["127.0.0.1/32"]) };
        listener.limits = tcplb::model::Limits::default();
    });
    assert!(!greeted_or_reset(&rig.connect()));
    assert!(greeted_or_reset(&connect_from([127, 0, 0, 2], rig.address())));
}

#[test]
fn an_ipv4_client_of_a_socket_for_both_families_is_known_by_its_ipv4_address() {
    let rig = Rig::with(&[greeter()], |listener, _| {
        listener.bind = "[::]:0".parse().unwrap();
        listener.access.allow = networks(&["127.0.4.0/24", "::1/128"]);
        listener.access.deny = networks(&["::ffff:127.0.4.9/128"]);
    });
    let port = rig.address().port();
    let v4 = SocketAddr::from(([127, 0, 0, 1], port));
    assert!(greeted_or_reset(&connect_from([127, 0, 4, 1], v4)));
    assert!(!greeted_or_reset(&connect_from([127, 0, 4, 9], v4)));
    assert!(!greeted_or_reset(&connect_from([127, 0, 5, 1], v4)));
    if rig.address().is_ipv6() {
        assert!(greeted_or_reset(&connect(SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port)))));
    }
    rig.wait_closed(CloseReason::AccessDenied, 2);
    wait_until("all are logged", || rig.active() == 0 && rig.logged().len() as u64 == rig.accepted());
    assert!(rig.logged().iter().any(|line| line.contains("client=127.0.4.9:")), "{:?}", rig.logged());
}

#[test]
fn a_flood_of_refusals_does_not_hide_those_of_another_load_balancer_in_the_access_log() {
    let keys = ["flooded", "other"].map(|name| ListenerKey { object: ObjectKey::new("shop", name), port: 1 });
    let mut snapshot = Snapshot::default();
    snapshot.upstreams.insert(upstream_key(), upstream(&[greeter()]).into());
    for (key, last) in keys.iter().zip(1..) {
        let bind = SocketAddr::from(([127, 0, 0, last], 0));
        let access = tcplb::model::Access { allow: Networks::default(), deny: networks(&["127.0.0.0/8"]) };
        snapshot.listeners.insert(key.clone(), Listener { bind, access, ..listener() }.into());
    }
    let rig = Rig::start(Size { workers: 1, ..Size::default() }, snapshot);
    let refused = |key: &ListenerKey, count: usize| {
        let address = rig.address_of(key);
        (0..count).for_each(|_| assert!(!greeted_or_reset(&connect(address))));
    };
    refused(&keys[0], 100);
    refused(&keys[1], 5);
    let logged = || rig.logged().iter().filter(|line| line.contains("listener=shop/other:1 ")).count();
    wait_until("all of the other one are logged", || logged() == 5);
}

pub fn networks(texts: &[&str]) -> Networks {
    texts.iter().map(|text| text.parse::<IpNet>().unwrap()).collect()
}
