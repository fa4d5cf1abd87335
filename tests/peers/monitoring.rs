//! The alerts and dashboards of the chart in a real Prometheus, which scrapes real processes with traffic and faults.

use std::{
    collections::BTreeSet,
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use imbl::OrdMap;
use jiff::{Timestamp, tz::TimeZone};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use rcgen::date_time_ymd;
use tcplb::{
    admin::{AdminAccess, AllowedHosts, Instance, Server},
    api::TcpLoadBalancerStatus,
    instruments::{
        Instruments, LeaderInstruments, LeaderView, LookupResult, PortCounts, RunningWatch, WatchFailure, WriteResult,
        WriteTarget,
    },
    metrics::EndpointSeries,
    model::ObjectKey,
    proxy::{
        Options, Proxy,
        access_log::{AccessLog, Events, Format, LineEncoder, ProcessIdentity},
        socket::Sharing,
    },
    state::ReadinessState,
    tcp,
};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::{
    authority::Authority,
    harness::{self, Client, EchoServer, Folder, Tcplb, free_address, manifest, visit, wait_until, wait_within},
    needs,
    prometheus_server::Prometheus,
    queries::{alerts, panels, rules},
};

/// A controller in this process, with faults that need a cluster.
struct FaultyLeader {
    admin: SocketAddr,
    instruments: Arc<Instruments>,
    _parts: (Runtime, Proxy, LeaderInstruments, RunningWatch),
}

impl FaultyLeader {
    fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let encoder = LineEncoder { format: Format::Text, process: ProcessIdentity::new("faulty") };
        let (access_log, _) = AccessLog::start(Events::None, encoder, std::io::sink());
        let options = Options {
            workers: 1,
            descriptors: 100,
            spare_from: i32::MAX,
            preconnected: 0,
            pipes: 0,
            probes: 1,
            cancels: 1,
            sharing: Sharing::Exclusive,
            inherited: Default::default(),
            access_log,
        };
        let proxy = Proxy::start(options, runtime.handle()).unwrap();
        let instruments = Arc::<Instruments>::default();
        instruments.stand_for_election("without-leader");
        instruments.count_lookup(LookupResult::Found, Duration::from_millis(1));
        let watch = instruments.watches.start("Secret");
        watch.failed(WatchFailure::Refused);
        let leader = instruments.lead("tcplb");
        leader.set_view(LeaderView {
            own: "a".into(),
            statuses: OrdMap::unit(ObjectKey::new("shop", "not-ready"), not_ready().into()),
            ports: Some(PortCounts { allocated: 95, cooldown: 4, free: 1 }),
            replicas: [("a".into(), Some(Arc::default())), ("b".into(), None)].into(),
            unready: ["c".into()].into(),
        });
        let admin = free_address();
        let server = Server {
            monitor: proxy.monitor(),
            state: Arc::new(ReadinessState::new(instruments.clone())),
            instance: Instance { name: "test".into(), node: None, started: Timestamp::now() },
            hosts: AllowedHosts::new(&[]),
            access: AdminAccess::Everyone,
            connections: 10,
            endpoint_series: EndpointSeries::All,
        };
        let listener = TcpListener::bind(admin).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = {
            let _inside = runtime.enter();
            tcp::listening(listener).unwrap()
        };
        runtime.spawn(server.serve(listener, CancellationToken::new()));
        Self { admin, instruments, _parts: (runtime, proxy, leader, watch) }
    }
}

fn not_ready() -> TcpLoadBalancerStatus {
    let ready = Condition {
        type_: "Ready".into(),
        status: "False".into(),
        reason: "RefNotFound".into(),
        message: "Service shop/db does not exist".into(),
        last_transition_time: Time(Timestamp::now()),
        observed_generation: Some(1),
    };
    TcpLoadBalancerStatus { conditions: vec![ready], ..TcpLoadBalancerStatus::default() }
}

/// A process with a TLS listener, whose file descriptors are nearly used up.
fn with_few_descriptors(folder: &Folder, tls: SocketAddr, server: &EchoServer) -> (Tcplb, Vec<Client>) {
    let port = free_address();
    let authority = Authority::new();
    let day = (Timestamp::now() + Duration::from_hours(72)).to_zoned(TimeZone::UTC).date();
    let expiry = date_time_ymd(day.year().into(), day.month() as u8, day.day() as u8);
    let soon = authority.issue_with("localhost", |params| params.not_after = expiry);
    folder.write("expiring.crt", &soon.certificate);
    folder.write("expiring.key", &soon.key);
    let listeners = format!(
        "tls: {{certificateRefs: [{{files: {{certificate: expiring.crt, key: expiring.key}}}}]}}}}, {{name: plain, port: {}, address: 127.0.0.1",
        port.port()
    );
    let text = manifest("crowded, namespace: shop", tls.port(), &[server.address], "");
    let file = folder.write(
        "crowded.yaml",
        &text.replace("address: 127.0.0.1}", &format!("name: tls, address: 127.0.0.1, {listeners}}}")),
    );
    let admin = free_address();
    let mut command = Command::new("sh");
    let program = harness::program();
    command.args(["-c", "ulimit -n 300; exec \"$@\"", "sh"]).arg(program.get_program());
    command.args(["standalone", "--workers", "1", "--admin", &admin.to_string(), &file]);
    let tcplb = Tcplb::spawn(command, admin).ready();
    let limit = tcplb.metric("tcplb_process_connections_limit", &[]);
    let clients = (0..(limit * 0.72).ceil() as usize).map(|_| Client::connect(port)).collect();
    (tcplb, clients)
}

