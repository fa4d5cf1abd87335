//! Metrics in Prometheus, and in parsers of its formats.

use std::{
    fs,
    net::SocketAddr,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use crate::{
    harness::{EchoServer, Folder, Tcplb, free_address, http_request, lacks, manifest, visit, wait_until},
    needs,
    program::command,
    prometheus_server::Prometheus,
};

/// Labels that the Prometheus operator sets, with their values.
const TARGET: [(&str, &str); 6] = [
    ("namespace", "tcplb-system"),
    ("pod", "tcplb-0"),
    ("container", "tcplb"),
    ("service", "tcplb-replicas"),
    ("endpoint", "admin"),
    ("job", "tcplb-system/tcplb"),
];

fn balancer(folder: &Folder, server: &EchoServer) -> (Tcplb, SocketAddr) {
    let address = free_address();
    let more = "healthCheck: {active: {type: TCP, interval: 1s}}\nconnect: {preconnect: {perEndpoint: 1}}";
    folder.write("pg.yaml", &manifest("pg, namespace: shop", address.port(), &[server.address], more));
    let tcplb = Tcplb::standalone(&[folder.join("pg.yaml").to_str().unwrap()]).ready();
    wait_until("a connection is counted", || {
        visit(address).is_ok() && tcplb.metric("tcplb_connections_closed_total", &["reason=\"complete\""]) > 0.0
    });
    (tcplb, address)
}

fn metrics(tcplb: &Tcplb, accept: &str) -> String {
    let head = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nAccept: {accept}\r\n", tcplb.admin);
    http_request(tcplb.admin, &format!("{head}Connection: close\r\n\r\n")).unwrap().body
}

#[test]
fn promtool_finds_no_fault_in_metrics() {
    needs!("promtool");
    let (server, folder) = (EchoServer::start(None), Folder::new());
    let (tcplb, _) = balancer(&folder, &server);
    let file = folder.write("metrics.txt", &metrics(&tcplb, "text/plain"));
    let check = command("promtool").args(["check", "metrics"]).stdin(fs::File::open(file).unwrap()).output().unwrap();
    let output = String::from_utf8_lossy(&[check.stdout, check.stderr].concat()).into_owned();
    assert!(check.status.success() && output.trim().is_empty(), "{output}");
}

/// The reference parsers of both formats; that of OpenMetrics is strict.
const PARSER: &str = "
import sys
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics
parse = {'open': openmetrics, 'classic': parser}[sys.argv[1]].text_string_to_metric_families
for family in parse(sys.stdin.read()):
    print(family.name, family.type, len(family.samples))
";

#[test]
fn the_parsers_of_both_formats_read_the_same_samples() {
    let python = || Command::new("/usr/bin/python3");
    let there = python().args(["-c", "import prometheus_client"]).stderr(Stdio::null()).status();
    if !there.is_ok_and(|status| status.success()) {
        return lacks("python3-prometheus-client");
    }
    let (server, folder) = (EchoServer::start(None), Folder::new());
    let (tcplb, _) = balancer(&folder, &server);
    for (format, accept, build, connect) in [
        ("open", "application/openmetrics-text", "tcplb_build info 1", "tcplb_connections_accepted counter 1"),
        ("classic", "*/*", "tcplb_build_info gauge 1", "tcplb_connections_accepted counter 1"),
    ] {
        let file = folder.write("metrics.txt", &metrics(&tcplb, accept));
        let read = python().args(["-c", PARSER, format]).stdin(fs::File::open(file).unwrap()).output().unwrap();
        let (read, fault) =
            (String::from_utf8(read.stdout).unwrap(), String::from_utf8_lossy(&read.stderr).into_owned());
        assert!(fault.is_empty(), "{format}: {fault}");
        // 15 buckets, their sum and their count.
        for expected in [build, connect, "tcplb_connection_duration_seconds histogram 17"] {
            assert!(read.lines().any(|line| line == expected), "{format}: {expected} in {read}");
        }
    }
}

/// A configuration like that of the operator, whose labels override those of the target.
fn configuration(admin: SocketAddr) -> String {
    let relabel: String =
        TARGET.iter().map(|(label, value)| format!("  - {{target_label: {label}, replacement: {value}}}\n")).collect();
    format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: podMonitor/tcplb-system/tcplb/0\n  \
         honor_labels: false\n  static_configs: [{{targets: ['{admin}']}}]\n  relabel_configs:\n{relabel}"
    )
}

#[test]
fn prometheus_keeps_all_labels_and_computes_quantiles() {
    needs!("prometheus");
    let (server, folder) = (EchoServer::start(None), Folder::new());
    let (tcplb, address) = balancer(&folder, &server);
    let prometheus = Prometheus::start(&configuration(tcplb.admin), &folder);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                let _ = visit(address);
            }
        });
        for histogram in ["tcplb_connect_duration_seconds", "tcplb_connection_duration_seconds"] {
            let quantile = format!(
                "histogram_quantile(0.99, sum by (le, load_balancer_namespace, load_balancer) (rate({histogram}_bucket[30s])))"
            );
            wait_until(&format!("{histogram} has a quantile"), || {
                let found = prometheus.query(&quantile);
                found.iter().any(|(labels, value)| labels["load_balancer"] == "pg" && value.is_finite() && *value > 0.0)
            });
        }
        over.store(true, Relaxed);
    });
    // Every scrape has a time limit of a second: a busy machine may miss one.
    let values = |query: &str| prometheus.query(query).into_iter().map(|(_, value)| value).collect::<Vec<_>>();
    wait_until("the process is up", || values("up") == [1.0]);
    let mut series = Vec::new();
    wait_until("all series are there", || {
        series = prometheus.query("{__name__=~\"tcplb_.+\"}");
        series.len() > 30
    });
    for (labels, _) in &series {
        let labels = labels.as_object().unwrap();
        assert!(!labels.keys().any(|name| name.starts_with("exported_")), "{labels:?}");
        assert!(TARGET.iter().all(|(name, value)| labels[*name] == *value), "{labels:?}");
    }
    let endpoint = format!(
        "tcplb_endpoint_usable{{load_balancer_namespace=\"shop\", load_balancer=\"pg\", endpoint_address=\"{}\"}}",
        server.address
    );
    wait_until("the endpoint is usable", || values(&endpoint) == [1.0]);
    wait_until("the version is known", || {
        prometheus.query("tcplb_build_info").iter().any(|(labels, _)| labels["version"].is_string())
    });
}
