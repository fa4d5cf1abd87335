//! Many concurrent connections through the built program: only the clients of a killed backend notice its death, and
//! all counts agree.

#![expect(clippy::unwrap_used, reason = "tests panic on unexpected values")]

#[path = "../harness/mod.rs"]
mod harness;
mod swarm;

use std::{
    collections::BTreeMap,
    io::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    process::{Child, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use harness::{Folder, Tcplb, free_address, manifest, wait_until};
use jiff::Timestamp;
use serde::Deserialize;
use swarm::{Outcome, Progress, Swarm};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::{Builder, Runtime},
    task::JoinSet,
};

/// Prints a figure despite captured output.
macro_rules! figure {
    ($($text:tt)*) => { { let _ = writeln!(std::io::stderr(), "    {}", format_args!($($text)*)); } };
}

#[test]
fn a_restarted_backend_affects_only_its_own_connections() {
    const TOTAL: u32 = 100_000;
    const CONCURRENCY: usize = 200;
    let _alone = alone();
    let names = ["blue", "green", "red"];
    let [blue, green, red] = names.map(|_| free_address());
    let _others = [TestBackend::start("blue", blue), TestBackend::start("green", green)];
    let mut dying = TestBackend::start("red", red);
    // A recovered backend is detected quickly, so that the second half of the clients reaches it.
    let health = "healthCheck: {active: {interval: 500ms}, passive: {ejectFor: 1s}}\n";
    let mut tcplb = balancer(&[blue, green, red], health);
    let server = tcplb.server;

    let begun = Instant::now();
    let progress = Arc::new(Progress::default());
    let swarm = Swarm { server, total: TOTAL, concurrency: CONCURRENCY, progress: progress.clone() };
    let (outcomes, reborn_at, _reborn) = runtime().block_on(async {
        let swarm = tokio::spawn(swarm.run());
        progress.reaches(TOTAL * 2 / 5).await;
        dying.kill();
        progress.reaches(TOTAL * 3 / 5).await;
        // Connections to its address before this time are connections to the killed backend.
        let reborn_at = SystemTime::now();
        let reborn = TestBackend::start("red again", red);
        (swarm.await.unwrap(), reborn_at, reborn)
    });
    let took = begun.elapsed();

    let books = tcplb.books(TOTAL.into());
    let log = tcplb.end();
    let tally =
        Tally::of(&outcomes, &log, |line, outcome| line.was_established(red, reborn_at) && outcome.may_be_with("red"));
    let Tally { excused, unexcused, retried, unlogged, by_name, .. } = &tally;
    figure!(
        "{TOTAL} connections, {CONCURRENCY} at a time, in {took:.1?} ({:.0}/s): {excused} broke with their backend, {} \
         others, {retried} were tried elsewhere first; served by {by_name:?}",
        f64::from(TOTAL) / took.as_secs_f64(),
        unexcused.len(),
    );
    books.tell();
    assert!(unexcused.is_empty(), "{} clients noticed, among them {:#?}", unexcused.len(), &unexcused[..1]);
    assert!(*excused <= CONCURRENCY, "not more than were open");
    assert!(*retried > 0, "some were sent to the dead backend first");
    assert!(by_name["red"] > 0 && by_name["red again"] > 0, "it served before and after");
    books.assert_balanced(TOTAL.into());
    assert_eq!((log.len() as u64, *unlogged), (books.logged, books.dropped), "what counts as logged is logged");
    assert_eq!((books.to_backend, books.to_client), (tally.to_backend, tally.to_client), "bytes, as the clients count");
}

/// The outcomes of all clients, compared with the access log.
#[derive(Default)]
struct Tally<'a> {
    /// Failures that the death of a backend explains.
    excused: usize,
    unexcused: Vec<String>,
    /// Connections that were established with a later attempt.
    retried: u32,
    unlogged: u64,
    to_backend: u64,
    to_client: u64,
    by_name: BTreeMap<&'a str, u32>,
}

impl<'a> Tally<'a> {
    fn of(
        outcomes: &'a [Outcome],
        log: &BTreeMap<Ipv4Addr, Line>,
        is_excused: impl Fn(&Line, &Outcome) -> bool,
    ) -> Self {
        let mut tally = Self::default();
        for outcome in outcomes {
            *tally.by_name.entry(outcome.backend.as_deref().unwrap_or("nobody")).or_default() += 1;
            let line = log.get(&outcome.source);
            let (mut sent, mut received) = (outcome.sent, outcome.received);
            match (&outcome.failure, line) {
                (None, None) => tally.unlogged += 1,
                (None, Some(line)) if line.agrees_with(outcome) => tally.retried += u32::from(line.attempts > 1),
                // Some of its bytes were lost with the backend, or on the way back. The proxy counted all that it moved.
                (Some(_), Some(line)) if is_excused(line, outcome) => {
                    tally.excused += 1;
                    (sent, received) = (line.bytes_to_backend, line.bytes_to_client);
                }
                _ => tally.unexcused.push(format!("{outcome:?}, logged as {line:?}")),
            }
            tally.to_backend += sent;
            tally.to_client += received;
        }
        tally
    }
}

