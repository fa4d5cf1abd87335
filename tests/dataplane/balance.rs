//! Which worker and which endpoint a connection goes to.

use std::{net::TcpStream, num::NonZeroU16, sync::Arc, time::Duration};

use tcplb::model::{ActiveCheck, Probe, Transport};

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
    // 20 each; workers that hand over at the same moment may choose the same one.
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
fn it_is_reported_that_an_endpoint_becomes_unusable() {
    let (one, other) = (Backend::new(), Backend::new());
    let rig = Rig::with(&[one.address, other.address], |_, upstream| {
        let check = ActiveCheck {
            probe: Probe::Tcp,
            port: None,
            transport: Transport::Plain,
            interval: Duration::from_millis(50),
            unhealthy_interval: Duration::from_millis(50),
            jitter_percent: 10,
            timeout: PATIENCE,
            healthy_after: NonZeroU16::MIN,
            unhealthy_after: NonZeroU16::MIN,
        };
        backend_of(upstream).active_check = Some(Arc::new(check));
    });
    let (changes, gone) = (|| rig.monitor.view().report.usable_changes, one.address);
    let before = changes();
    drop(one);
    wait_until("it is reported", || changes() > before);
    assert!(!rig.endpoint(gone).usable());
    assert!(rig.endpoint(other.address).usable());
}
