use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    time::Duration,
};

use prometheus_client::metrics::MetricType;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use tokio::runtime::Handle;

use super::{
    encoder::Labels,
    family::{FAMILIES, Family},
    *,
};
use crate::{
    api::{TcpLoadBalancerStatus, condition},
    instruments::{
        Instruments, LeaderInstruments, LeaderView, LookupResult, PortCounts, RunningWatch, WatchFailure, WriteResult,
        WriteTarget,
    },
    model::{ObjectKey, Snapshot},
    proxy::{
        Options, Proxy,
        access_log::{AccessLog, Events, Format, LineEncoder, ProcessIdentity},
        socket::Sharing,
    },
    translate::translate,
    world::{Declared, World},
};

#[test]
fn the_documented_table_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (head, _) = text.split_once("| metric |").expect("docs/metrics.md has the table");
    let current = format!("{head}{}", table());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, current).unwrap();
    } else {
        assert_eq!(text, current, "docs/metrics.md is not current: run `make generate`");
    }
}

#[test]
fn no_label_is_one_that_prometheus_or_its_operator_sets() {
    const TARGET: [&str; 9] =
        ["endpoint", "namespace", "pod", "service", "job", "instance", "container", "node", "prometheus"];
    const RESERVED: [&str; 2] = ["le", "quantile"];
    for family in FAMILIES {
        let labels: BTreeSet<&str> = family.labels.iter().copied().collect();
        assert_eq!(labels.len(), family.labels.len(), "{}: each once", family.name);
        for taken in TARGET.iter().chain(&RESERVED) {
            assert!(!labels.contains(taken), "{} has the label {taken}", family.name);
        }
        assert!(labels.iter().all(|label| !label.starts_with("__") && !label.starts_with("exported_")));
        assert!(family.labels.contains(&"load_balancer") == family.labels.contains(&"load_balancer_namespace"));
    }
}

