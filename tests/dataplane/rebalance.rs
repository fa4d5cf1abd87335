//! Rebalancing of long-lived connections when endpoints join.

use std::{
    io::Read,
    net::{SocketAddr, TcpStream},
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use tcplb::{
    model::{Algorithm, Rebalance, UpstreamConfig},
    proxy::accounting::CloseReason,
};

use crate::rig::*;

const SHARE_OF_TEN_PERCENT_MORE: Rebalance = Rebalance {
    max_imbalance_percent: 10,
    max_closes_per_minute: NonZeroU32::new(60_000).unwrap(),
    min_age: Duration::ZERO,
    idle_only: false,
};

fn joined_by(address: SocketAddr) -> impl FnOnce(&mut UpstreamConfig) {
    move |upstream| {
        upstream.endpoints.push(endpoint(address));
        upstream.endpoints.sort_by(|one, other| one.key.cmp(&other.key));
    }
}

fn rig(backends: &[SocketAddr], rebalance: Rebalance, algorithm: Algorithm) -> Rig {
    Rig::with(backends, |_, upstream| {
        upstream.rebalance = Some(rebalance);
        upstream.balancing.algorithm = algorithm;
    })
}

/// Clients that reconnect whenever their connection is closed, until this is dropped.
struct Clients {
    leave: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Clients {
    fn start(address: SocketAddr, count: usize) -> Self {
        let leave = Arc::new(AtomicBool::new(false));
        let client = |leave: Arc<AtomicBool>| {
            move || {
                while !leave.load(Relaxed) {
                    let mut stream = connect(address);
                    is_echoed(&stream);
                    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                    while !leave.load(Relaxed)
                        && stream.read(&mut [0]).is_err_and(|error| error.kind() != std::io::ErrorKind::ConnectionReset)
                    {
                    }
                }
            }
        };
        let threads = (0..count).map(|_| thread::spawn(client(leave.clone()))).collect();
        Self { leave, threads }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.leave.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[test]
fn a_joining_endpoint_gets_its_share_of_the_open_connections() {
    for algorithm in [Algorithm::LeastConnections, Algorithm::RoundRobin] {
        let backends: [SocketAddr; 3] = std::array::from_fn(|_| Backend::echo());
        let mut rig = rig(&backends, SHARE_OF_TEN_PERCENT_MORE, algorithm);
        let clients = Clients::start(rig.address(), 120);
        let open = |rig: &Rig, address| rig.endpoint(address).active();
        wait_until("all are there", || backends.map(|backend| open(&rig, backend)) == [40; 3]);
        let fourth = Backend::echo();
        rig.change_upstream(joined_by(fourth));
        // A tenth above 30; with random placement the square root counts.
        let most = if algorithm == Algorithm::LeastConnections { 33 } else { 35 };
        wait_until("nobody has too many", || {
            let open: u32 = backends.iter().map(|backend| open(&rig, *backend)).sum::<u32>() + open(&rig, fourth);
            open == 120 && backends.iter().all(|backend| rig.endpoint(*backend).active() <= most)
        });
        let closed = rig.closed(CloseReason::Rebalanced);
        let least = 3 * (40 - u64::from(most));
        // In turn, three of four connections return to the old endpoints.
        assert!((least..=least * 8).contains(&closed), "{algorithm:?}: {closed}");
        drop(clients);
        wait_until("all have ended", || rig.active() == 0);
        assert_eq!(rig.reasons().keys().copied().collect::<Vec<_>>(), ["complete", "rebalanced"]);
    }
}

#[test]
fn busy_connections_stay_where_only_idle_ones_are_closed() {
    let one = Backend::echo();
    let rebalance = Rebalance { idle_only: true, ..SHARE_OF_TEN_PERCENT_MORE };
    let mut rig = rig(&[one], rebalance, Algorithm::LeastConnections);
    let connected = || -> Vec<TcpStream> { (0..10).map(|_| rig.connect()).collect() };
    let (idle, busy) = (connected(), connected());
    let begun = Instant::now();
    idle.iter().chain(&busy).for_each(is_echoed);
    rig.change_upstream(joined_by(Backend::echo()));
    // 11 is a tenth above the share.
    wait_until("as many are closed as are too many", || {
        busy.iter().for_each(is_echoed);
        rig.closed(CloseReason::Rebalanced) == 9
    });
    assert!(begun.elapsed() > Duration::from_secs(4), "they were silent for some time");
    busy.iter().for_each(is_echoed);
}

#[test]
fn young_connections_stay() {
    let rebalance = Rebalance { min_age: WAIT_LIMIT, ..SHARE_OF_TEN_PERCENT_MORE };
    let old = Backend::echo();
    let mut rig = rig(&[old], rebalance, Algorithm::LeastConnections);
    let clients: Vec<TcpStream> = (0..10).map(|_| rig.connect()).collect();
    clients.iter().for_each(is_echoed);
    rig.change_upstream(joined_by(Backend::echo()));
    let begun = Instant::now();
    wait_until("it has been looked at", || {
        clients.iter().for_each(is_echoed);
        begun.elapsed() > Duration::from_secs(4)
    });
    assert_eq!(rig.endpoint(old).active(), 10);
}

#[test]
fn pending_connections_to_a_silent_endpoint_close_no_open_ones() {
    let (listening, address) = dead_address();
    // The kernel answers this many connections and drops the others, since none is accepted.
    const ANSWERED: usize = 10;
    listening.listen(ANSWERED as i32 - 1).unwrap();
    let mut rig = rig(&[address], SHARE_OF_TEN_PERCENT_MORE, Algorithm::RoundRobin);
    let _old: Vec<TcpStream> = (0..ANSWERED).map(|_| rig.connect()).collect();
    wait_until("it has them", || rig.endpoint(address).connections() == ANSWERED as u64);
    // They wait for longer than this test looks at them.
    rig.change_upstream(|upstream| upstream.connect.timeout = WAIT_LIMIT / 2);
    rig.change_upstream(joined_by(Backend::echo()));
    let _new: Vec<TcpStream> = (0..40).map(|_| rig.connect()).collect();
    wait_until("half of these wait", || rig.endpoint(address).active() == ANSWERED as u32 + 20);
    let begun = Instant::now();
    wait_until("it has been looked at", || begun.elapsed() > Duration::from_secs(4));
    assert_eq!(rig.endpoint(address).active(), ANSWERED as u32 + 20, "it seems to have too many");
    assert_eq!(rig.closed(CloseReason::Rebalanced), 0);
    // Connections that are established would never end.
    drop(listening);
}
