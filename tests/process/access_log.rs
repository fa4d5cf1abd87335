//! The access log of the program in its formats, and its settings.

use std::{fs, net::SocketAddr, path::Path};

use serde_json::Value;

use crate::{
    harness::{EchoServer, Folder, Tcplb, free_address, visit, wait_until},
    tls_client,
};

/// A load balancer with these listeners, each with a name, an address and further fields.
fn load_balancer(listeners: &[(&str, SocketAddr, &str)], backends: &[SocketAddr]) -> String {
    let listener = |(name, address, more): &(&str, SocketAddr, &str)| {
        format!("  - {{name: {name}, port: {}, address: {}, {more}}}\n", address.port(), address.ip())
    };
    let backends: Vec<String> = backends.iter().map(|address| format!("\"{address}\"")).collect();
    format!(
        "apiVersion: tcplb.io/v1alpha1\nkind: TcpLoadBalancer\nmetadata: {{name: shop}}\nspec:\n  listeners:\n{}  \
         backends: [{{addresses: [{}]}}]\n",
        listeners.iter().map(listener).collect::<String>(),
        backends.join(", ")
    )
}

/// The lines of a process that served one connection after a failed attempt, and refused one.
fn lines(format: &str) -> Vec<Value> {
    let (server, folder) = (EchoServer::start(None), Folder::new());
    let [address, refusing, gone] = std::array::from_fn(|_| free_address());
    let text = load_balancer(
        &[("main", address, ""), ("refusing", refusing, "access: {deny: [127.0.0.0/8]}")],
        &[gone, server.address],
    );
    // Failed checks would take the endpoint that is gone out.
    let more = "  connect: {attempts: 2}\n  healthCheck: {active: {type: None}}\n";
    let file = folder.write("shop.yaml", &format!("{text}{more}"));
    let arguments = ["--access-log", "all", "--access-log-format", format, "--replica-name", "proxy-1", &file];
    let mut tcplb = Tcplb::standalone(&arguments).ready();
    // In turn: at least one of them begins with the endpoint that is gone.
    for _ in 0..2 {
        visit(address).unwrap();
    }
    let _ = visit(refusing);
    wait_until("all connections have ended", || tcplb.metric("tcplb_connections_closed_total", &[]) == 3.0);
    tcplb.signal("TERM");
    let (_, output) = tcplb.ended();
    let lines: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    // Two connections with start and end, and the end of the refused one.
    assert_eq!(lines.len(), 5, "{output}");
    lines
}

#[test]
fn json_lines_match_the_published_schema() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/access-log.schema.json");
    let schema: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let lines = lines("json");
    for line in &lines {
        let mut wrong = Vec::new();
        check(&schema, &schema, line, "", &mut wrong);
        assert!(wrong.is_empty(), "{wrong:#?}: {line}");
    }
    let failed: Vec<_> = lines.iter().filter(|line| line.get("failed_endpoints").is_some()).collect();
    assert!(!failed.is_empty(), "at least one connection has tried the endpoint that is gone: {lines:#?}");
    for line in failed {
        assert_eq!((&line["attempts"], &line["failed_endpoints"][0]["reason"]), (&2.into(), &"refused".into()));
    }
    let ids: std::collections::BTreeSet<_> = lines.iter().map(|line| line["connection_id"].to_string()).collect();
    assert_eq!(ids.len(), 3, "start and end of a connection have the same id: {lines:#?}");
    let last = |listener: &str| lines.iter().rev().find(|line| line["listener_name"] == listener).unwrap();
    assert_eq!((&last("main")["outcome"], &last("main")["replica"]), (&"success".into(), &"proxy-1".into()));
    assert_eq!((&last("main")["load_balancer"], &last("main")["backend"]), (&"default/shop".into(), &"default".into()));
    assert_eq!(last("refusing")["outcome"], "failure");
}

/// Checks a value against a schema. A keyword that it does not know is an error, so that no part is left unchecked.
pub fn check(root: &Value, schema: &Value, value: &Value, path: &str, wrong: &mut Vec<String>) {
    for (keyword, rule) in schema.as_object().unwrap() {
        let is_met = match keyword.as_str() {
            "$schema" | "title" | "description" | "$defs" | "format" => true,
            "$ref" => {
                let target = root.pointer(rule.as_str().unwrap().trim_start_matches('#')).unwrap();
                check(root, target, value, path, wrong);
                true
            }
            "type" => match rule.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "integer" => value.is_u64(),
                "number" => value.is_number(),
                other => panic!("unknown type {other}"),
            },
            "enum" => rule.as_array().unwrap().contains(value),
            "minimum" => value.as_f64() >= rule.as_f64(),
            "maximum" => value.as_f64() <= rule.as_f64(),
            "maxItems" => value.as_array().unwrap().len() as u64 <= rule.as_u64().unwrap(),
            "required" => rule.as_array().unwrap().iter().all(|name| value.get(name.as_str().unwrap()).is_some()),
            "items" => {
                value.as_array().unwrap().iter().for_each(|item| check(root, rule, item, &format!("{path}[]"), wrong));
                true
            }
            "properties" => {
                for (name, member) in value.as_object().unwrap() {
                    match rule.get(name) {
                        Some(rule) => check(root, rule, member, &format!("{path}.{name}"), wrong),
                        None => wrong.push(format!("{path}.{name} is not in the schema")),
                    }
                }
                true
            }
            other => panic!("unknown keyword {other} at {path}"),
        };
        if !is_met {
            wrong.push(format!("{path}: {value} does not meet {keyword} {rule}"));
        }
    }
}

