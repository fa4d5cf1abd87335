use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::model::{Networks, ObjectKey, Rate};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

fn listener(limits: Limits) -> Listener {
    Listener { limits, ..Listener::plain(ObjectKey::new("default", "test"), ([127, 0, 0, 1], 0).into()) }
}

fn key(port: u16) -> ListenerKey {
    ListenerKey { object: ObjectKey::new("default", "test"), port }
}

fn count(count: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(count)
}

fn rate(count: u32, per: Duration, burst: u32) -> Option<Rate> {
    Some(Rate { count: NonZeroU32::new(count)?, per, burst: NonZeroU32::new(burst)? })
}

fn networks(networks: &[&str]) -> Networks {
    networks.iter().map(|network| network.parse::<ipnet::IpNet>().unwrap()).collect()
}

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

/// The admission of one listener, with a clock that moves only on request.
struct Door {
    listener: Listener,
    admission: Arc<Admission>,
    now: Instant,
}

impl Door {
    fn new(limits: Limits) -> Self {
        Self::with_sources(limits, Sources::new)
    }

    fn with_room_for(sources: usize, limits: Limits) -> Self {
        Self::with_sources(limits, |start| Sources::with_shape(start, 1, sources))
    }

    fn with_sources(limits: Limits, sources: impl FnOnce(Instant) -> Sources) -> Self {
        let now = Instant::now();
        let admission = Arc::new(Admission::new(key(1), Arc::new(sources(now))));
        Self { listener: listener(limits), admission, now }
    }

    fn enter(&self, client: IpAddr) -> Result<(ConnectionPermit, Option<SourcePermit>), Refusal> {
        let connection = self.admission.admit_connection(&self.listener.limits, self.now)?;
        let source = self.admission.admit_source(&self.listener, client, Some(client), self.now)?;
        Ok((connection, source))
    }

    fn refusal(&self, client: &str) -> Option<Refusal> {
        self.enter(ip(client)).err()
    }
}

#[test]
fn a_listener_without_limits_admits_all_and_stores_no_sources() {
    let door = Door::new(Limits::default());
    let inside: Vec<_> = (0..1000).map(|n| door.enter(IpAddr::from([10, 0, 0, n as u8])).unwrap()).collect();
    assert_eq!(door.admission.open(), 1000);
    assert_eq!(door.admission.sources(), 0);
    drop(inside);
    assert_eq!(door.admission.open(), 0);
}

#[test]
fn deny_wins_over_allow_and_an_empty_allow_is_everyone() {
    let mut door = Door::new(Limits::default());
    door.listener.access.deny = networks(&["10.6.6.0/24"]);
    assert_eq!(door.refusal("10.6.6.6"), Some(Refusal::Denied));
    assert_eq!(door.refusal("::ffff:10.6.6.6"), Some(Refusal::Denied));
    assert_eq!(door.refusal("192.0.2.1"), None);

    door.listener.access.allow = networks(&["10.0.0.0/8", "2001:db8::/32"]);
    assert_eq!(door.refusal("10.6.6.6"), Some(Refusal::Denied));
    assert_eq!(door.refusal("10.6.7.6"), None);
    assert_eq!(door.refusal("2001:db8::1"), None);
    assert_eq!(door.refusal("192.0.2.1"), Some(Refusal::Denied));
}

#[test]
fn a_source_is_an_ipv4_address_or_an_ipv6_64() {
    let door = Door::new(Limits { max_connections_per_source: count(1), ..Limits::default() });
    let _inside = ["192.0.2.1", "192.0.2.2", "2001:db8:0:1::1", "2001:db8:0:2::1"].map(|a| door.enter(ip(a)).unwrap());
    for again in ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8:0:1::1", "2001:db8:0:1:ffff::2"] {
        assert_eq!(door.refusal(again), Some(Refusal::SourceFull), "{again}");
    }
}

