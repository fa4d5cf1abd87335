//! The choice of a worker and an endpoint for a connection.

use std::{
    net::TcpStream,
    num::{NonZeroU16, NonZeroU32},
};

use tcplb::{
    model::{self, Proximity},
    proxy::accounting::CloseReason,
};

use crate::rig::*;

#[test]
fn a_few_heavy_connections_are_spread_over_all_workers() {
    let size = Size { workers: 8, ..Size::default() };
    let rig = Rig::sized(size, &[Backend::echo()], |_, _| {});
    let clients: Vec<TcpStream> = (0..20)
        .map(|_| {
            let client = rig.connect();
            is_echoed(&client);
            client
        })
        .collect();
    let mut open: Vec<usize> = rig.monitor.open_by_worker().collect();
    open.sort_unstable();
    assert_eq!(open, [2, 2, 2, 2, 3, 3, 3, 3]);
    for client in &clients {
        is_echoed(client);
    }
}

#[test]
fn connections_that_come_at_once_are_spread_too() {
    let size = Size { workers: 8, ..Size::default() };
    let rig = Rig::sized(size, &[Backend::echo()], |_, _| {});
    let clients: Vec<TcpStream> = (0..160).map(|_| rig.connect()).collect();
    clients.iter().for_each(is_echoed);
    let open: Vec<usize> = rig.monitor.open_by_worker().collect();
    // 20 each on average; workers that hand over at the same time may choose the same target.
    assert!(open.iter().all(|open| (12..=28).contains(open)), "{open:?}");
}

#[test]
fn endpoints_get_their_turn_whichever_worker_accepts() {
    let backends: Vec<_> = (0..3).map(|_| Backend::echo()).collect();
    let size = Size { workers: 4, ..Size::default() };
    let rig = Rig::sized(size, &backends, |_, _| {});
    let clients: Vec<TcpStream> = (0..30).map(|_| rig.connect()).collect();
    clients.iter().for_each(is_echoed);
    for backend in &backends {
        let endpoint = rig.endpoint(*backend);
        assert_eq!((endpoint.active(), endpoint.connections()), (10, 10));
    }
}

#[test]
fn an_unusable_endpoint_is_reported() {
    let (one, other) = (Backend::new(), Backend::new());
    let rig = Rig::with(&[one.address, other.address], |_, upstream| {
        backend_of(upstream).active_check = Some(quick_check().into());
    });
    let (changes, gone) = (|| rig.monitor.view().report.usable_changes, one.address);
    wait_until("both have passed their first check", || {
        [gone, other.address].iter().all(|address| rig.endpoint(*address).usable())
    });
    let before = changes();
    drop(one);
    // The first checks may be reported late.
    wait_until("it is reported", || changes() > before && !rig.endpoint(gone).usable());
    assert!(rig.endpoint(other.address).usable());
}

#[test]
fn clients_go_to_another_priority_once_the_first_has_failed_them() {
    let (socket, dead) = dead_address();
    let spare = Backend::echo();
    let mut rig = Rig::with(&[dead, spare], |_, upstream| {
        stand_by(upstream, spare);
        upstream.passive_check = Some(model::PassiveCheck {
            consecutive_failures: NonZeroU16::new(2).unwrap(),
            eject_for: WAIT_LIMIT,
            max_eject_for: WAIT_LIMIT,
            max_ejected_percent: 1,
        });
    });
    assert!(!rig.endpoint(spare).in_service());
    drop(rig.connect());
    rig.wait_closed(CloseReason::ConnectFailed, 1);
    // The second failure ejects it; this client may find the other one with its next attempt.
    drop(rig.connect());
    wait_until("the spare one serves", || rig.endpoint(spare).in_service());
    is_echoed(&rig.connect());
    drop(socket);
    rig.change_upstream(|upstream| upstream.passive_check = None);
    assert!(rig.endpoint(dead).in_service() && !rig.endpoint(spare).in_service(), "it is not ejected any more");
}

#[test]
fn near_endpoints_come_first_until_they_are_overloaded() {
    let (near, far) = (Backend::echo(), Backend::echo());
    let rig = Rig::with(&[near, far], |_, upstream| {
        upstream.endpoints.iter_mut().find(|endpoint| endpoint.address() == near).unwrap().proximity =
            Proximity::SameZone;
        upstream.balancing.overloaded_at = NonZeroU32::new(10);
    });
    let open = |count| {
        let clients: Vec<TcpStream> = (0..count).map(|_| rig.connect()).collect();
        clients.iter().for_each(is_echoed);
        clients
    };
    let (one, other) = (rig.endpoint(near), rig.endpoint(far));
    let first = open(8);
    assert_eq!((one.active(), other.active(), one.near(), other.near()), (8, 0, true, false));
    let _more = open(8);
    // Workers that choose at the same time may both find room.
    assert!((10..=11).contains(&one.active()) && one.active() + other.active() == 16, "{one:?} {other:?}");
    drop(first);
    wait_until("their places are free", || one.active() <= 3);
    let reached = other.connections();
    let _last = open(4);
    assert_eq!(other.connections(), reached, "there is room again");
}
