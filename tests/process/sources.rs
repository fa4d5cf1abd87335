//! The configuration sources and the operation of a standalone process.

use std::{collections::BTreeSet, net::SocketAddr};

use crate::{
    harness::{
        Client, EchoServer, Folder, Tcplb, free_address, http_get, manifest, program, run, visit, wait_until,
        who_answers,
    },
    tls_client,
};

fn servers() -> [EchoServer; 2] {
    [EchoServer::start(Some("hello from one")), EchoServer::start(Some("hello from two"))]
}

fn reached(address: SocketAddr) -> BTreeSet<String> {
    (0..6).map(|_| who_answers(address)).collect()
}

#[test]
fn flags_make_a_load_balancer() {
    let (servers, address) = (servers(), free_address());
    let both = servers.each_ref().map(|server| server.address.to_string()).join(",");
    let tcplb = Tcplb::standalone(&["--listen", &address.to_string(), "--backend", &both]).ready();
    assert_eq!(reached(address), ["one", "two"].map(String::from).into());
    assert_eq!(tcplb.snapshot()["loadBalancers"][0]["name"], "default/cli");
    assert_eq!(tcplb.snapshot()["loadBalancers"][0]["applied"]["balancing"]["algorithm"], "RoundRobin");
}

#[test]
fn the_environment_makes_a_load_balancer() {
    let (servers, address) = (servers(), free_address());
    let both = servers.each_ref().map(|server| server.address.to_string()).join(", ");
    let tcplb = Tcplb::standalone_with(&[], |command| {
        command.env("LISTEN", address.to_string()).env("BACKENDS", &both).env("LB_MODE", "sticky").env("POOL_SIZE", "2")
    })
    .ready();
    assert_eq!(reached(address).len(), 1, "sticky");
    assert_eq!(tcplb.snapshot()["loadBalancers"][0]["applied"]["balancing"]["algorithm"], "Maglev");
    wait_until("two connections to each backend are opened ahead", || {
        tcplb.metric("tcplb_endpoint_preconnected", &[]) == 4.0
    });
}

#[test]
fn a_mistake_in_the_environment_names_the_variable() {
    let output = program()
        .args(["standalone", "--admin", "off"])
        .env("LISTEN", ":4000")
        .env("BACKENDS", "127.0.0.1:5001")
        .env("LB_MODE", "fair")
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(1) && error.contains("LB_MODE: `fair`") && error.contains("sticky"),
        "{error}"
    );
}

#[test]
fn flags_files_and_folders_are_served_together() {
    let (servers, folder, one_file) = (servers(), Folder::new(), Folder::new());
    let [flags, first, second, third] = std::array::from_fn(|_| free_address());
    let [one, two] = servers.each_ref().map(|server| server.address);
    folder.write("first.yaml", &manifest("first", first.port(), &[one], ""));
    folder.write("second.yml", &manifest("second", second.port(), &[two], ""));
    folder.write("notes.txt", "not: [a manifest");
    let json = serde_json::json!({
        "apiVersion": "tcplb.io/v1alpha1", "kind": "TcpLoadBalancer", "metadata": {"name": "third"},
        "spec": {
            "listeners": [{"port": third.port(), "address": "127.0.0.1"}],
            "backends": [{"service": {"name": "echo", "port": "tcp"}}],
        },
    });
    let third_file = one_file.write("third.json", &json.to_string());
    let service = one_file.write(
        "service.yaml",
        &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: echo}}\nspec:\n  ports: [{{name: tcp, port: 7}}]\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: echo-1\n  \
             labels: {{kubernetes.io/service-name: echo}}\naddressType: IPv4\n\
             ports: [{{name: tcp, port: {}, protocol: TCP}}]\nendpoints: [{{addresses: [\"{}\"]}}]\n",
            two.port(),
            two.ip()
        ),
    );
    let tcplb = Tcplb::standalone(&[
        folder.path(),
        &third_file,
        &service,
        "--listen",
        &flags.to_string(),
        "--backend",
        &one.to_string(),
    ])
    .ready();
    for (address, expected) in [(flags, "one"), (first, "one"), (second, "two"), (third, "two")] {
        assert_eq!(reached(address), BTreeSet::from([expected.to_owned()]), "{address}");
    }
    assert_eq!(tcplb.metric("tcplb_configuration_problems", &[]), 0.0);
}

#[test]
fn without_an_address_every_address_of_both_families_is_listened_on() {
    let (servers, address) = (servers(), free_address());
    let port = address.port();
    let listen = format!(":{port}");
    let _tcplb = Tcplb::standalone(&["--listen", &listen, "--backend", &servers[0].address.to_string()]).ready();
    let mut addresses: Vec<SocketAddr> = vec![address, ([127, 0, 0, 2], port).into()];
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        addresses.push((std::net::Ipv6Addr::LOCALHOST, port).into());
    } else {
        crate::harness::skip("this host has no IPv6");
    }
    for address in addresses {
        assert_eq!(who_answers(address), "one", "{address}");
    }
}

#[test]
fn a_certificate_given_with_flags_is_presented() {
    let (folder, servers, address) = (Folder::new(), servers(), free_address());
    assert_eq!(run(&["cert", "--out", folder.path(), "db.example.test"]).0, 0);
    let (certificate, key) = (folder.join("db.example.test.crt"), folder.join("db.example.test.key"));
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let backend = servers[0].address.to_string();
    let listen = address.to_string();
    let simple = ["--listen", &listen, "--backend", &backend, "--tls-certificate", certificate];
    let (code, _, error) = run(&[&["standalone"][..], &simple].concat());
    assert!(code == 2 && error.contains("--tls-key"), "{error}");

    let _tcplb = Tcplb::standalone(&[&simple[..], &["--tls-key", key]].concat()).ready();
    let mut client = tls_client::connect(address, "db.example.test", &[certificate]).unwrap();
    assert_eq!(client.line().unwrap(), "hello from one");
}