impl Outcome {
    /// A client without the name of its backend may have been connected to any backend.
    fn may_be_with(&self, backend: &str) -> bool {
        self.backend.as_deref().is_none_or(|name| name == backend)
    }
}

#[test]
fn round_robin_gives_every_backend_its_exact_share() {
    const TOTAL: u32 = 30_000;
    const CONCURRENCY: usize = 200;
    let _alone = alone();
    let backends = ["blue", "green", "red"].map(|name| (name, free_address()));
    let _running = backends.map(|(name, address)| TestBackend::start(name, address));
    let mut tcplb = balancer(&backends.map(|(_, address)| address), "");

    let swarm = Swarm { server: tcplb.server, total: TOTAL, concurrency: CONCURRENCY, progress: Arc::default() };
    let outcomes = runtime().block_on(swarm.run());
    let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome.failure.is_some()).collect();
    assert!(failed.is_empty(), "{} failed, among them {:?}", failed.len(), failed[0]);
    let books = tcplb.books(TOTAL.into());
    let heard = backends.map(|(name, address)| {
        let heard = outcomes.iter().filter(|outcome| outcome.backend.as_deref() == Some(name)).count();
        let counted =
            tcplb.process.metric("tcplb_endpoint_connections_total", &[&format!("endpoint_address=\"{address}\"")]);
        assert_eq!(counted as usize, heard, "connections of {name}, as the metrics and as the clients count");
        heard
    });
    figure!("{TOTAL} connections, {CONCURRENCY} at a time, over three backends: {heard:?}");
    books.tell();
    books.assert_balanced(TOTAL.into());
    let sum = |count: fn(&Outcome) -> u64| outcomes.iter().map(count).sum::<u64>();
    assert_eq!((books.to_backend, books.to_client), (sum(|client| client.sent), sum(|client| client.received)));
    assert_eq!(tcplb.end().len() as u64, books.logged);
    assert_eq!(heard, [TOTAL as usize / 3; 3]);
}

#[test]
fn five_thousand_connections_opened_at_once_are_served_held_and_closed() {
    const TOTAL: u32 = 5_000;
    /// A generous limit: it detects a buffer that an idle connection keeps.
    const MOST_EACH: u64 = 12 * 1024;
    let _alone = alone();
    // Two for each connection in the load balancer, and some for everything else.
    if harness::raise_descriptor_limit() < 3 * u64::from(TOTAL) {
        return harness::skip("the hard limit of open files (`ulimit -Hn`) is below 15000");
    }
    let backends = ["blue", "green", "red"].map(|name| (name, free_address()));
    let _running = backends.map(|(name, address)| TestBackend::start(name, address));
    let mut tcplb = balancer(&backends.map(|(_, address)| address), "");
    let server = tcplb.server;

    let before = tcplb.resident_kib();
    runtime().block_on(async {
        let begun = Instant::now();
        let open = open_all(server, TOTAL).await;
        let opened = begun.elapsed();
        assert_eq!(tcplb.process.metric("tcplb_connections_active", &[]), f64::from(TOTAL));
        let idle = tcplb.resident_kib();

        let open = echo_on_all(open).await;
        let after_echo = tcplb.resident_kib();

        let mut closing = JoinSet::new();
        for mut stream in open {
            closing.spawn(async move {
                stream.shutdown().await.expect("its direction ended");
                assert_eq!(stream.read(&mut [0]).await.expect("a clean end"), 0);
            });
        }
        closing.join_all().await;
        let each = |now: u64| now.saturating_sub(before) * 1024 / u64::from(TOTAL);
        figure!(
            "{TOTAL} connections opened at once in {opened:.1?}; resident memory of the load balancer: {before} KiB before, \
             {} bytes for each while idle, {} after an echo",
            each(idle),
            each(after_echo),
        );
        assert!(each(after_echo) < MOST_EACH, "idle connections keep no buffer");
    });
    let books = tcplb.books(TOTAL.into());
    books.assert_balanced(TOTAL.into());
    assert!(tcplb.end().values().all(|line| line.reason == "complete"));
}

async fn open_all(server: SocketAddr, total: u32) -> Vec<tokio::net::TcpStream> {
    let mut connecting = JoinSet::new();
    for index in 0..total {
        connecting.spawn(async move {
            let mut stream = swarm::connect(server, index).await.expect("connected");
            swarm::greeting(&mut stream).await.expect("greeted");
            stream
        });
    }
    connecting.join_all().await
}

async fn echo_on_all(open: Vec<tokio::net::TcpStream>) -> Vec<tokio::net::TcpStream> {
    let mut echoing = JoinSet::new();
    for mut stream in open {
        echoing.spawn(async move {
            let mut outcome = Outcome::of(0);
            swarm::echo(&mut stream, &[7; 1000], &mut outcome).await.expect("echoed");
            stream
        });
    }
    echoing.join_all().await
}

/// One load at a time: concurrent ones would slow each other down.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A test backend in its own process.
struct TestBackend(Child);

