//! The output of the process: its own log on standard error, connections on standard output.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    harness::{Client, EchoServer, Folder, Tcplb, free_address, manifest, program, run, visit, wait_until},
    tls_client,
};

/// The pairs of a text line.
fn pairs(line: &str) -> BTreeMap<&str, &str> {
    line.split(' ').filter_map(|word| word.split_once('=')).collect()
}

#[test]
fn access_log_lines_have_client_endpoint_bytes_and_reason() {
    let (server, address) = (EchoServer::start(None), free_address());
    let (listen, backend) = (address.to_string(), server.address.to_string());
    let mut tcplb = Tcplb::standalone(&["--listen", &listen, "--backend", &backend]).ready();
    let mut client = Client::connect(address);
    let from = client.0.get_ref().local_addr().unwrap().to_string();
    client.echo("there and back").unwrap();
    client.finish().unwrap();
    tcplb.printed("reason=");
    tcplb.signal("TERM");
    let (_, output) = tcplb.ended();
    let [line] = output.lines().collect::<Vec<_>>()[..] else { panic!("one line: {output}") };
    let pairs = pairs(line);
    assert!(line.contains(" connection end "), "{line}");
    for (name, expected) in [
        ("listener", format!("default/cli:{}", address.port())),
        ("peer", from.clone()),
        ("client", from),
        ("endpoint", backend),
        ("attempts", "1".into()),
        ("bytes_to_backend", "15".into()),
        ("bytes_to_client", "15".into()),
        ("reason", "complete".into()),
    ] {
        assert_eq!(pairs.get(name), Some(&expected.as_str()), "{name}: {line}");
    }
    for name in ["connect_seconds", "duration_seconds"] {
        assert!(pairs[name].parse::<f64>().is_ok_and(|seconds| (0.0..60.0).contains(&seconds)), "{name}: {line}");
    }
}

#[test]
fn in_json_every_line_of_both_outputs_is_an_object() {
    let (server, folder) = (EchoServer::start(None), Folder::new());
    let [plain, tls, refusing] = std::array::from_fn(|_| free_address());
    assert_eq!(run(&["cert", "--out", folder.path(), "db.example.test"]).0, 0);
    let files = "files: {certificate: db.example.test.crt, key: db.example.test.key}";
    let listeners = format!(
        "apiVersion: tcplb.io/v1alpha1\nkind: TcpLoadBalancer\nmetadata: {{name: shop}}\nspec:\n  listeners:\n  \
         - {{name: plain, port: {}, address: 127.0.0.1}}\n  \
         - {{name: tls, port: {}, address: 127.0.0.1, tls: {{certificateRefs: [{{{files}}}]}}}}\n  \
         - {{name: refusing, port: {}, address: 127.0.0.1, access: {{deny: [127.0.0.0/8]}}}}\n  \
         backends: [{{addresses: [\"{}\"]}}]\n",
        plain.port(),
        tls.port(),
        refusing.port(),
        server.address
    );
    folder.write("shop.yaml", &listeners);
    folder.write("wrong.yaml", &listeners.replace("name: shop", "name: \"two\nlines\"").replace("port", "prot"));
    let mut tcplb = Tcplb::standalone(&["--log-format", "json", "--access-log", "all", folder.path()]).ready();
    visit(plain).unwrap();
    tls_client::connect(tls, "db.example.test", &[]).err().expect("the certificate is trusted by nobody");
    let certificate = folder.join("db.example.test.crt");
    let mut client = tls_client::connect(tls, "db.example.test", &[certificate.to_str().unwrap()]).unwrap();
    client.echo("there and back").unwrap();
    drop(client);
    let _ = visit(refusing);
    wait_until("all connections have ended", || tcplb.metric("tcplb_connections_closed_total", &[]) == 4.0);
    folder.write("shop.yaml", &listeners.replace("refusing", "strict"));
    tcplb.logged("\"generation\":2");
    tcplb.signal("TERM");
    let (status, output) = tcplb.ended();
    assert_eq!(status.code(), Some(0));

    for line in &tcplb.seen {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["time"].is_string() && line["level"].is_string() && line["message"].is_string(), "{line}");
    }
    let lines: Vec<Value> =
        output.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
    let of = |event: &str, name: &str| -> Vec<&Value> {
        lines.iter().filter(|line| line["event"] == event && line["listener_name"] == name).collect()
    };
    assert_eq!((of("start", "plain").len(), of("end", "plain").len()), (1, 1), "{output}");
    let end = of("end", "plain")[0];
    assert_eq!((&end["reason"], &end["bytes_to_client"]), (&"complete".into(), &15.into()));
    let shaken = of("end", "tls");
    let echoed = shaken.iter().find(|line| line["bytes_to_backend"] == 15).expect("the TLS connection is logged");
    assert_eq!((&echoed["tls_version"], &echoed["tls_server_name"]), (&"TLS1.3".into(), &"db.example.test".into()));
    assert_eq!(of("end", "refusing")[0]["reason"], "access_denied");
}

#[test]
fn an_invalid_log_filter_in_the_environment_is_reported_in_the_format_of_the_log() {
    for (filter, wrong) in
        [("inof", "`inof` is not a level"), ("tcplb=debgu", "`debgu` in `tcplb=debgu` is not a level")]
    {
        let mut command = program();
        command.args(["standalone", "--admin", "off", "--log-format", "json", "/nowhere"]).env("RUST_LOG", filter);
        let mut tcplb = Tcplb::spawn(command, ([127, 0, 0, 1], 0).into());
        tcplb.ended();
        let lines: Vec<Value> = tcplb.seen.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let expected = format!("cannot use RUST_LOG: {wrong}; write a level (error, warn, info, debug, trace or off)");
        assert!(lines[0]["message"].as_str().unwrap().starts_with(&expected), "{lines:?}");
        assert!(lines.len() > 1, "the process logs at the default level: {lines:?}");
    }
}

