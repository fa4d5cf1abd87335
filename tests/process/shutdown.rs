//! The shutdown of the process.

use std::{
    io::ErrorKind,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use crate::harness::{Client, EchoServer, Folder, Tcplb, free_address, manifest, visit, wait_until};

/// A load balancer with this drain policy.
fn start(drain: &str, arguments: &[&str]) -> (Tcplb, SocketAddr, EchoServer, Folder) {
    let (server, folder, address) = (EchoServer::start(None), Folder::new(), free_address());
    let file = folder.write("shop.yaml", &manifest("shop", address.port(), &[server.address], drain));
    (Tcplb::standalone(&[arguments, &[&file]].concat()).ready(), address, server, folder)
}

fn connected(address: SocketAddr) -> Client {
    let mut client = Client::connect(address);
    client.echo("here").unwrap();
    client
}

/// The number of connections in the access log with this close reason.
fn ends(output: &str, reason: &str) -> usize {
    output
        .lines()
        .filter(|line| line.contains(" connection end ") && line.ends_with(&format!("reason={reason}")))
        .count()
}

#[test]
fn shutdown_turns_unready_then_stops_accepting_then_drains() {
    // Longer than a busy machine takes for a few requests.
    let (mut tcplb, address, _server, _folder) = start("drain: {shutdown: {after: 1h}}", &["--shutdown-delay", "10s"]);
    let mut open = connected(address);
    tcplb.signal("TERM");
    wait_until("/lb-ready fails", || tcplb.answers("/lb-ready", 503));
    assert!(tcplb.answers("/readyz", 200), "endpoints that learn late still send connections");
    visit(address).expect("still accepting");

    tcplb.logged("stopped accepting connections");
    assert!(visit(address).is_err());
    wait_until("/readyz fails", || tcplb.answers("/readyz", 503));
    assert!(tcplb.answers("/livez", 200));
    open.echo("still there").unwrap();
    assert!(tcplb.is_running());
    open.finish().unwrap();
    let (status, output) = tcplb.ended();
    assert_eq!(status.code(), Some(0));
    assert_eq!(ends(&output, "complete"), 2, "{output}");
    let line = tcplb.logged("drained");
    assert!(line.contains("ended_by_themselves=1") && line.contains("reset=0"), "{line}");
}

#[test]
fn without_open_connections_it_ends_at_once() {
    for signal in ["TERM", "INT"] {
        let (mut tcplb, address, ..) = start("", &[]);
        visit(address).unwrap();
        tcplb.signal(signal);
        assert_eq!(tcplb.ended().0.code(), Some(0), "{signal}");
        assert!(tcplb.seen.iter().any(|line| line.contains(&format!("SIG{signal}"))), "{:?}", tcplb.seen);
    }
}

#[test]
fn connections_are_closed_over_the_spread_idle_ones_first_and_the_last_are_reset() {
    let (mut tcplb, address, ..) = start("drain: {shutdown: {after: 3s, spread: 2s}}", &["--workers", "1"]);
    let idle: Vec<_> = (0..4).map(|_| connected(address)).collect();
    let busy: Vec<_> = (0..2).map(|_| connected(address)).collect();
    let peers = |clients: &[Client]| -> Vec<String> {
        clients.iter().map(|client| format!(" peer={} ", client.0.get_ref().local_addr().unwrap())).collect()
    };
    let (idle_peers, busy_peers) = (peers(&idle), peers(&busy));
    let stop = Arc::new(AtomicBool::new(false));
    let watch = |mut client: Client, is_busy: bool| {
        let stop = stop.clone();
        thread::spawn(move || {
            let end = loop {
                let result =
                    if is_busy { client.echo("busy") } else { client.end().and(Err(ErrorKind::UnexpectedEof.into())) };
                match result {
                    Ok(()) if stop.load(Relaxed) => return None,
                    Ok(()) => thread::sleep(Duration::from_millis(5)),
                    Err(error) => break error.kind(),
                }
            };
            Some((Instant::now(), end))
        })
    };
    let idle: Vec<_> = idle.into_iter().map(|client| watch(client, false)).collect();
    let busy: Vec<_> = busy.into_iter().map(|client| watch(client, true)).collect();
    let begun = Instant::now();
    tcplb.signal("TERM");
    let (status, output) = tcplb.ended();
    stop.store(true, Relaxed);
    assert_eq!(status.code(), Some(0));
    let ended = |watched: Vec<thread::JoinHandle<Option<(Instant, ErrorKind)>>>| -> Vec<Instant> {
        watched
            .into_iter()
            .map(|watched| {
                let (at, end) = watched.join().unwrap().expect("it ends before the process has ended");
                assert!(
                    matches!(end, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
                    "it never looks complete: {end}"
                );
                at
            })
            .collect()
    };
    let (idle, _) = (ended(idle), ended(busy));
    // By the log: threads of this test may notice an end late.
    let places = |peers: Vec<String>| -> Vec<Option<usize>> {
        peers.iter().map(|peer| output.lines().position(|line| line.contains(peer))).collect()
    };
    let (idle_places, busy_places) = (places(idle_peers), places(busy_peers));
    assert!(idle_places.iter().max() < busy_places.iter().min(), "idle ones first: {output}");
    let first = *idle.iter().min().unwrap() - begun;
    assert!(first >= Duration::from_secs(1), "all may stay until the spread begins: {first:?}");
    let (closed, reset) = (ends(&output, "drained"), ends(&output, "drain_deadline"));
    assert!(closed + reset == 6 && reset >= 1, "{output}");
    let line = tcplb.logged("drained");
    assert!(line.contains(&format!("closed={closed}")) && line.contains(&format!("reset={reset}")), "{line}");
}

#[test]
fn the_process_caps_the_drain() {
    let (mut tcplb, address, ..) = start("drain: {shutdown: {after: 1h, spread: 0s}}", &["--max-drain", "300ms"]);
    let mut clients: Vec<_> = (0..10).map(|_| connected(address)).collect();
    tcplb.signal("TERM");
    let (status, output) = tcplb.ended();
    assert_eq!((status.code(), ends(&output, "drain_deadline")), (Some(0), 10), "{output}");
    for client in &mut clients {
        assert_eq!(client.end().unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    let line = tcplb.logged("drained");
    assert!(line.contains("reset=10"), "{line}");
}

#[test]
fn connections_without_a_policy_stay_until_the_drain_deadline() {
    let (mut tcplb, address, ..) = start("drain: {shutdown: {policy: Keep}}", &["--max-drain", "1500ms"]);
    let _open: Vec<_> = (0..4).map(|_| connected(address)).collect();
    let begun = Instant::now();
    tcplb.signal("TERM");
    let (_, output) = tcplb.ended();
    assert!(begun.elapsed() >= Duration::from_millis(1500));
    assert_eq!((ends(&output, "drained"), ends(&output, "drain_deadline")), (0, 4), "{output}");
}

#[test]
fn all_workers_together_close_no_more_in_a_second_than_they_may() {
    let drain = "drain: {shutdown: {after: 2s, spread: 2s, maxPerSecond: 4}}";
    let (mut tcplb, address, ..) = start(drain, &["--workers", "2"]);
    let _open: Vec<_> = (0..40).map(|_| connected(address)).collect();
    tcplb.signal("TERM");
    let (_, output) = tcplb.ended();
    let drained = ends(&output, "drained");
    assert!((4..=12).contains(&drained), "4 a second: {output}");
    assert_eq!(drained + ends(&output, "drain_deadline"), 40, "{output}");
}

#[test]
fn a_second_signal_ends_the_drain_at_once_and_everything_is_accounted_for() {
    let (mut tcplb, address, ..) = start("drain: {shutdown: {after: 1h}}", &[]);
    let mut clients: Vec<_> = (0..5).map(|_| connected(address)).collect();
    tcplb.signal("TERM");
    tcplb.logged("draining");
    tcplb.signal("INT");
    let (status, output) = tcplb.ended();
    assert_eq!(status.code(), Some(1), "not all connections were waited for");
    for client in &mut clients {
        assert_eq!(client.end().unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    assert_eq!(ends(&output, "drain_deadline"), 5, "{output}");
}

#[test]
fn a_second_signal_ends_the_delay_too() {
    let (mut tcplb, address, ..) = start("drain: {shutdown: {after: 1h}}", &["--shutdown-delay", "1h"]);
    let _open = connected(address);
    tcplb.signal("TERM");
    wait_until("/lb-ready fails", || tcplb.answers("/lb-ready", 503));
    visit(address).unwrap();
    tcplb.signal("TERM");
    let (status, output) = tcplb.ended();
    assert_eq!((status.code(), output.lines().count()), (Some(1), 2), "{output}");
}

#[test]
fn the_access_log_has_an_end_for_every_connection_made() {
    let (mut tcplb, address, ..) = start("drain: {shutdown: {after: 1h}}", &["--max-drain", "5s", "--workers", "2"]);
    let open: Vec<_> = (0..30).map(|_| connected(address)).collect();
    for _ in 0..20 {
        visit(address).unwrap();
    }
    for _ in 0..10 {
        let client = connected(address);
        socket2::SockRef::from(client.0.get_ref()).set_linger(Some(Duration::ZERO)).unwrap();
    }
    tcplb.signal("TERM");
    tcplb.logged("draining");
    let mut open = open.into_iter();
    for client in open.by_ref().take(5) {
        client.finish().unwrap();
    }
    let (status, output) = tcplb.ended();
    assert_eq!(status.code(), Some(0));
    assert_eq!(output.lines().count(), 60, "{output}");
    assert_eq!((ends(&output, "complete"), ends(&output, "client_reset")), (25, 10), "{output}");
    assert_eq!(ends(&output, "drained") + ends(&output, "drain_deadline"), 25, "{output}");
}