#[test]
fn sources_of_two_listeners_are_counted_separately() {
    let door = Door::new(Limits { max_connections_per_source: count(1), ..Limits::default() });
    let admission = Arc::new(Admission::new(key(2), Arc::clone(&door.admission.sources)));
    let _one = door.enter(ip("192.0.2.1")).unwrap();
    let other = admission.admit_source(&door.listener, ip("192.0.2.1"), Some(ip("192.0.2.1")), door.now);
    assert!(other.unwrap().is_some());
}

#[test]
fn a_local_proxy_header_is_exempt_from_source_limits_only() {
    let mut door = Door::new(Limits {
        max_connections_per_source: count(1),
        new_connections: rate(1, SECOND, 2),
        ..Limits::default()
    });
    let enter = |door: &Door| door.admission.admit_source(&door.listener, ip("192.0.2.1"), None, door.now);
    assert!(enter(&door).unwrap().is_none());
    assert!(enter(&door).unwrap().is_none());
    assert_eq!(enter(&door).unwrap_err(), Refusal::ListenerRate);
    door.listener.access.deny = networks(&["192.0.2.1/32"]);
    assert_eq!(enter(&door).unwrap_err(), Refusal::Denied);
}

#[test]
fn a_refused_connection_costs_no_other_its_place() {
    let mut door = Door::new(Limits {
        max_connections: count(3),
        max_connections_per_source: count(2),
        new_connections: rate(1, SECOND, 4),
        new_connections_per_source: rate(1, HOUR, 3),
    });
    door.listener.access.deny = networks(&["203.0.113.0/24"]);

    let first = door.enter(ip("192.0.2.1")).unwrap();
    let _second = door.enter(ip("192.0.2.1")).unwrap();
    for _ in 0..10 {
        assert_eq!(door.refusal("192.0.2.1"), Some(Refusal::SourceFull));
        assert_eq!(door.refusal("203.0.113.1"), Some(Refusal::Denied));
    }
    drop(first);
    let _third = door.enter(ip("192.0.2.1")).expect("the third of three tokens of the source is left");
    assert_eq!(door.admission.open(), 2, "nobody refused is still counted");
    let fourth = door.enter(ip("192.0.2.2")).expect("the fourth of four tokens of the listener is left");

    for _ in 0..10 {
        assert_eq!(door.refusal("192.0.2.3"), Some(Refusal::ListenerRate));
        // Another client may take the last token between the two gates.
        let gate = door.admission.admit_source(&door.listener, ip("192.0.2.3"), Some(ip("192.0.2.3")), door.now);
        assert_eq!(gate.unwrap_err(), Refusal::ListenerRate);
    }
    door.now += SECOND;
    for _ in 0..10 {
        assert_eq!(door.refusal("192.0.2.3"), Some(Refusal::ListenerFull));
    }
    drop(fourth);
    door.now += SECOND;
    let inside = [(); 2].map(|()| door.enter(ip("192.0.2.3")));
    assert_eq!(inside.map(|entered| entered.err()), [None, Some(Refusal::ListenerFull)]);
    door.now += 2 * SECOND;
    assert_eq!([(); 3].map(|()| door.refusal("192.0.2.3")), [None, None, Some(Refusal::SourceRate)]);
}

#[test]
fn limits_below_the_open_count_refuse_new_connections_only() {
    let mut door =
        Door::new(Limits { max_connections: count(4), max_connections_per_source: count(4), ..Limits::default() });
    let mut inside: Vec<_> = (0..4).map(|_| door.enter(ip("192.0.2.1")).unwrap()).collect();

    door.listener.limits.max_connections_per_source = count(2);
    inside.pop();
    assert_eq!(door.refusal("192.0.2.1"), Some(Refusal::SourceFull));
    assert_eq!(door.refusal("192.0.2.2"), None);

    door.listener.limits.max_connections = count(2);
    assert_eq!(door.refusal("192.0.2.2"), Some(Refusal::ListenerFull));
    inside.truncate(1);
    assert_eq!(door.refusal("192.0.2.1"), None);
}