#[test]
fn in_json_the_sentence_with_which_the_process_ends_is_an_object_too() {
    let folder = Folder::new();
    let file = folder.write("wrong.yaml", "kind: [");
    let (code, output, errors) = run(&["standalone", "--admin", "off", "--log-format", "json", &file]);
    assert_eq!((code, output.as_str()), (1, ""));
    for line in errors.lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    assert!(errors.contains("nothing can be served"), "{errors}");
}

#[test]
fn refusals_are_all_counted_and_logged_at_a_bounded_rate() {
    const REFUSED: usize = 300;
    let (server, folder, address) = (EchoServer::start(None), Folder::new(), free_address());
    let text = manifest("shop", address.port(), &[server.address], "");
    let text = text.replace("127.0.0.1}]", "127.0.0.1, access: {deny: [127.0.0.0/8]}}]");
    let mut tcplb = Tcplb::standalone(&["--workers", "1", &folder.write("shop.yaml", &text)]).ready();
    let started = std::time::Instant::now();
    for _ in 0..REFUSED {
        let _ = Client::try_connect(address).and_then(|mut client| client.end());
    }
    let seconds = started.elapsed().as_secs() as usize + 2;
    wait_until("all are counted", || {
        tcplb.metric("tcplb_connections_closed_total", &["access_denied"]) == REFUSED as f64
    });
    let events = |result| tcplb.metric("tcplb_access_log_events_total", &[result]);
    // The log follows a moment after the count.
    wait_until("all are logged or dropped", || events("logged") + events("dropped") == REFUSED as f64);
    let logged = events("logged");
    tcplb.signal("TERM");
    let (_, output) = tcplb.ended();
    assert_eq!(output.lines().count(), logged as usize);
    assert!(output.lines().count() <= 10 * seconds, "{} lines in {seconds} s", output.lines().count());
}

#[test]
fn a_reader_that_goes_away_stops_nothing_and_its_lines_count_as_dropped() {
    use std::{
        os::unix::process::CommandExt,
        process::{Command, Stdio},
    };

    let (server, address, admin) = (EchoServer::start(None), free_address(), free_address());
    let mut command = Command::new("sh");
    // `true` ends without reading anything.
    command.arg("-c").arg(format!(
        "exec {} standalone --admin {admin} --listen {address} --backend {} 2>/dev/null | true",
        env!("CARGO_BIN_EXE_tcplb"),
        server.address
    ));
    let mut shell = command.stdin(Stdio::null()).process_group(0).spawn().unwrap();
    wait_until("it serves", || crate::harness::http_get(admin, "/readyz").is_some_and(|(status, _)| status == 200));
    for _ in 0..20 {
        visit(address).unwrap();
    }
    let metrics = || crate::harness::http_get(admin, "/metrics").unwrap().1;
    wait_until("the lines count as dropped", || {
        crate::harness::metric(&metrics(), "tcplb_access_log_events_total", &["dropped"]) == 20.0
    });
    assert!(visit(address).is_ok());
    let group = format!("-{}", shell.id());
    Command::new("kill").args(["-KILL", "--", &group]).status().unwrap();
    let _ = shell.wait();
}

#[test]
fn a_change_of_health_is_logged_once_with_its_cause() {
    let (folder, address, gone) = (Folder::new(), free_address(), free_address());
    // The interval is also the time limit of a check.
    let check = "healthCheck: {active: {interval: 1s, unhealthyAfter: 2, healthyAfter: 2}}";
    let file = folder.write("shop.yaml", &manifest("shop", address.port(), &[gone], check));
    let mut tcplb = Tcplb::standalone(&[&file]).ready();
    let line = tcplb.logged("unhealthy");
    for part in [gone.to_string().as_str(), "default/shop", "refused"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(visit(address).is_err(), "nothing is usable");
    wait_until("it is told", || tcplb.metric("tcplb_endpoint_healthy", &[]) == 0.0);
    assert!(tcplb.snapshot().to_string().contains("refused"));

    let mut command = crate::harness::program();
    let _backend = crate::harness::Backend::start(command.args(["backend", "--listen", &gone.to_string()]), gone);
    wait_until("it is usable again", || visit(address).is_ok());
    tcplb.signal("TERM");
    let (_, output) = tcplb.ended();
    let count = |part: &str| tcplb.seen.iter().filter(|line| line.contains(part)).count();
    assert_eq!((count("endpoint unhealthy"), count("endpoint healthy")), (1, 1), "{:#?}", tcplb.seen);
    assert!(output.contains("reason=no_endpoint"), "{output}");
}

#[test]
fn bytes_are_counted_while_they_move() {
    let (server, address) = (EchoServer::start(None), free_address());
    let backend = server.address.to_string();
    let tcplb = Tcplb::standalone(&["--listen", &address.to_string(), "--backend", &backend]).ready();
    let mut open = Client::connect(address);
    for sent in 1..=3 {
        open.echo("there and back").unwrap();
        for direction in ["to_backend", "to_client"] {
            // A client may have received its bytes a moment before they are counted.
            wait_until(&format!("{} bytes are counted {direction}", 15 * sent), || {
                tcplb.metric("tcplb_relayed_bytes_total", &[direction]) == f64::from(15 * sent)
            });
        }
    }
    assert_eq!(tcplb.metric("tcplb_connections_active", &[]), 1.0);
}