impl TestBackend {
    fn start(name: &str, address: SocketAddr) -> Self {
        let address_text = address.to_string();
        let mut command = harness::program();
        command.args(["backend", "--name", name, "--listen", &address_text]).env("RUST_LOG", "warn");
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let backend = Self(process);
        wait_until("a backend listens", || TcpStream::connect(address).is_ok());
        backend
    }

    /// Kills the backend, and returns when all its sockets are closed.
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for TestBackend {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A load balancer with a JSON log.
struct Balancer {
    process: Tcplb,
    server: SocketAddr,
    _folder: Folder,
}

fn balancer(backends: &[SocketAddr], more: &str) -> Balancer {
    let server = free_address();
    let folder = Folder::new();
    let path = folder.write("load.yaml", &manifest("load", server.port(), backends, more));
    let process = Tcplb::standalone(&[&path, "--log-format", "json"]).ready();
    Balancer { process, server, _folder: folder }
}

impl Balancer {
    /// The counts once all connections have ended.
    fn books(&self, connections: u64) -> Books {
        let mut books = Books::default();
        wait_until("all connections have ended", || {
            books = Books::of(&self.process);
            books.active == 0 && books.closed() == connections && books.logged + books.dropped == connections
        });
        books
    }

    /// Stops it. Returns the end lines of all logged connections, by client.
    fn end(&mut self) -> BTreeMap<Ipv4Addr, Line> {
        self.process.signal("TERM");
        let (status, output) = self.process.ended();
        assert!(status.success(), "{status}");
        let lines = output.lines().map(|line| serde_json::from_str::<Line>(line).expect(line));
        let mut ends = BTreeMap::new();
        for line in lines.filter(|line| line.event == "end") {
            let IpAddr::V4(client) = line.client.ip() else { panic!("{line:?}") };
            assert!(ends.insert(client, line).is_none(), "{client} ends once");
        }
        ends
    }

    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

/// The counts of the load balancer.
#[derive(Debug, Default)]
struct Books {
    accepted: u64,
    active: u64,
    closed_by_reason: BTreeMap<String, u64>,
    logged: u64,
    dropped: u64,
    to_backend: u64,
    to_client: u64,
}

impl Books {
    fn of(process: &Tcplb) -> Self {
        let text = process.metrics();
        let count = |name: &str, labels: &[&str]| harness::metric(&text, name, labels) as u64;
        let reasons = text.lines().filter(|line| line.starts_with("tcplb_connections_closed_total{"));
        let reasons = reasons.filter_map(|line| Some(line.split_once("reason=\"")?.1.split_once('"')?.0.to_owned()));
        Self {
            accepted: count("tcplb_connections_accepted_total", &[]),
            active: count("tcplb_connections_active", &[]),
            closed_by_reason: reasons
                .map(|reason| {
                    let closed = count("tcplb_connections_closed_total", &[&format!("reason=\"{reason}\"")]);
                    (reason, closed)
                })
                .collect(),
            logged: count("tcplb_access_log_events_total", &["result=\"logged\""]),
            dropped: count("tcplb_access_log_events_total", &["result=\"dropped\""]),
            to_backend: count("tcplb_relayed_bytes_total", &["direction=\"to_backend\""]),
            to_client: count("tcplb_relayed_bytes_total", &["direction=\"to_client\""]),
        }
    }

    fn closed(&self) -> u64 {
        self.closed_by_reason.values().sum()
    }

    fn assert_balanced(&self, connections: u64) {
        assert_eq!(self.accepted, connections, "accepted is what the clients counted");
        assert_eq!(self.accepted, self.active + self.closed(), "accepted = active + closed");
        assert_eq!(self.logged + self.dropped, self.closed(), "logged + dropped = closed");
    }

    fn tell(&self) {
        figure!(
            "accepted {} = active {} + closed {} {:?}; logged {} + dropped {}; bytes {} to backends, {} to clients",
            self.accepted,
            self.active,
            self.closed(),
            self.closed_by_reason,
            self.logged,
            self.dropped,
            self.to_backend,
            self.to_client,
        );
    }
}

/// A line of the access log.
#[derive(Debug, Deserialize)]
struct Line {
    time: Timestamp,
    event: String,
    client: SocketAddr,
    endpoint: Option<SocketAddr>,
    attempts: u16,
    bytes_to_backend: u64,
    bytes_to_client: u64,
    connect_seconds: Option<f64>,
    duration_seconds: f64,
    reason: String,
}

impl Line {
    /// True if the connection ended without a fault, with the byte counts of its client.
    fn agrees_with(&self, client: &Outcome) -> bool {
        let bytes = (self.bytes_to_backend, self.bytes_to_client);
        self.reason == "complete" && bytes == (client.sent, client.received)
    }

    /// True if the connection was established to this endpoint before this time. (If a process is killed with nothing
    /// left to read, its connections end like those of a process that has finished: the load balancer sees `complete`.)
    fn was_established(&self, endpoint: SocketAddr, before: SystemTime) -> bool {
        let Some(connect) = self.connect_seconds else { return false };
        let established = SystemTime::from(self.time) - Duration::from_secs_f64(self.duration_seconds - connect);
        let over = ["backend_reset", "complete"].contains(&self.reason.as_str());
        self.endpoint == Some(endpoint) && over && established < before
    }
}