#[test]
fn sources_beyond_the_table_share_a_bucket() {
    let door = Door::with_room_for(2, Limits { max_connections_per_source: count(2), ..Limits::default() });
    let client = |n: u8| IpAddr::from([192, 0, 2, n]);
    let own = door.enter(client(1)).unwrap();
    let _own = door.enter(client(2)).unwrap();

    let _shared = door.enter(client(3)).unwrap();
    let shared = door.enter(client(4)).unwrap();
    assert_eq!(door.enter(client(5)).unwrap_err(), Refusal::SourceFull);
    assert!(door.enter(client(2)).is_ok(), "a source with an entry keeps its limit");

    drop(own);
    let _fifth = door.enter(client(5)).expect("an entry is free again");
    assert_eq!(door.enter(client(3)).unwrap_err(), Refusal::SourceFull, "it is still counted with the others");
    drop(shared);
    assert!(door.enter(client(3)).is_ok());
    assert_eq!(door.admission.sources(), 2);
}

#[test]
fn a_source_is_removed_only_without_debt() {
    let limits = Limits { new_connections_per_source: rate(1, SECOND, 1), ..Limits::default() };
    let mut door = Door::with_room_for(1, limits);
    assert_eq!(door.refusal("192.0.2.1"), None);
    door.now += SECOND / 2;
    assert_eq!(door.refusal("192.0.2.2"), None, "by the shared bucket");
    assert_eq!(door.refusal("192.0.2.1"), Some(Refusal::SourceRate));
    door.now += SECOND / 2;
    assert_eq!(door.refusal("192.0.2.2"), Some(Refusal::SourceRate), "by its own entry, with the debt of the bucket");
    door.now += SECOND / 2;
    assert_eq!(door.refusal("192.0.2.2"), None);
    assert_eq!(door.admission.sources(), 1);
}

/// The nth IPv4 address.
fn nth(n: u32) -> IpAddr {
    IpAddr::from((0x0a00_0000 + n).to_be_bytes())
}

#[test]
fn a_flood_of_addresses_at_some_listeners_refuses_no_client_of_another() {
    let hourly = || Limits { new_connections_per_source: rate(1, HOUR, 1), ..Limits::default() };
    let flooded = Door::new(hourly());
    let beside = |port, limits| Door {
        listener: listener(limits),
        admission: Arc::new(Admission::new(key(port), Arc::clone(&flooded.admission.sources))),
        now: flooded.now,
    };
    let also_flooded = beside(2, hourly());
    let doors = [
        beside(3, Limits { max_connections_per_source: count(1), ..Limits::default() }),
        beside(4, Limits { new_connections_per_source: rate(5, SECOND, 5), ..Limits::default() }),
    ];
    // The order of the declaration and the flood makes no difference.
    let mut inside = vec![doors[0].enter(nth(0)).unwrap()];
    for n in 0..300_000 {
        let _ = (flooded.enter(nth(n)), also_flooded.enter(nth(n)));
    }
    for door in &doors {
        inside.extend((1..20_000).map(|n| door.enter(nth(n)).expect("a client of another listener is served")));
    }
    let late = beside(5, Limits { max_connections_per_source: count(1), ..Limits::default() });
    inside.extend((0..10_000).map(|n| late.enter(nth(n)).expect("so is one of a listener that came later")));
    assert_eq!(flooded.refusal("10.0.0.0"), Some(Refusal::SourceRate), "what its sources owe is not forgotten");
}