/// The control plane of a leader, with each kind of event.
fn leader_instruments() -> (Arc<Instruments>, LeaderInstruments, RunningWatch) {
    let instruments = Arc::new(Instruments::default());
    instruments.count_lookup(LookupResult::Found, Duration::from_millis(3));
    instruments.count_write(WriteTarget::Status, WriteResult::Conflict);
    let watch = instruments.watches.start("Secret");
    watch.failed(WatchFailure::Refused);
    let leader = instruments.lead("tcplb");
    let conditions = vec![condition("Ready", "False", "Unhealthy", ""), condition("Accepted", "True", "Accepted", "")];
    let status = TcpLoadBalancerStatus { conditions, ..TcpLoadBalancerStatus::default() };
    leader.set_view(LeaderView {
        statuses: imbl::OrdMap::unit(ObjectKey::new("shop", "pg"), status.into()),
        ports: Some(PortCounts { allocated: 2, cooldown: 1, free: 4997 }),
        replicas: [("a", true), ("b", true), ("c", false)]
            .map(|(pod, reports)| (pod.into(), reports.then(Arc::default)))
            .into(),
        unready: ["d".into()].into(),
        ..LeaderView::default()
    });
    (instruments, leader, watch)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_has_the_documented_series() {
    let proxy = proxy_with(0).await;
    let (instruments, leader, watch) = leader_instruments();
    let state = Arc::new(ReadinessState::new(instruments));
    let metrics = Metrics::new(proxy.monitor(), state, EndpointSeries::All);
    let text = metrics.text(ExpositionFormat::Classic);
    for sample in [
        "tcplb_dns_lookups_total{result=\"found\"} 1",
        "tcplb_dns_lookup_duration_seconds_bucket{le=\"0.005\"} 1",
        "tcplb_watches{kind=\"Secret\",state=\"failing\"} 1",
        "tcplb_watch_failures_total{kind=\"Secret\",reason=\"refused\"} 1",
        "tcplb_api_writes_total{resource=\"tcploadbalancers/status\",result=\"conflict\"} 1",
        "tcplb_leader{lease=\"tcplb\"} 1",
        "tcplb_replicas{state=\"reporting\"} 2",
        "tcplb_replicas{state=\"silent\"} 1",
        "tcplb_replicas{state=\"unready\"} 1",
        "tcplb_proxy_ports{state=\"free\"} 4997",
        "tcplb_load_balancer_condition{load_balancer_namespace=\"shop\",load_balancer=\"pg\",type=\"Ready\",status=\"False\"} 1",
    ] {
        assert!(text.lines().any(|line| line == sample), "{sample} in {text}");
    }
    assert!(text.contains("\ntcplb_watch_outage_age_seconds{kind=\"Secret\"} "), "{text}");
    for family in FAMILIES {
        let labels: Vec<&str> = family.labels.to_vec();
        for line in text.lines().filter(|line| line.starts_with(&format!("{}{{", family.name))) {
            let (_, series) = line.split_once('{').unwrap();
            let names: Vec<&str> = series.split("\"").step_by(2).filter_map(|part| part.strip_suffix('=')).collect();
            let names: Vec<&str> = names.iter().map(|name| name.trim_start_matches(',')).collect();
            assert_eq!(names, labels, "{line}");
        }
    }
    drop(leader);
    drop(watch);
    let text = metrics.text(ExpositionFormat::Classic);
    assert!(text.contains("tcplb_leader{lease=\"tcplb\"} 0\n"), "{text}");
    for metric in ["tcplb_replicas", "tcplb_proxy_ports", "tcplb_load_balancer_condition", "tcplb_watches"] {
        assert!(!text.contains(&format!("\n{metric}{{")), "only while there is a leader or a watch: {metric}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn process_metrics_are_those_of_this_process() {
    let proxy = proxy_with(0).await;
    let text = Metrics::new(proxy.monitor(), Arc::default(), EndpointSeries::All).text(ExpositionFormat::Classic);
    let value = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{}} ")));
        line.unwrap_or_else(|| panic!("{name} in {text}")).rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    assert!(value("process_cpu_seconds_total") > 0.0);
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
    assert!(value("process_threads") > 1.0);
    assert!(value("process_open_fds") > 3.0 && value("process_open_fds") < value("process_max_fds"));
    let now = jiff::Timestamp::now().as_second() as f64;
    assert!((now - 86_400.0..=now + 1.0).contains(&value("process_start_time_seconds")));
}

#[test]
fn label_values_are_escaped() {
    let labels = Labels::new(&["certificate", "reason"], ["a\"b\\c\nd", "é"]);
    let mut registry = Registry::default();
    registry.register_collector(Box::new(OneSeries(labels)));
    let mut text = String::new();
    text::encode(&mut text, &registry).unwrap();
    assert!(text.contains("tcplb_one{certificate=\"a\\\"b\\\\c\\\\nd\",reason=\"é\",result=\"full\"} 1\n"), "{text}");
}

#[derive(Debug)]
struct OneSeries(Labels<'static>);

impl Collector for OneSeries {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        const ONE: Family = Family {
            name: "tcplb_one",
            kind: MetricType::Gauge,
            unit: None,
            labels: &["certificate", "reason", "result"],
            help: "",
        };
        Encoder(&mut encoder).gauges(&ONE, [(self.0.and("full"), 1)])
    }
}

#[test]
fn the_classic_format_names_families_like_their_samples() {
    let open_metrics = "# HELP a_bytes Bytes, of all\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\na_bytes_total{x=\"# EOF\"} 3\n\
        # HELP b Version\n# TYPE b info\nb_info{version=\"1\"} 1\n# HELP c Seconds\n# TYPE c histogram\nc_sum 0.0\n\
        # HELP d Open\n# TYPE d gauge\nd 1\n# EOF\n";
    let expected = "# HELP a_bytes_total Bytes, of all\n# TYPE a_bytes_total counter\na_bytes_total{x=\"# EOF\"} 3\n\
         # HELP b_info Version\n# TYPE b_info gauge\nb_info{version=\"1\"} 1\n# HELP c Seconds\n# TYPE c histogram\nc_sum 0.0\n\
         # HELP d Open\n# TYPE d gauge\nd 1\n";
    let separators: [&[char]; 3] = [&['\n'], &['\n', ' '], &['\n', '"', '_']];
    for ends in separators {
        let mut classic = String::new();
        let mut writer = ClassicWriter::new(&mut classic);
        open_metrics.split_inclusive(ends).for_each(|part| writer.write_str(part).unwrap());
        assert_eq!(classic, expected, "in parts that end with {ends:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_classic_page_has_the_converted_lines_of_an_open_metrics_page() {
    let proxy = proxy_with(0).await;
    let (instruments, _leader, _watch) = leader_instruments();
    let metrics = Metrics::new(proxy.monitor(), Arc::new(ReadinessState::new(instruments)), EndpointSeries::All);
    let [open_metrics, classic] =
        [ExpositionFormat::OpenMetrics, ExpositionFormat::Classic].map(|format| metrics.text(format));
    let mut converted = String::new();
    let mut writer = ClassicWriter::new(&mut converted);
    open_metrics.split_inclusive('\n').for_each(|line| writer.write_str(line).unwrap());
    // Values of the process differ between both pages.
    let without_value = |line: &str| match line.rsplit_once(' ') {
        Some((series, _)) if !line.starts_with('#') => series.to_owned(),
        _ => line.to_owned(),
    };
    let lines = |page: &str| -> Vec<String> { page.lines().map(without_value).collect() };
    assert_eq!(lines(&classic), lines(&converted));
    let families = |page: &str| page.lines().filter(|line| line.starts_with("# TYPE ")).count();
    assert_eq!((families(&classic), families(&open_metrics)), (FAMILIES.len(), FAMILIES.len()));
}

#[test]
fn escaped_labels_are_the_same_in_both_formats() {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(OneSeries(Labels::new(
        &["certificate", "reason"],
        ["a\"b\\c\n# EOF", "# TYPE a counter"],
    ))));
    let (mut open_metrics, mut classic) = (String::new(), String::new());
    text::encode(&mut open_metrics, &registry).unwrap();
    text::encode(&mut ClassicWriter::new(&mut classic), &registry).unwrap();
    assert_eq!(format!("{classic}# EOF\n"), open_metrics);
}

#[test]
fn the_accept_header_chooses_the_format() {
    const PROMETHEUS: &str =
        "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    for (accept, format) in [
        ("", ExpositionFormat::Classic),
        ("*/*", ExpositionFormat::Classic),
        ("text/plain;version=0.0.4", ExpositionFormat::Classic),
        ("text/html, application/xhtml+xml, */*;q=0.8", ExpositionFormat::Classic),
        ("application/openmetrics-text; q=0", ExpositionFormat::Classic),
        ("application/openmetrics-text", ExpositionFormat::OpenMetrics),
        ("text/plain, Application/OpenMetrics-Text; version=1.0.0", ExpositionFormat::OpenMetrics),
        (PROMETHEUS, ExpositionFormat::OpenMetrics),
    ] {
        assert_eq!(ExpositionFormat::accepted(accept), format, "{accept}");
    }
}

/// A proxy with this many load balancers of 20 endpoints each, without connections.
async fn proxy_with(load_balancers: u16) -> Proxy {
    let encoder = LineEncoder { format: Format::Text, process: ProcessIdentity::new("test") };
    let (access_log, _) = AccessLog::start(Events::Ends, encoder, std::io::sink());
    let descriptors = usize::from(load_balancers) * 4 + 100;
    let options = Options {
        workers: 1,
        descriptors,
        spare_from: i32::MAX,
        preconnected: 0,
        pipes: 0,
        probes: 10,
        cancels: 10,
        sharing: Sharing::Exclusive,
        inherited: BTreeMap::new(),
        access_log,
    };
    let proxy = Proxy::start(options, &Handle::current()).unwrap();
    let mut world = World::default();
    for number in 0..load_balancers {
        let [high, low] = number.to_be_bytes();
        let addresses: Vec<String> = (1..=20).map(|endpoint| format!("10.{high}.{low}.{endpoint}:5432")).collect();
        let spec = json!({
            "listeners": [{"port": 31843, "address": format!("127.9.{high}.{low}")}],
            "backends": [{"name": "database", "addresses": addresses}],
        });
        let declared = Declared {
            spec: Some(Arc::new(serde_json::from_value(spec).unwrap())),
            problems: Vec::new(),
            without_value: Vec::new(),
            origin: "test".into(),
            folder: "".into(),
            identity: None,
            status: None,
        };
        world.load_balancers.insert(ObjectKey::new("customers", &format!("load-balancer-{number}")), declared);
    }
    let (snapshot, _) = translate(&world, &Snapshot::default(), jiff::Timestamp::now());
    let generation = snapshot.generation;
    proxy.publish(Arc::new(snapshot));
    proxy.reports().wait_for(|report| report.generation >= generation).await.unwrap();
    proxy
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: run it alone, optimised"]
async fn cpu_time_of_a_page_of_500_load_balancers() {
    let proxy = proxy_with(500).await;
    for series in [EndpointSeries::All, EndpointSeries::None] {
        let metrics = Metrics::new(proxy.monitor(), Arc::default(), series);
        let page = |format| {
            let start = clock_gettime(ClockId::ThreadCPUTime);
            let text = metrics.text(format);
            let end = clock_gettime(ClockId::ThreadCPUTime);
            let nanoseconds = (end.tv_sec - start.tv_sec) * 1_000_000_000 + end.tv_nsec - start.tv_nsec;
            (nanoseconds / 1000, text)
        };
        for format in [ExpositionFormat::OpenMetrics, ExpositionFormat::Classic] {
            let fastest = (0..20).map(|_| page(format).0).min().unwrap();
            let text = page(format).1;
            let lines = text.lines().filter(|line| !line.starts_with('#')).count();
            println!("{series:?}, {format:?}: {fastest} µs, {lines} series, {} bytes", text.len());
        }
    }
}
