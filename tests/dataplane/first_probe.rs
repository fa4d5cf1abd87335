//! Clients that connect before the first checks of endpoints complete.

use std::{io::Write, net::SocketAddr, num::NonZeroU16, time::Duration};

use rustls::version::TLS13;
use tcplb::{
    model::{ActiveCheck, Exchange, Failback, Hidden, Listener, Probe, UpstreamConfig},
    proxy::accounting::CloseReason,
};

use crate::{authority::Authority, rig::*, tls};

/// Endpoints whose checks are answered by a separate server of this test.
struct Checked {
    rig: Rig,
    says: Backend,
}

impl Checked {
    fn new(endpoints: &[SocketAddr], change: impl FnOnce(&mut Listener, &mut UpstreamConfig)) -> Self {
        let says = Backend::new();
        let rig = Rig::with(endpoints, |listener, upstream| {
            let exchange = Exchange { send: Hidden::new(Vec::new().into()), expect: b"primary".as_slice().into() };
            backend_of(upstream).active_check = Some(
                ActiveCheck {
                    probe: Probe::Exchange(exchange),
                    port: NonZeroU16::new(says.address.port()),
                    interval: WAIT_LIMIT,
                    unhealthy_interval: WAIT_LIMIT,
                    ..quick_check()
                }
                .into(),
            );
            change(listener, upstream);
        });
        Self { rig, says }
    }

    fn say(&self, word: &str) {
        self.says.accept().write_all(word.as_bytes()).unwrap();
    }
}

#[test]
fn waiting_clients_are_served_when_the_first_probe_passes() {
    let checked = Checked::new(&[Backend::echo()], |_, _| {});
    let early = [checked.rig.connect(), checked.rig.connect()];
    wait_until("they are there", || checked.rig.active() == 2);
    checked.say("primary");
    early.iter().for_each(is_echoed);
}

#[test]
fn waiting_clients_are_refused_when_the_first_probe_fails() {
    let checked = Checked::new(&[Backend::echo()], |_, _| {});
    let early = checked.rig.connect();
    wait_until("it is there", || checked.rig.active() == 1);
    checked.say("a replica, for once");
    is_reset(early);
    is_reset(checked.rig.connect());
    checked.rig.wait_closed(CloseReason::NoEndpoint, 2);
}

#[test]
fn waiting_clients_are_refused_at_the_connect_deadline() {
    let checked = Checked::new(&[Backend::echo()], |_, upstream| {
        upstream.connect.deadline = Duration::from_millis(100);
    });
    is_reset(checked.rig.connect());
    checked.rig.wait_closed(CloseReason::NoEndpoint, 1);
    checked.say("primary");
    wait_until("it serves", || checked.rig.monitor.view().report.usable_changes > 1);
}

#[test]
fn clients_that_left_before_the_first_probe_ended_are_not_connected() {
    let backend = Backend::echo();
    let checked = Checked::new(&[backend], |_, _| {});
    let (stays, mut leaves, resets) = (checked.rig.connect(), checked.rig.connect(), checked.rig.connect());
    wait_until("all are there", || checked.rig.active() == 3);
    leaves.write_all(b"a request").unwrap();
    drop(leaves);
    reset(resets);
    checked.rig.wait_closed(CloseReason::ClientReset, 2);
    checked.say("primary");
    is_echoed(stays);
    assert_eq!(checked.rig.endpoint(backend).connections(), 1);
}

#[test]
fn tls_handshakes_run_during_the_first_probe() {
    let authority = Authority::new();
    let certificate = authority.certificate_for(&["db.example"]);
    let checked = Checked::new(&[Backend::echo()], |listener, _| listener.tls = tls::tls(&certificate));
    let mut early = tls::connect_tls(&authority.client(&[&TLS13]), checked.rig.address());
    checked.say("primary");
    is_echoed(&mut early);
    tls::end(early);
}

#[test]
fn waiting_clients_do_not_activate_another_priority() {
    let (first, spare) = (Backend::echo(), Backend::echo());
    let checked = Checked::new(&[first, spare], |_, upstream| {
        stand_by(upstream, spare);
        upstream.balancing.failover.failback = Failback::Never;
    });
    assert!(checked.rig.endpoint(spare).usable());
    let early = checked.rig.connect();
    wait_until("it is there", || checked.rig.active() == 1);
    checked.say("primary");
    is_echoed(early);
    is_echoed(checked.rig.connect());
    assert_eq!(checked.rig.endpoint(spare).connections(), 0);
}

#[test]
fn another_priority_serves_waiting_clients_if_the_first_cannot() {
    let (first, spare) = (Backend::echo(), Backend::echo());
    let checked = Checked::new(&[first, spare], |_, upstream| stand_by(upstream, spare));
    let early = checked.rig.connect();
    wait_until("it is there", || checked.rig.active() == 1);
    checked.say("a replica, for once");
    is_echoed(early);
    assert_eq!(checked.rig.endpoint(spare).connections(), 1);
}