#[test]
fn expired_entries_are_removed() {
    let mut door = Door::new(Limits { max_connections_per_source: count(1), ..Limits::default() });
    let inside: Vec<_> = (0..1000).map(|n| door.enter(nth(n)).unwrap()).collect();
    assert_eq!(door.admission.sources(), 1000);
    drop(inside);
    assert_eq!(door.admission.sources(), 0, "with the last connection, where there is no rate");

    door.listener.limits = Limits { new_connections_per_source: rate(1, SECOND, 1), ..Limits::default() };
    (0..1000).for_each(|n| drop(door.enter(nth(n)).unwrap()));
    door.admission.sources.sweep(door.now + SECOND / 2);
    assert_eq!(door.admission.sources(), 1000, "they still owe something");
    door.admission.sources.sweep(door.now + SECOND);
    assert_eq!(door.admission.sources(), 0);

    let other = Admission::new(key(2), Arc::clone(&door.admission.sources));
    other.table();
    let half = door.admission.table().guaranteed();
    drop(other);
    door.admission.sources.sweep(door.now + SECOND);
    assert_eq!(door.admission.table().guaranteed(), 2 * half, "the part of a listener that is gone is the others'");
}

#[test]
fn new_addresses_cost_no_more_each_the_more_there_are() {
    let limits = || Limits { new_connections_per_source: rate(1, SECOND, 1), ..Limits::default() };
    let enter = |(door, addresses): &mut (Door, usize)| {
        for n in 0..*addresses as u32 {
            // Some entries can be removed at any time, and the table is full for most of it.
            door.now += Duration::from_micros(5);
            let _ = door.enter(nth(n));
        }
    };
    crate::cost::assert_grows_no_faster_than_n_log_n(250_000, |addresses| (Door::new(limits()), addresses), enter);
}

#[test]
fn a_million_addresses_take_no_more_memory_than_the_table_has() {
    let mut door = Door::new(Limits {
        max_connections_per_source: count(10),
        new_connections_per_source: rate(1, SECOND, 10),
        ..Limits::default()
    });
    let regular = door.enter(ip("192.0.2.1")).unwrap();
    for n in 0..1_000_000_u32 {
        // Faster than entries expire: the table stays full.
        door.now += Duration::from_micros(5);
        let _ = door.enter(IpAddr::from((0x2001_0db8_u128 << 96 | u128::from(n) << 64).to_be_bytes()));
    }
    let entries = door.admission.sources();
    assert!((90_000..=131_072).contains(&entries), "{entries}");
    let bytes = door.admission.table().bytes();
    assert!(bytes < 16 << 20, "{bytes} bytes");

    let _inside: Vec<_> = (0..9).map(|_| door.enter(ip("192.0.2.1")).expect("a regular keeps its place")).collect();
    assert_eq!(door.refusal("192.0.2.1"), Some(Refusal::SourceFull));
    drop(regular);
}

#[test]
fn eight_threads_never_exceed_a_count() {
    let limits = Limits { max_connections: count(20), max_connections_per_source: count(15), ..Limits::default() };
    let door = Door::new(limits);
    let inside = [const { AtomicU32::new(0) }; 2];
    thread::scope(|scope| {
        for worker in 0..8_usize {
            let (door, inside) = (&door, &inside);
            scope.spawn(move || {
                let mut held = std::collections::VecDeque::new();
                for round in 0..5_000 {
                    let source = (worker + round) % 2;
                    if let Ok(permits) = door.enter(IpAddr::from([192, 0, 2, source as u8])) {
                        let now_inside = inside[source].fetch_add(1, Ordering::SeqCst) + 1;
                        assert!(now_inside <= 15, "{now_inside} of one source");
                        held.push_back((source, permits));
                    }
                    assert!(door.admission.open() <= 20);
                    if held.len() > round % 5 {
                        let (source, permits) = held.pop_front().unwrap();
                        inside[source].fetch_sub(1, Ordering::SeqCst);
                        drop(permits);
                    }
                }
                for (source, permits) in held {
                    inside[source].fetch_sub(1, Ordering::SeqCst);
                    drop(permits);
                }
            });
        }
    });
    assert_eq!(door.admission.open(), 0);
    let mut all: Vec<_> = (0..15).map(|_| door.enter(ip("192.0.2.0")).unwrap()).collect();
    assert_eq!(door.refusal("192.0.2.0"), Some(Refusal::SourceFull));
    all.extend((0..5).map(|_| door.enter(ip("192.0.2.1")).unwrap()));
    assert_eq!(door.refusal("192.0.2.1"), Some(Refusal::ListenerFull));
}

