//! Connections that end by timeouts.

use std::{
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};

use tcplb::proxy::accounting::CloseReason;

use crate::rig::*;

/// Longer than a busy machine takes to connect and to exchange a few bytes.
const SHORT: Duration = Duration::from_secs(3);

#[test]
fn an_idle_connection_is_reset_on_both_sides() {
    let backend = Backend::new();
    let rig = Rig::with(&[backend.address], |listener, _| listener.timeouts.idle = Some(SHORT));
    let started = Instant::now();
    let (client, served) = rig.connect_to(&backend);
    is_connected(&client, &served);
    is_reset(&client);
    is_reset(&served);
    assert!(started.elapsed() >= SHORT);
    rig.wait_closed(CloseReason::IdleTimeout, 1);
}

#[test]
fn an_idle_half_closed_connection_times_out() {
    let backend = Backend::new();
    let rig = Rig::with(&[backend.address], |listener, _| listener.timeouts.half_closed = Some(SHORT));
    for client_first in [true, false] {
        let (client, served) = rig.connect_to(&backend);
        let (ended, remaining) = if client_first { (&client, &served) } else { (&served, &client) };
        ended.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(remaining), b"");
        is_reset(ended);
    }
    rig.wait_closed(CloseReason::HalfClosedTimeout, 2);
}

#[test]
fn the_longest_duration_is_shortened_by_up_to_its_jitter() {
    const LONGEST: Duration = Duration::from_secs(6);
    let echo = Backend::echo();
    let rig = Rig::with(&[echo], |listener, _| {
        listener.timeouts.max_duration = Some(LONGEST);
        listener.timeouts.jitter_percent = 50;
    });
    let address = rig.address();
    let durations: Vec<Duration> = thread::scope(|scope| {
        let clients: Vec<_> = (0..30)
            .map(|_| {
                scope.spawn(move || {
                    let started = Instant::now();
                    let client = connect(address);
                    is_echoed(&client);
                    is_reset(&client);
                    started.elapsed()
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    rig.wait_closed(CloseReason::MaxDuration, 30);
    let (first, last) = (durations.iter().min().unwrap(), durations.iter().max().unwrap());
    assert!(*first > LONGEST * 4 / 10, "none lasts less than half as long: {first:?}");
    // The probability that 30 ends are within a tenth of the range is 1 in 10^26.
    assert!(*last - *first > LONGEST / 10, "they do not end together: {first:?} to {last:?}");
}

#[test]
fn activity_does_not_extend_the_longest_duration() {
    let echo = Backend::echo();
    let rig = Rig::with(&[echo], |listener, _| {
        listener.timeouts.max_duration = Some(SHORT);
        listener.timeouts.idle = Some(WAIT_LIMIT);
    });
    let client = rig.connect();
    let started = Instant::now();
    let mut byte = [0];
    while std::io::Write::write_all(&mut &client, b"?")
        .and_then(|()| std::io::Read::read_exact(&mut &client, &mut byte))
        .is_ok()
    {
        assert!(started.elapsed() < WAIT_LIMIT);
    }
    assert!(started.elapsed() > SHORT * 9 / 10);
    rig.wait_closed(CloseReason::MaxDuration, 1);
}