#[test]
fn the_admin_pages_can_be_off() {
    let (servers, address) = (servers(), free_address());
    let mut command = program();
    command.args(["standalone", "--admin", "off", "--listen", &address.to_string()]);
    command.args(["--backend", &servers[0].address.to_string()]);
    let mut tcplb = Tcplb::spawn(command, address);
    wait_until("it serves", || visit_named(address));
    assert!(!tcplb.seen.iter().any(|line| line.contains("admin")), "{:?}", tcplb.seen);
    tcplb.signal("TERM");
    assert_eq!(tcplb.ended().0.code(), Some(0));
    assert!(!tcplb.seen.iter().any(|line| line.contains("admin pages")), "{:?}", tcplb.seen);
}

fn visit_named(address: SocketAddr) -> bool {
    Client::try_connect(address).is_ok_and(|mut client| client.line().is_ok_and(|line| line == "hello from one"))
}

#[test]
fn as_many_workers_serve_as_are_asked_for() {
    let (server, address) = (EchoServer::start(None), free_address());
    let backend = server.address.to_string();
    let tcplb = Tcplb::standalone(&["--workers", "3", "--listen", &address.to_string(), "--backend", &backend]).ready();
    let mut clients: Vec<_> = (0..30).map(|_| Client::connect(address)).collect();
    for client in &mut clients {
        client.echo("there and back").unwrap();
    }
    let metrics = tcplb.metrics();
    let by_worker: Vec<f64> = (0..3)
        .map(|worker| {
            crate::harness::metric(&metrics, "tcplb_worker_connections_active", &[&format!("worker=\"{worker}\"")])
        })
        .collect();
    assert_eq!(by_worker.iter().sum::<f64>(), 30.0, "{by_worker:?}");
    assert!(by_worker.iter().all(|open| (5.0..=15.0).contains(open)), "spread evenly: {by_worker:?}");
    assert!(!metrics.contains("worker=\"3\""), "{metrics}");
    let (code, _, error) = run(&["standalone", "--workers", "0", "--listen", ":4000", "--backend", &backend]);
    assert!(code == 2 && error.contains("--workers"), "{error}");
}

#[test]
fn the_admin_address_answers_what_the_manual_lists() {
    let (server, address) = (EchoServer::start(None), free_address());
    let backend = server.address.to_string();
    let tcplb = Tcplb::standalone(&["--listen", &address.to_string(), "--backend", &backend]).ready();
    visit(address).unwrap();
    for path in ["/", "/metrics", "/livez", "/readyz", "/lb-ready", "/snapshot"] {
        assert_eq!(http_get(tcplb.admin, path).map(|(status, _)| status), Some(200), "{path}");
    }
    assert_eq!(http_get(tcplb.admin, "/nowhere").map(|(status, _)| status), Some(404));
    // The log comes last.
    wait_until("the visit is accounted for", || tcplb.metric("tcplb_access_log_events_total", &["logged"]) == 1.0);
    let metrics = tcplb.metrics();
    let sum = |name: &str, labels: &[&str]| crate::harness::metric(&metrics, name, labels);
    assert_eq!(sum("tcplb_connections_accepted_total", &[]), 1.0);
    assert_eq!(sum("tcplb_connections_closed_total", &["reason=\"complete\""]), 1.0);
    assert_eq!(sum("tcplb_relayed_bytes_total", &["direction=\"to_backend\""]), 15.0);
    assert_eq!(sum("tcplb_relayed_bytes_total", &["direction=\"to_client\""]), 15.0);
    assert_eq!(sum("tcplb_connect_duration_seconds_count", &[]), 1.0);
    assert_eq!(sum("tcplb_connection_duration_seconds_count", &[]), 1.0);
    assert_eq!(sum("tcplb_endpoint_usable", &[&format!("endpoint_address=\"{backend}\"")]), 1.0);
    assert_eq!(sum("tcplb_configuration_generation", &[]), 1.0);
    assert_eq!(sum("tcplb_access_log_events_total", &["result=\"logged\""]), 1.0);
    assert_eq!(sum("tcplb_access_log_events_total", &["result=\"dropped\""]), 0.0);
}

#[test]
fn a_manifest_may_come_through_a_pipe() {
    let (servers, folder, address, admin) = (servers(), Folder::new(), free_address(), free_address());
    let file = folder.write("shop.yaml", &manifest("shop", address.port(), &[servers[0].address], ""));
    let mut command = std::process::Command::new("sh");
    let program = env!("CARGO_BIN_EXE_tcplb");
    command.args(["-c", &format!("cat {file} | exec {program} standalone --admin {admin} /dev/stdin")]);
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let tcplb = Tcplb::spawn(command, admin).ready();
    assert_eq!(who_answers(address), "one");
    // The shell is killed on drop; its child processes are not.
    let group = format!("-{}", tcplb.pid());
    std::process::Command::new("kill").args(["-TERM", "--", &group]).status().unwrap();
    wait_until("it has ended", || std::net::TcpStream::connect(address).is_err());
}
