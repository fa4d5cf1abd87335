//! The connections of removed endpoints and listeners, while the proxy keeps running.

use std::{
    net::{SocketAddr, TcpStream},
    num::NonZeroU16,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tcplb::{
    model::{Close, EndpointDrain, Failback, ListenerDrain, Unready, UpstreamConfig},
    proxy::accounting::CloseReason,
};

use crate::rig::*;

/// Clients of a backend without other clients.
fn clients(rig: &Rig, count: usize) -> Vec<TcpStream> {
    let clients: Vec<TcpStream> = (0..count).map(|_| rig.connect()).collect();
    clients.iter().for_each(is_echoed);
    clients
}

/// One load balancer with this backend and drain policy.
fn rig(backend: SocketAddr, drain: EndpointDrain) -> Rig {
    Rig::with(&[backend], |_, upstream| upstream.drain = drain)
}

fn removed(close: Close) -> EndpointDrain {
    EndpointDrain { removed: Some(close), ..EndpointDrain::default() }
}

/// Another endpoint replaces all.
fn replaced_by(address: SocketAddr) -> impl FnOnce(&mut UpstreamConfig) {
    move |upstream| upstream.endpoints = vec![endpoint(address)]
}

/// The times at which the proxy closed these connections, by its log, in their order: threads of this test may notice a
/// reset late. Each client must be reset.
fn closes(rig: &Rig, clients: &[TcpStream]) -> Vec<Timestamp> {
    clients.iter().for_each(is_reset);
    let time = |client: &TcpStream| {
        let (peer, mut time) = (format!(" peer={} ", client.local_addr().unwrap()), None);
        wait_until("its end is logged", || {
            let line = rig.logged().into_iter().find(|line| line.contains(&peer));
            time = line.map(|line| line.split(' ').next().unwrap().parse::<Timestamp>().unwrap());
            time.is_some()
        });
        time.unwrap()
    };
    let mut times: Vec<Timestamp> = clients.iter().map(time).collect();
    times.sort();
    times
}

#[test]
fn connections_are_kept_without_a_drain_policy() {
    let mut rig = Rig::with(&[Backend::echo()], |_, _| {});
    let clients = clients(&rig, 3);
    let other = Backend::echo();
    rig.change_upstream(replaced_by(other));
    rig.publish(|snapshot| {
        snapshot.listeners.clear();
        snapshot.upstreams.clear();
    });
    assert!(rig.monitor.draining().is_empty());
    clients.iter().for_each(is_echoed);
}

#[test]
fn connections_of_a_removed_endpoint_are_closed_over_the_spread_idle_ones_first() {
    const SPREAD: Duration = Duration::from_secs(3);
    let mut rig = rig(Backend::echo(), removed(close(SPREAD, SPREAD)));
    let mut clients = clients(&rig, 40);
    let busy = clients.split_off(20);
    let spoken = Instant::now();
    wait_until("the others are silent for longer", || spoken.elapsed() > Duration::from_millis(20));
    busy.iter().for_each(is_echoed);
    let before = Timestamp::now();
    rig.change_upstream(replaced_by(Backend::echo()));
    let after = Timestamp::now();
    let (idle, busy) = (closes(&rig, &clients), closes(&rig, &busy));
    rig.wait_closed(CloseReason::EndpointRemoved, 40);
    // Two workers may close connections in any order that are to be closed at the same time.
    assert!(idle[19] < busy[0] + SPREAD / 6, "{idle:?} {busy:?}");
    let first_half = idle.iter().filter(|closed| **closed < after + SPREAD / 2).count();
    assert!((10..=20).contains(&first_half), "as time passes, not at once: {idle:?}");
    assert!(idle[0] < after + SPREAD / 3, "{idle:?}");
    assert!(busy[19] > before + SPREAD * 2 / 3, "{busy:?}");
}

#[test]
fn no_more_are_closed_in_a_second_than_is_allowed_over_all_workers() {
    const MOST: usize = 100;
    let at_once =
        Close { max_per_second: NonZeroU16::new(MOST as u16).map(Into::into), ..close(Duration::ZERO, Duration::ZERO) };
    let mut rig = rig(Backend::echo(), removed(at_once));
    let clients = clients(&rig, 150);
    rig.change_upstream(replaced_by(Backend::echo()));
    let closes = closes(&rig, &clients);
    for (index, close) in closes.iter().enumerate() {
        // Workers close connections later than it is decided, with a varying delay.
        let within = closes[index..].iter().filter(|other| **other < *close + Duration::from_millis(900)).count();
        assert!(within <= MOST, "{within} of {MOST}: {closes:?}");
    }
    rig.wait_closed(CloseReason::EndpointRemoved, 150);
}

#[test]
fn an_endpoint_that_comes_back_before_its_turn_keeps_its_connections() {
    let backend = Backend::echo();
    let mut rig = rig(backend, removed(close(WAIT_LIMIT, Duration::ZERO)));
    let clients = clients(&rig, 3);
    let before = rig.endpoint(backend);
    let other = Backend::echo();
    rig.change_upstream(replaced_by(other));
    wait_until("it is to be drained", || rig.monitor.draining().len() == 1);
    assert_eq!(rig.monitor.draining()[0].resource.open(), 3);
    rig.change_upstream(replaced_by(backend));
    // The other endpoint drains, although it never had connections.
    let is_drained = || rig.monitor.draining().iter().any(|departing| departing.resource.open() > 0);
    wait_until("it is not any more", || !is_drained());
    clients.iter().for_each(is_echoed);
    assert_eq!(rig.endpoint(backend).id(), before.id(), "its connections still count");
    assert_eq!(rig.endpoint(backend).active(), 3);
}

#[test]
fn a_terminating_endpoint_drains_by_its_policy_then_by_that_of_removal() {
    let at_once = Some(close(Duration::ZERO, Duration::ZERO));
    for (why, drain, reason) in [
        (
            Some(Unready::Terminating),
            EndpointDrain { terminating: at_once, ..Default::default() },
            CloseReason::EndpointTerminating,
        ),
        (
            Some(Unready::NotReady),
            EndpointDrain { unhealthy: at_once, ..Default::default() },
            CloseReason::EndpointUnhealthy,
        ),
        (
            Some(Unready::Drained),
            EndpointDrain { drained: at_once, ..Default::default() },
            CloseReason::EndpointDrained,
        ),
        (None, EndpointDrain { removed: at_once, ..Default::default() }, CloseReason::EndpointRemoved),
    ] {
        let backend = Backend::echo();
        let mut rig = rig(backend, drain);
        let clients = clients(&rig, 2);
        let other = Backend::echo();
        for unready in [Unready::NotReady, Unready::Terminating, Unready::Drained]
            .into_iter()
            .filter(|unready| Some(*unready) != why)
        {
            rig.change_upstream(|upstream| {
                replaced_by(other)(upstream);
                upstream.unready = [(endpoint(backend).key, unready)].into();
            });
            assert!(rig.monitor.draining().is_empty());
            clients.iter().for_each(is_echoed);
        }
        rig.change_upstream(|upstream| {
            replaced_by(other)(upstream);
            upstream.unready = why.map(|why| (endpoint(backend).key, why)).into_iter().collect();
        });
        clients.iter().for_each(is_reset);
        rig.wait_closed(reason, 2);
    }
}

#[test]
fn connections_of_an_unhealthy_endpoint_are_closed() {
    let (sick, other) = (Backend::new(), Backend::echo());
    let mut rig = rig(
        sick.address,
        EndpointDrain { unhealthy: Some(close(Duration::ZERO, Duration::ZERO)), ..EndpointDrain::default() },
    );
    let (client, served) = rig.connect_to(&sick);
    is_connected(&client, &served);
    rig.change_upstream(|upstream| {
        backend_of(upstream).active_check = Some(quick_check().into());
    });
    is_connected(&client, &served);
    let address = sick.address;
    drop(sick);
    wait_until("it is unhealthy", || !rig.endpoint(address).usable());
    is_connected(&client, &served);
    assert!(rig.monitor.draining().is_empty(), "there is nowhere to go for its clients");
    rig.change_upstream(|upstream| {
        upstream.endpoints.push(endpoint(other));
        upstream.endpoints.sort_by(|one, other| one.key.cmp(&other.key));
    });
    is_reset(&client);
    is_reset(&served);
    rig.wait_closed(CloseReason::EndpointUnhealthy, 1);
}

#[test]
fn connections_of_a_removed_listener_drain_by_its_last_policy() {
    let mut rig = Rig::with(&[Backend::echo()], |listener, _| {
        listener.drain = ListenerDrain { removed: Some(close(Duration::ZERO, Duration::ZERO)), shutdown: None };
    });
    let clients = clients(&rig, 3);
    rig.publish(|snapshot| {
        snapshot.listeners.clear();
        snapshot.upstreams.clear();
    });
    clients.iter().for_each(is_reset);
    rig.wait_closed(CloseReason::ListenerRemoved, 3);
}

#[test]
fn a_drain_continues_after_its_load_balancer_is_removed() {
    // Longer than a busy machine takes from one publication to the next.
    const AFTER: Duration = Duration::from_secs(3);
    let mut rig = rig(Backend::echo(), removed(close(AFTER, Duration::ZERO)));
    let clients = clients(&rig, 3);
    rig.change_upstream(replaced_by(Backend::echo()));
    wait_until("it is to be drained", || rig.monitor.draining().len() == 1);
    rig.publish(|snapshot| {
        snapshot.listeners.clear();
        snapshot.upstreams.clear();
    });
    clients.iter().for_each(is_reset);
    rig.wait_closed(CloseReason::EndpointRemoved, 3);
    wait_until("nothing is left to be drained", || rig.monitor.draining().is_empty());
}

#[test]
fn connections_of_standby_endpoints_drain_after_a_failback() {
    let (first, spare) = (Backend::echo(), Backend::echo());
    let stands_in = |upstream: &mut UpstreamConfig| {
        stand_by(upstream, spare);
        upstream.balancing.failover.failback = Failback::After(Duration::ZERO);
        upstream.drain.failback = Some(close(Duration::ZERO, Duration::ZERO));
    };
    let mut rig = Rig::with(&[spare], |_, upstream| stands_in(upstream));
    let clients = clients(&rig, 3);
    rig.change_upstream(|upstream| {
        upstream.endpoints.push(endpoint(first));
        upstream.endpoints.sort_by(|one, other| one.key.cmp(&other.key));
    });
    clients.iter().for_each(is_reset);
    rig.wait_closed(CloseReason::Failback, 3);
    is_echoed(&rig.connect());
    assert_eq!(rig.endpoint(first).connections(), 1);
}

#[test]
fn shutdown_uses_the_declared_policy_rather_than_that_of_the_accept() {
    for goes in [false, true] {
        let mut rig = Rig::with(&[Backend::echo()], |_, _| {});
        let clients = clients(&rig, 3);
        let at_once = close(Duration::ZERO, Duration::ZERO);
        rig.change_listener(|listener| listener.drain.shutdown = Some(at_once));
        if goes {
            rig.publish(|snapshot| {
                snapshot.listeners.clear();
                snapshot.upstreams.clear();
            });
        }
        let begun = Instant::now();
        assert_eq!(rig.shut_down(WAIT_LIMIT).reset, 3, "its listener is gone: {goes}");
        assert!(begun.elapsed() < WAIT_LIMIT / 2, "{:?}", begun.elapsed());
        clients.iter().for_each(is_reset);
    }
}

#[test]
fn a_finished_failback_closes_no_connections_of_unready_endpoints() {
    let (first, spare, other) = (Backend::echo(), Backend::echo(), Backend::echo());
    let of_spare = |address| {
        let mut endpoint = endpoint(address);
        endpoint.key.backend = "spare".into();
        endpoint
    };
    let sets =
        |upstream: &mut UpstreamConfig, mut endpoints: Vec<tcplb::model::EndpointConfig>, unready: Option<Unready>| {
            endpoints.sort_by(|one, other| one.key.cmp(&other.key));
            upstream.endpoints = endpoints;
            upstream.unready = unready.map(|why| (of_spare(spare).key, why)).into_iter().collect();
        };
    let mut rig = Rig::with(&[spare], |_, upstream| {
        stand_by(upstream, spare);
        let slowly = Some(close(WAIT_LIMIT, Duration::ZERO));
        upstream.drain = EndpointDrain { failback: slowly, unhealthy: slowly, ..EndpointDrain::default() };
    });
    let clients = clients(&rig, 3);
    let why = |rig: &Rig| {
        let departing = rig.monitor.draining();
        departing
            .iter()
            .filter(|departing| departing.resource.open() > 0)
            .map(|departing| departing.reason)
            .collect::<Vec<_>>()
    };
    rig.change_upstream(|upstream| sets(upstream, vec![endpoint(first), of_spare(spare)], None));
    wait_until("it gives way", || why(&rig) == [CloseReason::Failback]);
    let not_ready = Some(Unready::NotReady);
    rig.change_upstream(|upstream| sets(upstream, vec![endpoint(first), of_spare(other)], not_ready));
    wait_until("it goes for both", || why(&rig).len() == 2 && why(&rig).contains(&CloseReason::Failback));
    rig.change_upstream(|upstream| sets(upstream, vec![of_spare(other)], not_ready));
    wait_until("the failback is over", || why(&rig) == [CloseReason::EndpointUnhealthy]);
    rig.change_upstream(|upstream| sets(upstream, vec![endpoint(first), of_spare(spare)], None));
    wait_until("it is ready again and gives way", || why(&rig) == [CloseReason::Failback]);
    clients.iter().for_each(is_echoed);
}