/// The connections of a drain that closes one in a second: some are open at the end of the test.
const DRAINING: usize = 240;
/// The time in which all alerts fire. A busy machine misses scrapes, which have a time limit of half a second.
const ALERTS_LIMIT: Duration = Duration::from_secs(120);
/// A drain is overdue a minute after its deadline.
const OVERDUE_LIMIT: Duration = Duration::from_secs(90);

/// A process with one load balancer for each fault, and one without.
struct Faulty {
    tcplb: Tcplb,
    traffic: Traffic,
    _open: (Client, Vec<Client>, TcpListener),
}

/// Load balancers that get connections.
#[derive(Clone, Copy)]
struct Traffic {
    healthy: SocketAddr,
    sealed: SocketAddr,
    full: SocketAddr,
    broken: SocketAddr,
}

impl Traffic {
    /// Connects to each of them. Half of the connections fail.
    fn visit_all(self) {
        let _ = (visit(self.healthy), visit(self.sealed), visit(self.broken));
        drop(TcpStream::connect(self.full));
    }
}

impl Faulty {
    fn start(folder: &Folder, server: &EchoServer, tls: SocketAddr) -> Self {
        harness::raise_descriptor_limit();
        let [healthy, sealed, full, broken, half, none, draining, taken, named] = [(); 9].map(|()| free_address());
        let (closed, checks) = (free_address(), "healthCheck: {active: {type: TCP, interval: 1s}}");
        let client = Authority::new().issue("proxy.example.com");
        folder.write("client.crt", &client.certificate);
        folder.write("client.key", &client.key);
        let sealed_tls =
            "{insecureSkipVerify: true, certificateRef: {files: {certificate: client.crt, key: client.key}}}";
        let write = |name: &str, at: SocketAddr, backends: &[SocketAddr], more: &str| {
            let text = manifest(&format!("{name}, namespace: shop"), at.port(), backends, more);
            let text = match name {
                "full" => text.replace("address: 127.0.0.1}", "address: 127.0.0.1, limits: {maxConnections: 1}}"),
                "sealed" => text.replace("backends: [{", &format!("backends: [{{tls: {sealed_tls}, ")),
                // The backend that is preferred cannot be reached: the other one is active.
                "half" => text.replace("\", \"", "\"], name: spare, priority: 1}, {name: main, addresses: [\""),
                "named" => text.replace("addresses: [\"127.0.0.1", "addresses: [\"localhost"),
                _ => text,
            };
            folder.write(&format!("{name}.yaml"), &text)
        };
        write("healthy", healthy, &[server.address], checks);
        write("sealed", sealed, &[tls], "");
        write("full", full, &[server.address], "");
        // Failed checks would leave no usable endpoint.
        write("broken", broken, &[closed], "healthCheck: {active: {type: None}}");
        write("half", half, &[server.address, closed], checks);
        write("none", none, &[closed], checks);
        write("taken", taken, &[server.address], "");
        write("named", named, &[server.address], "");
        let drain = "drain: {listenerRemoved: {after: 0s, maxPerSecond: 1}}";
        let removed = write("draining", draining, &[server.address], drain);
        let occupied = TcpListener::bind(taken).unwrap();
        let tcplb = Tcplb::standalone(&[folder.path()]).ready();
        let connected = |address| {
            let mut client = Client::connect(address);
            client.echo("open").unwrap();
            client
        };
        let (in_full, in_draining) = (connected(full), (0..DRAINING).map(|_| connected(draining)).collect());
        fs::remove_file(removed).unwrap();
        wait_within(OVERDUE_LIMIT, "the drain is overdue", || {
            tcplb.metric("tcplb_connections_draining_overdue", &[]) > 0.0
        });
        let traffic = Traffic { healthy, sealed, full, broken };
        Self { tcplb, traffic, _open: (in_full, in_draining, occupied) }
    }
}

