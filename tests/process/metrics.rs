//! Metrics compared with the manual.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use crate::harness::{EchoServer, Folder, Tcplb, free_address, http_request, run, visit, wait_until};

/// The type and labels of each metric in docs/metrics.md.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `tcplb_") || line.starts_with("| `process_"));
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let metric = |row: &str| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (quoted(cells[1])[0].clone(), (cells[2].to_owned(), quoted(cells[3]).into_iter().collect()))
    };
    rows.map(metric).collect()
}

/// A load balancer with every feature that has its own series from the start.
fn with_all_kinds_of_series(folder: &Folder, backend: &str) -> (Tcplb, std::net::SocketAddr) {
    let [plain, tls] = std::array::from_fn(|_| free_address());
    assert_eq!(run(&["cert", "--out", folder.path(), "db.example.test"]).0, 0);
    let files = "files: {certificate: db.example.test.crt, key: db.example.test.key}";
    folder.write(
        "shop.yaml",
        &format!(
            "apiVersion: tcplb.io/v1alpha1\nkind: TcpLoadBalancer\nmetadata: {{name: pg, namespace: shop}}\nspec:\n  \
             listeners:\n  - {{name: plain, port: {}, address: 127.0.0.1}}\n  \
             - {{name: tls, port: {}, address: 127.0.0.1, tls: {{certificateRefs: [{{{files}}}]}}}}\n  \
             healthCheck: {{active: {{type: TCP, interval: 1s}}}}\n  connect: {{preconnect: {{perEndpoint: 1}}}}\n  \
             backends:\n  - {{name: db, addresses: [\"{backend}\"]}}\n  \
             - name: sealed\n    addresses: [\"127.0.0.1:1\", \"localhost:1\"]\n    \
             tls: {{insecureSkipVerify: true, certificateRef: {{{files}}}}}\n",
            plain.port(),
            tls.port()
        ),
    );
    let tcplb = Tcplb::standalone(&[folder.path()]).ready();
    wait_until("a connection is accounted for", || {
        visit(plain).is_ok() && tcplb.metric("tcplb_connections_closed_total", &["reason=\"complete\""]) > 0.0
    });
    (tcplb, plain)
}

fn served(tcplb: &Tcplb, accept: &str) -> (String, String) {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n{accept}Connection: close\r\n\r\n", tcplb.admin);
    let response = http_request(tcplb.admin, &request).unwrap();
    (response.header("content-type").unwrap().to_owned(), response.body)
}

#[test]
fn the_served_names_types_and_labels_are_the_documented_ones() {
    let (server, folder) = (EchoServer::start(None), Folder::new());
    let (tcplb, _) = with_all_kinds_of_series(&folder, &server.address.to_string());
    wait_until("a name is looked up", || tcplb.metric("tcplb_dns_lookups_total", &["result=\"found\""]) > 0.0);
    wait_until("probes are counted", || tcplb.metric("tcplb_endpoint_probes_total", &["result=\"passed\""]) > 0.0);
    let (content_type, text) = served(&tcplb, "");
    assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8");
    let documented = documented();

    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let types: BTreeMap<&str, &str> = types.collect();
    let info_is_a_gauge = |kind: &String| if kind == "info" { "gauge" } else { kind }.to_owned();
    let expected: BTreeMap<&str, String> =
        documented.iter().map(|(name, (kind, _))| (name.as_str(), info_is_a_gauge(kind))).collect();
    assert_eq!(types, expected.iter().map(|(name, kind)| (*name, kind.as_str())).collect());

    let mut with_series = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let mut labels: BTreeSet<String> = labels
            .trim_end_matches('}')
            .split("\",")
            .filter_map(|label| Some(label.split_once('=')?.0.into()))
            .collect();
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let family = family.filter(|family| types.get(family) == Some(&"histogram")).unwrap_or(name);
        if name.ends_with("_bucket") {
            assert!(labels.remove("le"), "{line}");
        }
        assert_eq!(&labels, &documented[family].1, "{line}");
        with_series.insert(family);
    }
    let without: Vec<&str> = types.keys().copied().filter(|name| !with_series.contains(name)).collect();
    // These count events that did not happen here, have no limit here, or belong to a cluster.
    let expected = [
        "tcplb_api_writes_total",
        "tcplb_backend_tls_handshakes_total",
        "tcplb_connections_draining",
        "tcplb_connections_draining_overdue",
        "tcplb_leader",
        "tcplb_load_balancer_condition",
        "tcplb_proxy_ports",
        "tcplb_replicas",
        "tcplb_source_entries",
        "tcplb_tls_handshakes_total",
        "tcplb_watch_failures_total",
        "tcplb_watch_outage_age_seconds",
        "tcplb_watches",
    ];
    assert_eq!(without, expected);
}

#[test]
fn the_accept_header_chooses_between_both_formats() {
    let (server, folder) = (EchoServer::start(None), Folder::new());
    let (tcplb, _) = with_all_kinds_of_series(&folder, &server.address.to_string());
    let (classic_type, classic) = served(&tcplb, "Accept: text/plain\r\n");
    let (open_type, open) = served(&tcplb, "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n");
    assert!(classic_type.starts_with("text/plain; version=0.0.4") && !classic.contains("# EOF"), "{classic}");
    assert!(
        open_type.starts_with("application/openmetrics-text; version=1.0.0") && open.ends_with("# EOF\n"),
        "{open}"
    );
    let names = |text: &str| -> BTreeSet<String> {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
    };
    assert_eq!(names(&classic), names(&open));
    for text in [&classic, &open] {
        for histogram in ["tcplb_connect_duration_seconds", "tcplb_connection_duration_seconds"] {
            let last = format!("{histogram}_bucket{{le=\"+Inf\",load_balancer_namespace=\"shop\",load_balancer=\"pg\"");
            assert!(text.contains(&last), "{text}");
            let count = crate::harness::metric(text, &format!("{histogram}_count"), &[]);
            assert_eq!(crate::harness::metric(text, &format!("{histogram}_bucket"), &["le=\"+Inf\""]), count);
        }
    }
}

/// Checks every metric that is named in documents and the chart.
#[test]
fn metrics_that_documents_and_the_chart_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![root.join("README.md"), root.join("ARCHITECTURE.md"), root.join("bench/README.md")];
    for folder in ["docs", "charts", "examples", "manifests"] {
        gather(&root.join(folder), &mut files);
    }
    let documented = documented();
    let mut names: BTreeSet<String> = documented.keys().cloned().collect();
    for (name, _) in documented.iter().filter(|(_, (kind, _))| kind == "histogram") {
        names.extend(["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}")));
    }
    let (mut found, mut wrong) = (0, Vec::new());
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        for word in
            text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("tcplb_"))
        {
            found += 1;
            if !names.contains(word) {
                wrong.push(format!("{}: {word}", file.display()));
            }
        }
    }
    assert!(found > names.len() / 2 && wrong.is_empty(), "{wrong:#?}");
}

fn gather(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { gather(&path, files) } else { files.push(path) }
    }
}