#[test]
fn the_other_json_formats_have_their_times_addresses_and_outcomes() {
    for line in lines("ecs") {
        assert!(line["@timestamp"].is_string() && line["ecs"]["version"].is_string(), "{line}");
        assert_eq!((&line["source"]["ip"], &line["service"]["node"]["name"]), (&"127.0.0.1".into(), &"proxy-1".into()));
        let is_end = line["event"]["action"] == "connection-end";
        assert_eq!(
            (line["event"]["outcome"].is_string(), line["event"]["duration"].is_u64()),
            (is_end, is_end),
            "{line}"
        );
    }
    let mut reasons = Vec::new();
    for line in lines("otel") {
        let logs = &line["resourceLogs"][0];
        assert_eq!(logs["resource"]["attributes"][2]["value"]["stringValue"], "proxy-1", "{line}");
        let record = &logs["scopeLogs"][0]["logRecords"][0];
        assert!(record["timeUnixNano"].as_str().unwrap().parse::<u64>().is_ok(), "{line}");
        let attributes = record["attributes"].as_array().unwrap();
        reasons.extend(attributes.iter().find(|attribute| attribute["key"] == "tcplb.reason").cloned());
    }
    assert_eq!(reasons.len(), 3, "each end has a reason: {reasons:?}");
}

#[test]
fn a_route_is_logged_by_its_server_name_and_its_backend_by_its_name() {
    let (server, folder, address) = (EchoServer::start(None), Folder::new(), free_address());
    assert_eq!(crate::harness::run(&["cert", "--out", folder.path(), "db.example.test"]).0, 0);
    let text = format!(
        "apiVersion: tcplb.io/v1alpha1\nkind: TcpLoadBalancer\nmetadata: {{name: shop}}\nspec:\n  listeners:\n  \
         - port: {}\n    address: 127.0.0.1\n    tls: {{certificateRefs: [{{files: {{certificate: db.example.test.crt, \
         key: db.example.test.key}}}}]}}\n    routes: [{{serverNames: [\"*.example.test\", other.test], backends: [db]}}, \
         {{backends: [rest]}}]\n  backends:\n  - {{name: db, addresses: [\"{}\"]}}\n  - {{name: rest, addresses: [\"{}\"]}}\n",
        address.port(),
        server.address,
        server.address
    );
    let file = folder.write("shop.yaml", &text);
    let mut tcplb = Tcplb::standalone(&["--access-log-format", "json", &file]).ready();
    let certificate = folder.join("db.example.test.crt");
    let mut client = tls_client::connect(address, "db.example.test", &[certificate.to_str().unwrap()]).unwrap();
    client.echo("there and back").unwrap();
    drop(client);
    tcplb.printed("db.example.test");
    tcplb.signal("TERM");
    let line: Value = serde_json::from_str(tcplb.ended().1.lines().next().unwrap()).unwrap();
    assert_eq!((&line["route"], &line["backend"]), (&"*.example.test".into(), &"db".into()), "{line}");
}

#[test]
fn listeners_select_the_connections_that_are_logged() {
    const CONNECTIONS: usize = 60;
    let (server, folder) = (EchoServer::start(None), Folder::new());
    let [sampled, failures, off, refusing] = std::array::from_fn(|_| free_address());
    let text = load_balancer(
        &[
            ("sampled", sampled, "accessLog: {sample: 4}"),
            ("failures", failures, "accessLog: {mode: Failures}"),
            ("none", off, "accessLog: {mode: \"Off\"}"),
            ("refusing", refusing, "accessLog: {mode: Failures}, access: {deny: [127.0.0.0/8]}"),
        ],
        &[server.address],
    );
    let file = folder.write("shop.yaml", &text);
    let mut tcplb = Tcplb::standalone(&["--workers", "1", &file]).ready();
    for _ in 0..CONNECTIONS {
        visit(sampled).unwrap();
    }
    visit(failures).unwrap();
    visit(off).unwrap();
    let _ = visit(refusing);
    let events = |result| tcplb.metric("tcplb_access_log_events_total", &[result]) as usize;
    wait_until("all ends are logged or suppressed", || events("logged") + events("suppressed") == CONNECTIONS + 3);
    let logged = events("logged");
    assert_eq!(events("dropped"), 0);
    tcplb.signal("TERM");
    let (_, output) = tcplb.ended();
    let count = |name: &str| output.lines().filter(|line| line.contains(&format!(" listener_name={name} "))).count();
    assert_eq!(output.lines().count(), logged, "{output}");
    assert_eq!((count("failures"), count("none"), count("refusing")), (0, 0, 1), "{output}");
    assert!((CONNECTIONS / 5..=CONNECTIONS / 3).contains(&count("sampled")), "{} of {CONNECTIONS}", count("sampled"));
}

#[test]
fn the_log_level_follows_a_file() {
    let (server, folder, address) = (EchoServer::start(None), Folder::new(), free_address());
    let (listen, backend) = (address.to_string(), server.address.to_string());
    let file = folder.write("filter", "error\n");
    let arguments = ["--listen", &listen, "--backend", &backend, "--log-filter-file", &file];
    let mut tcplb = Tcplb::standalone(&arguments).ready();
    folder.write("filter", "info\n");
    tcplb.logged("log filter changed");
    assert!(
        !tcplb.seen.iter().any(|line| line.contains("listening")),
        "the file applies at the start: {:?}",
        tcplb.seen
    );
    folder.write("filter", "loud\n");
    let message = tcplb.logged("cannot use the log filter");
    for part in [&file, "`loud` is not a level", "write a level"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    tcplb.signal("HUP");
    tcplb.logged("SIGHUP");
    fs::remove_file(&file).unwrap();
    tcplb.logged("No such file");
    folder.write("filter", "debug,hyper=off");
    tcplb.logged("log filter changed filter=debug,hyper=off");
}