/// The rules with durations of seconds instead of minutes and hours.
fn impatient_rules() -> String {
    let mut rules = rules();
    for (range, short) in [("[5m]", "[10s]"), ("[10m]", "[10s]"), ("[1h]", "[30s]"), ("> 300", "> 1")] {
        assert!(rules.contains(range), "{range}");
        rules = rules.replace(range, short);
    }
    let lines = rules.lines().map(|line| if line.trim_start().starts_with("for: ") { "    for: 1s" } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

/// A configuration that scrapes these addresses as containers `tcplb`.
fn configuration(targets: &[SocketAddr], rules: &str) -> String {
    let targets: Vec<String> = targets.iter().map(|target| format!("'{target}'")).collect();
    format!(
        "global: {{scrape_interval: 500ms, evaluation_interval: 500ms}}\nrule_files: ['{rules}']\nscrape_configs:\n\
         - job_name: tcplb\n  static_configs: [{{targets: [{}], labels: {{container: tcplb, namespace: tcplb-system, \
         pod: tcplb-0}}}}]\n",
        targets.join(", ")
    )
}

/// The firing alerts, each with its load balancer.
fn firing(prometheus: &Prometheus) -> BTreeSet<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let alerts = prometheus.query("ALERTS{alertstate=\"firing\"}");
    alerts.iter().map(|(labels, _)| (text(&labels["alertname"]), text(&labels["load_balancer"]))).collect()
}

const EXPECTED: [(&str, &str); 17] = [
    ("TcplbApiWritesFailing", ""),
    ("TcplbCertificateExpiresSoon", "crowded"),
    ("TcplbConfigurationMismatch", ""),
    ("TcplbConnectFailures", "broken"),
    ("TcplbConnectionsRefused", "full"),
    ("TcplbDescriptorsNearLimit", ""),
    ("TcplbDrainStuck", "draining"),
    ("TcplbEndpointsUnhealthyShare", "half"),
    ("TcplbListenerNotBound", ""),
    ("TcplbLoadBalancerNotReady", "not-ready"),
    ("TcplbNoLeader", ""),
    ("TcplbNoUsableEndpoints", "none"),
    ("TcplbPortRangeNearlyExhausted", ""),
    ("TcplbReplicasDown", ""),
    ("TcplbReplicasNotReady", ""),
    ("TcplbReplicasSilent", ""),
    ("TcplbWatchFailing", ""),
];

#[test]
fn alerts_fire_for_their_load_balancers_and_every_panel_has_data() {
    needs!("prometheus");
    let (server, folder, crowded, manifests) = (EchoServer::start(None), Folder::new(), Folder::new(), Folder::new());
    let (tls, leader) = (free_address(), FaultyLeader::start());
    let (second, _clients) = with_few_descriptors(&crowded, tls, &server);
    let faulty = Faulty::start(&manifests, &server, tls);
    let rules = folder.write("alerts.yaml", &impatient_rules());
    let targets = [faulty.tcplb.admin, second.admin, leader.admin, free_address()];
    let prometheus = Prometheus::start(&configuration(&targets, &rules), &folder);
    let expected: BTreeSet<_> = EXPECTED.map(|(alert, of)| (alert.to_owned(), of.to_owned())).into();
    let over = AtomicBool::new(false);
    let (traffic, instruments) = (faulty.traffic, leader.instruments.clone());
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                traffic.visit_all();
                // These rates cause alerts.
                instruments.count_write(WriteTarget::Status, WriteResult::Failed);
                instruments.mismatches.inc();
                thread::sleep(Duration::from_millis(20));
            }
        });
        let mut now = BTreeSet::new();
        let fired = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_within(ALERTS_LIMIT, "the alerts fire", || {
                now = firing(&prometheus);
                now == expected
            });
        }));
        let (mut empty, mut missing) = (Vec::new(), BTreeSet::new());
        let has_data = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until("every panel has data", || {
                (empty, missing) = (empty_panels(&prometheus), missing_metrics(&prometheus));
                empty.is_empty() && missing.is_empty()
            });
        }));
        over.store(true, Relaxed);
        assert!(fired.is_ok(), "missing: {:?}; too many: {:?}", expected.difference(&now), now.difference(&expected));
        assert!(has_data.is_ok(), "panels without data: {empty:?}, metrics without series: {missing:?}");
    });
    let mut names: BTreeSet<String> = alerts().into_iter().map(|alert| alert.name).collect();
    // It is about a Prometheus without any process, and has a case in `alerts`.
    names.remove("TcplbAbsent");
    assert_eq!(names, expected.into_iter().map(|(alert, _)| alert).collect(), "each alert has its fault");
}

/// The queries of dashboards without a result, with all values of each variable selected.
fn empty_panels(prometheus: &Prometheus) -> Vec<String> {
    let mut empty = Vec::new();
    for panel in panels() {
        let mut query = panel.query.replace("$__rate_interval", "10s");
        for variable in ["$namespace", "$load_balancer", "$pod"] {
            query = query.replace(variable, ".*");
        }
        if prometheus.query(&query).is_empty() {
            empty.push(format!("{}: {query}", panel.name));
        }
    }
    empty
}

/// The metrics of dashboards without a series. Panels whose queries have alternatives (`or`) can have data without them.
fn missing_metrics(prometheus: &Prometheus) -> BTreeSet<String> {
    let mut metrics = BTreeSet::new();
    for panel in panels() {
        let words = panel.query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        metrics.extend(words.filter(|word| word.starts_with("tcplb_")).map(str::to_owned));
    }
    metrics.retain(|metric| prometheus.query(metric).is_empty());
    metrics
}
