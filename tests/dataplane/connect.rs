//! Connecting to a backend: attempts, deadlines, and preconnected sockets.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr},
    num::NonZeroU16,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use tcplb::{
    model::{AccessLogMode, Algorithm, Preconnect, UpstreamConfig},
    proxy::accounting::CloseReason,
};

use crate::rig::*;

fn number(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

#[test]
fn a_client_does_not_notice_that_an_endpoint_is_dead() {
    let (_held, dead) = dead_address();
    let rig = Rig::new(&[dead, Backend::echo()]);
    for _ in 0..10 {
        is_echoed(rig.connect());
    }
    rig.wait_closed(CloseReason::Complete, 10);
    assert!(rig.endpoint(dead).connect_failures() >= 5, "half of them went to the dead one first");
    wait_until("all are logged", || rig.logged().len() == 10);
    let failed = format!(" attempts=2 failed_endpoints={dead}/refused ");
    assert!(rig.logged().iter().any(|line| line.contains(&failed)), "{:?}", rig.logged());
}

#[test]
fn a_second_attempt_prefers_endpoints_whose_last_attempt_succeeded() {
    use Algorithm::{LeastConnections, Maglev, PowerOfTwo, Random, RoundRobin};
    for algorithm in [RoundRobin, LeastConnections, PowerOfTwo, Random, Maglev] {
        let dead: Vec<_> = (0..4).map(|_| dead_address()).collect();
        let mut addresses: Vec<SocketAddr> = dead.iter().map(|(_, address)| *address).collect();
        addresses.push(Backend::echo());
        let rig = Rig::with(&addresses, |_, upstream| {
            upstream.balancing.algorithm = algorithm;
            upstream.connect.attempts = number(2);
        });
        // Other clients have failed to connect to them.
        for (_, address) in &dead {
            rig.endpoint(*address).connect_failed(&std::io::ErrorKind::ConnectionRefused.into());
        }
        for _ in 0..20 {
            is_echoed(rig.connect());
        }
        rig.wait_closed(CloseReason::Complete, 20);
    }
}

#[test]
fn endpoints_that_fail_are_tried_again_where_there_are_no_others() {
    let backend = Backend::new();
    let (_held, dead) = dead_address();
    let rig = Rig::new(&[dead, backend.address]);
    for address in [dead, backend.address] {
        rig.endpoint(address).connect_failed(&std::io::ErrorKind::ConnectionRefused.into());
    }
    for _ in 0..4 {
        let (client, served) = rig.connect_to(&backend);
        is_connected(&client, &served);
    }
}

#[test]
fn an_endpoint_that_does_not_answer_costs_a_client_one_timeout() {
    let black_hole = BlackHole::new();
    let rig = Rig::with(&[black_hole.address, Backend::echo()], |_, upstream| {
        // The other endpoint answers sooner, also on a busy machine.
        upstream.connect.timeout = Duration::from_secs(1);
    });
    for _ in 0..4 {
        is_echoed(rig.connect());
    }
    assert_eq!(rig.endpoint(black_hole.address).connect_failures(), 2);
}

#[test]
fn attempts_end_at_the_deadline() {
    let holes = [BlackHole::new(), BlackHole::new(), BlackHole::new()];
    let rig = Rig::with(&holes.each_ref().map(|hole| hole.address), |_, upstream| {
        upstream.connect.timeout = Duration::from_secs(2);
        upstream.connect.deadline = Duration::from_secs(3);
    });
    let started = Instant::now();
    is_reset(rig.connect());
    assert!(started.elapsed() >= Duration::from_secs(3));
    rig.wait_closed(CloseReason::ConnectTimeout, 1);
    wait_until("it is logged", || rig.logged().len() == 1);
    let line = &rig.logged()[0];
    assert!(line.contains(" attempts=2 ") && !line.contains(" backend="), "{line}");
    assert!(line.contains("/timeout,") && line.contains("/deadline "), "{line}");
}

#[test]
fn a_listener_that_logs_failures_logs_connections_with_failed_attempts() {
    let (_held, dead) = dead_address();
    let rig = Rig::with(&[dead, Backend::echo()], |listener, _| listener.access_log.mode = AccessLogMode::Failures);
    for _ in 0..10 {
        is_echoed(rig.connect());
    }
    rig.wait_closed(CloseReason::Complete, 10);
    let log = rig.monitor.access_log();
    wait_until("all are logged or suppressed", || log.logged() + log.suppressed() == 10);
    assert!(log.logged() >= 1 && log.suppressed() >= 1, "{} of 10 are logged", log.logged());
    wait_until("all are written", || rig.logged().len() as u64 == log.logged());
    assert!(rig.logged().iter().all(|line| line.contains("/refused ")), "{:?}", rig.logged());
}

#[test]
fn a_client_is_reset_when_every_attempt_has_failed() {
    let (_held, dead) = dead_address();
    let (_held_too, other) = dead_address();
    let rig = Rig::new(&[dead, other]);
    is_reset(rig.connect());
    rig.wait_closed(CloseReason::ConnectFailed, 1);
}

#[test]
fn without_a_usable_endpoint_clients_are_refused_at_once() {
    let mut rig = Rig::new(&[]);
    is_reset(rig.connect());
    rig.wait_closed(CloseReason::NoEndpoint, 1);
    let echo = Backend::echo();
    rig.change_upstream(|upstream| *upstream = crate::rig::upstream(&[echo]));
    is_echoed(rig.connect());
    rig.change_upstream(|upstream| upstream.endpoints.clear());
    is_reset(rig.connect());
    rig.wait_closed(CloseReason::NoEndpoint, 2);
}

fn preconnect(per_endpoint: u16, upstream: &mut UpstreamConfig) {
    upstream.connect.preconnect =
        Some(Preconnect { per_endpoint: number(per_endpoint), idle_timeout: WAIT_LIMIT * 10 });
}

/// Greets each connection with its number, then echoes. The second value counts the connections accepted.
fn numbering() -> (SocketAddr, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let address = Backend::serving(move |mut stream| {
        let number = counted.fetch_add(1, Relaxed);
        if stream.write_all(format!("{number:08}").as_bytes()).is_ok() {
            let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
        }
    });
    (address, count)
}

fn greeting(stream: impl Read) -> usize {
    String::from_utf8(read_exactly(stream, 8)).unwrap().parse().unwrap()
}

#[test]
fn connections_made_in_advance_are_ready_with_their_greeting_and_are_refilled() {
    let (backend, accepted) = numbering();
    let rig = Rig::with(&[backend], |_, upstream| preconnect(3, upstream));
    let endpoint = rig.endpoint(backend);
    for round in 1..=5 {
        wait_until("the pool is full", || endpoint.pool_figures().idle == 3);
        let client = rig.connect();
        greeting(&client);
        is_echoed(&client);
        assert_eq!((endpoint.pool_figures().hits, endpoint.pool_figures().misses), (round, 0));
    }
    wait_until("the pool is full", || endpoint.pool_figures().idle == 3);
    wait_until("all are accepted", || accepted.load(Relaxed) == 5 + 3);
    assert_eq!(endpoint.connections(), 5);
}

#[test]
fn no_connection_ever_serves_two_clients() {
    let (backend, _) = numbering();
    let rig = Rig::with(&[backend], |_, upstream| preconnect(4, upstream));
    let address = rig.address();
    let mut greetings: Vec<usize> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(move || {
                    (0..25)
                        .map(|_| {
                            let client = connect(address);
                            let number = greeting(&client);
                            is_echoed(&client);
                            number
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    rig.wait_closed(CloseReason::Complete, 200);
    greetings.sort_unstable();
    let all = greetings.len();
    greetings.dedup();
    assert_eq!(greetings.len(), all, "each client has a backend connection of its own");
    let figures = rig.endpoint(backend).pool_figures();
    assert_eq!(figures.hits + figures.misses, 200, "a burst beyond the pool is dialled: {figures:?}");
    assert!(figures.hits > 0, "{figures:?}");
}

#[test]
fn a_connection_that_died_in_the_pool_is_never_handed_out() {
    for dies_by in [
        // Closed, closed after a last message that looks like a greeting, half-closed, and reset.
        (|stream| drop(stream)) as fn(std::net::TcpStream),
        |mut stream| stream.write_all(b"Too many connections").unwrap(),
        |stream| {
            stream.shutdown(Shutdown::Write).unwrap();
            thread::spawn(move || read_to_end(stream));
        },
        reset,
    ] {
        let backend = Backend::new();
        let rig = Rig::with(&[backend.address], |_, upstream| preconnect(2, upstream));
        let pooled = [backend.accept(), backend.accept()];
        let endpoint = rig.endpoint(backend.address);
        wait_until("the pool is full", || endpoint.pool_figures().idle == 2);
        pooled.into_iter().for_each(dies_by);
        // Either the client or the sweep of the pool detects the dead sockets.
        let client = rig.connect();
        let mut replacements = Vec::new();
        let served = loop {
            replacements.extend(backend.accept_now());
            let speaks = |stream: &&std::net::TcpStream| {
                let _ = (&**stream).write_all(b"hello");
                client.set_nonblocking(true).unwrap();
                let heard = client.peek(&mut [0]).is_ok();
                client.set_nonblocking(false).unwrap();
                heard
            };
            if replacements.iter().any(|stream| speaks(&stream)) {
                break read_exactly(&client, 5);
            }
            thread::yield_now();
        };
        assert_eq!(served, b"hello");
        wait_until("both are discarded", || endpoint.pool_figures().discarded >= 2);
        drop(client);
        drop(replacements);
    }
}

#[test]
fn pools_go_with_their_endpoint() {
    let backend = Backend::new();
    let mut rig = Rig::with(&[backend.address], |_, upstream| preconnect(2, upstream));
    let pooled = [backend.accept(), backend.accept()];
    rig.change_upstream(|upstream| upstream.endpoints.clear());
    for stream in pooled {
        assert_eq!(read_to_end(stream), b"", "unused connections are closed cleanly");
    }
}

#[test]
fn all_pools_together_hold_no_more_than_they_may() {
    let backends: Vec<_> = (0..4).map(|_| numbering()).collect();
    let addresses: Vec<_> = backends.iter().map(|(address, _)| *address).collect();
    let size = Size { preconnected: 5, ..Size::default() };
    let rig = Rig::sized(size, &addresses, |_, upstream| preconnect(4, upstream));
    let idle = || addresses.iter().map(|address| rig.endpoint(*address).pool_figures().idle).sum::<usize>();
    // One load balancer leaves places for others.
    wait_until("the budget of the load balancer is used", || idle() == 4);
    for _ in 0..20 {
        let client = rig.connect();
        greeting(&client);
        assert!(idle() <= 4);
    }
}