#[test]
fn an_older_time_of_another_worker_changes_nothing() {
    let mut door = Door::new(Limits { new_connections: rate(1, SECOND, 2), ..Limits::default() });
    let early = door.now;
    door.now += 10 * SECOND;
    assert_eq!([(); 3].map(|()| door.refusal("192.0.2.1")), [None, None, Some(Refusal::ListenerRate)]);
    let late = std::mem::replace(&mut door.now, early);
    let client = ip("192.0.2.1");
    let stale = door.admission.admit_source(&door.listener, client, Some(client), door.now);
    assert_eq!(stale.unwrap_err(), Refusal::ListenerRate);
    door.now = late;
    assert_eq!(door.refusal("192.0.2.1"), Some(Refusal::ListenerRate));
}

/// Connects from eight threads every microsecond for a tenth of a second; returns the number of admitted connections.
fn knocking_threads(door: &Door, client: impl Fn(u64) -> IpAddr + Sync) -> u64 {
    let clock = AtomicU64::new(0);
    let admitted = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let tick = clock.fetch_add(1, Ordering::Relaxed);
                    if tick > 100_000 {
                        break;
                    }
                    let now = door.now + Duration::from_micros(tick);
                    let entered = door.admission.admit_connection(&door.listener.limits, now).and_then(|_| {
                        let client = client(tick);
                        door.admission.admit_source(&door.listener, client, Some(client), now)
                    });
                    admitted.fetch_add(u64::from(entered.is_ok()), Ordering::Relaxed);
                }
            });
        }
    });
    admitted.into_inner()
}

#[test]
fn eight_threads_never_exceed_a_rate() {
    let of_listener = Door::new(Limits { new_connections: rate(10_000, SECOND, 50), ..Limits::default() });
    let admitted = knocking_threads(&of_listener, |tick| IpAddr::from([10, 0, 0, tick as u8]));
    assert!((1_000..=1_050).contains(&admitted), "{admitted} by the listener's rate");

    let of_source = Door::new(Limits { new_connections_per_source: rate(5_000, SECOND, 50), ..Limits::default() });
    let admitted = knocking_threads(&of_source, |tick| IpAddr::from([10, 0, 0, (tick % 2) as u8]));
    assert!((1_000..=1_100).contains(&admitted), "{admitted} by the rate of two sources");
}

proptest! {
    #[test]
    fn no_source_exceeds_its_limits_whether_or_not_it_has_an_entry(
        knocks in vec((0..6_u8, 0..400_u64, any::<bool>(), 0..8_usize), 1..150),
    ) {
        let limits = Limits {
            max_connections_per_source: count(2),
            new_connections_per_source: rate(1, Duration::from_millis(500), 3),
            ..Limits::default()
        };
        let start = Door::with_room_for(3, limits);
        let mut door = Door { now: start.now, ..start };
        let began = door.now;
        let mut open: Vec<(u8, _)> = Vec::new();
        let mut admitted: Vec<(u8, Duration)> = Vec::new();
        for (source, wait, close, which) in knocks {
            door.now += Duration::from_millis(wait);
            if close && !open.is_empty() {
                drop(open.swap_remove(which % open.len()));
            }
            if let Ok(permits) = door.enter(IpAddr::from([192, 0, 2, source])) {
                open.push((source, permits));
                admitted.push((source, door.now - began));
            }
            prop_assert!(open.iter().filter(|(other, _)| *other == source).count() <= 2);
            let times: Vec<_> = admitted.iter().filter(|(other, _)| *other == source).map(|(_, time)| *time).collect();
            for (first, from) in times.iter().enumerate() {
                let window = times.last().map_or(Duration::ZERO, |last| *last - *from);
                prop_assert!((times.len() - first) as u128 <= 3 + window.as_millis() / 500);
            }
        }
        prop_assert!(door.admission.sources() <= 3);
    }
}
