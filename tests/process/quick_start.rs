//! The first commands of a new user.

use std::{collections::BTreeSet, fs, net::TcpListener};

use serde_json::Value;

use crate::{
    harness::{
        Client, EchoServer, Folder, Tcplb, free_address, http_get, program, run, visit, wait_until, who_answers,
    },
    tls_client,
};

fn demo(port: u16) -> Tcplb {
    let admin = free_address();
    let mut command = program();
    command.args(["demo", "--port", &port.to_string(), "--admin", &admin.to_string()]);
    Tcplb::spawn(command, admin)
}

#[test]
fn the_demo_says_what_to_type_balances_and_ends_with_a_summary_on_ctrl_c() {
    let address = free_address();
    let mut demo = demo(address.port());
    demo.printed(&format!("nc 127.0.0.1 {}", address.port()));
    demo.printed(&format!("http://{}/", demo.admin));
    let names: BTreeSet<String> = (0..3).map(|_| who_answers(address)).collect();
    assert_eq!(names, ["blue", "green", "red"].map(String::from).into());
    let (status, page) = http_get(demo.admin, "/").unwrap();
    assert!(status == 200 && page.contains("default/demo"), "{status} {page}");
    let mut open = Client::connect(address);
    open.backend();

    demo.signal("INT");
    demo.printed("shutting down");
    open.echo("still there").unwrap();
    open.finish().unwrap();
    let (status, output) = demo.ended();
    assert_eq!(status.code(), Some(0), "{output}");
    assert!(output.contains("4 connections"), "{output}");
}

#[test]
fn the_demo_shows_its_backends_in_the_order_of_their_names() {
    let address = free_address();
    let demo = demo(address.port());
    demo.printed("red");
    let output = demo.output();
    let place = |name: &str| output.find(&format!("{name} ")).unwrap_or_else(|| panic!("{name}: {output}"));
    assert!(place("blue") < place("green") && place("green") < place("red"), "{output}");
}

#[test]
fn the_demo_listens_on_the_address_that_it_is_given() {
    let (address, admin) = (free_address(), free_address());
    let other = std::net::SocketAddr::from(([127, 7, 7, 7], address.port()));
    let (flag, port) = (other.ip().to_string(), other.port().to_string());
    let mut command = program();
    command.args(["demo", "--address", &flag, "--port", &port, "--admin", &admin.to_string()]);
    let demo = Tcplb::spawn(command, admin).ready();
    assert!(["blue", "green", "red"].contains(&who_answers(other).as_str()));
    assert!(visit(address).is_err(), "127.0.0.1 is not listened on");
    demo.printed(&format!("A load balancer on {other} with"));
    demo.printed(&format!("nc {flag} {port}"));
}

#[test]
fn the_demo_says_which_of_its_ports_is_in_use_and_how_to_choose_another() {
    let held = TcpListener::bind(free_address()).unwrap();
    let taken = held.local_addr().unwrap();
    let free = free_address();
    let (code, _, error) = run(&["demo", "--port", &taken.port().to_string(), "--admin", &free.to_string()]);
    assert_eq!(code, 1, "{error}");
    assert!(error.contains(&format!("port {} is in use", taken.port())) && error.contains("--port"), "{error}");

    let (code, _, error) = run(&["demo", "--port", &free.port().to_string(), "--admin", &taken.to_string()]);
    assert_eq!(code, 1, "{error}");
    assert!(error.contains(&format!("port {} is in use", taken.port())) && error.contains("--admin"), "{error}");
}

#[test]
fn a_test_backend_sends_name_and_greeting_then_echoes() {
    let address = free_address();
    let mut command = program();
    command.args(["backend", "--listen", &address.to_string(), "--name", "blue", "--greeting", "220 ready"]);
    command.args(["--delay", "100ms"]);
    let mut backend = Tcplb::spawn(command, address);
    backend.logged("backend is listening");
    let mut client = Client::connect(address);
    assert_eq!((client.line().unwrap(), client.line().unwrap()), ("hello from blue".into(), "220 ready".into()));
    let asked = std::time::Instant::now();
    client.echo("there and back").unwrap();
    assert!(asked.elapsed().as_millis() >= 100, "the delay is kept: {:?}", asked.elapsed());
    client.finish().unwrap();

    let (code, _, error) = run(&["backend", "--listen", &address.to_string()]);
    assert_eq!(code, 1, "{error}");
    assert!(error.contains(&address.to_string()) && error.contains("choose another port"), "{error}");

    backend.signal("TERM");
    assert_eq!(backend.ended().0.code(), Some(0));
}

#[test]
fn a_written_certificate_is_served_and_is_not_overwritten_by_chance() {
    let (folder, backend, address) = (Folder::new(), EchoServer::start(None), free_address());
    let (code, output, error) = run(&["cert", "--out", folder.path(), "shop.example.test", "127.0.0.1"]);
    assert_eq!(code, 0, "{error}");
    let [certificate, key] = output.lines().collect::<Vec<_>>()[..] else { panic!("two files: {output}") };
    let before = fs::read(certificate).unwrap();

    let (code, _, error) = run(&["cert", "--out", folder.path(), "shop.example.test"]);
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("shop.example.test") && error.contains("--force"), "{error}");
    assert_eq!(fs::read(certificate).unwrap(), before);

    let _tcplb = Tcplb::standalone(&[
        "--listen",
        &address.to_string(),
        "--backend",
        &backend.address.to_string(),
        "--tls-certificate",
        certificate,
        "--tls-key",
        key,
    ])
    .ready();
    let mut client = tls_client::connect(address, "shop.example.test", &[certificate]).unwrap();
    client.echo("there and back").unwrap();
}

#[test]
fn a_certificate_printed_as_a_secret_is_served() {
    let (folder, backend, address) = (Folder::new(), EchoServer::start(None), free_address());
    let (code, secret, error) = run(&["cert", "--secret", "shop-tls", "shop.example.test"]);
    assert_eq!(code, 0, "{error}");
    folder.write("secret.yaml", &secret);
    folder.write(
        "shop.yaml",
        &format!(
            "apiVersion: tcplb.io/v1alpha1\nkind: TcpLoadBalancer\nmetadata: {{name: shop}}\nspec:\n  listeners:\n  \
             - {{port: {}, address: 127.0.0.1, tls: {{certificateRefs: [{{name: shop-tls}}]}}}}\n  \
             backends: [{{addresses: [\"{}\"]}}]\n",
            address.port(),
            backend.address
        ),
    );
    let tcplb = Tcplb::standalone(&[folder.path()]).ready();
    tls_client::presented(address, "shop.example.test").unwrap();
    let snapshot = tcplb.snapshot().to_string();
    assert!(snapshot.contains("shop.example.test") && !snapshot.contains("PRIVATE"), "{snapshot}");
}

#[test]
fn a_converted_golb_configuration_passes_the_check_and_runs() {
    let (folder, address) = (Folder::new(), free_address());
    let backends = [EchoServer::start(Some("hello from one")), EchoServer::start(Some("hello from two"))];
    let config = serde_json::json!({
        "listen_addr": address.to_string(),
        "algorithm": "round_robin",
        "health_check_interval": 10,
        "request_timeout": 5,
        "max_concurrent_connections": 2,
        "max_connections_per_minute": 600,
        "ip_filter_mode": "allow",
        "ip_filter_list": ["127.0.0.1"],
        "servers": backends.each_ref().map(|backend| serde_json::json!({"address": backend.address.to_string()})),
    });
    let file = folder.write("config.json", &config.to_string());
    let (code, manifest, warnings) = run(&["convert", "golb", &file]);
    assert_eq!((code, warnings.as_str()), (0, ""), "{manifest}");
    let file = folder.write("golb.yaml", &manifest);
    let (code, verdict, _) = run(&["check", &file]);
    assert_eq!(code, 0, "{verdict}");

    let tcplb = Tcplb::standalone(&[&file]).ready();
    let [mut first, mut second] = [Client::connect(address), Client::connect(address)];
    assert_eq!(BTreeSet::from([first.backend(), second.backend()]), ["one", "two"].map(String::from).into());
    let third = Client::try_connect(address).and_then(|mut client| client.line());
    assert!(!third.is_ok_and(|line| !line.is_empty()), "max_concurrent_connections is kept");
    wait_until("the refusal is counted", || tcplb.metric("tcplb_connections_closed_total", &["source_full"]) == 1.0);
}

#[test]
fn unsupported_golb_settings_are_warnings_and_invalid_ones_errors() {
    let folder = Folder::new();
    let file = folder.write("config.json", r#"{"listen_addr": ":4000", "servers": [{"address": "127.0.0.1:1"}]}"#);
    let (code, manifest, warnings) = run(&["convert", "golb", &file]);
    assert_eq!(code, 0, "{warnings}");
    assert!(warnings.lines().count() > 0 && warnings.lines().all(|line| line.starts_with("warning: ")), "{warnings}");
    assert!(manifest.contains("kind: TcpLoadBalancer"), "{manifest}");

    let file = folder.write("config.json", "{");
    let (code, manifest, error) = run(&["convert", "golb", &file]);
    assert_eq!((code, manifest.as_str()), (1, ""), "{error}");
    assert!(error.contains(&file), "{error}");
    let (code, _, error) = run(&["convert", "golb", "/nowhere/config.json"]);
    assert!(code == 1 && error.contains("/nowhere/config.json"), "{code} {error}");
}

#[test]
fn the_custom_resource_definition_is_printed() {
    let (code, output, error) = run(&["crd"]);
    assert_eq!(code, 0, "{error}");
    let crd: Value = serde_saphyr::from_str(&output).unwrap();
    assert_eq!(crd["kind"], "CustomResourceDefinition");
    assert_eq!(crd["metadata"]["name"], "tcploadbalancers.tcplb.io");
    assert_eq!(crd["spec"]["names"]["kind"], "TcpLoadBalancer");
    assert_eq!(crd["spec"]["names"]["shortNames"][0], "tcplb");
}

#[test]
fn every_command_explains_itself_and_all_its_options() {
    let (code, output, _) = run(&["--help"]);
    assert_eq!(code, 0);
    for command in ["standalone", "demo", "check", "kubectl", "completion", "man", "crd", "convert", "cert", "backend"]
    {
        assert!(output.contains(&format!("\n  {command} ")), "{command}: {output}");
        let (code, help, _) = run(&[command, "-h"]);
        assert_eq!(code, 0, "{command}");
        assert!(help.lines().next().is_some_and(|about| about.len() > 20), "{help}");
        let options = help.split_once("Options:").map_or("", |(_, options)| options);
        for option in options.lines().filter(|line| line.trim_start().starts_with("--")) {
            let described = option.trim().split_once("  ").is_some_and(|(_, text)| !text.trim().starts_with('['));
            assert!(described, "{command}: `{option}` has no description");
        }
    }
    let (code, _, error) = run(&["demo", "--port", "0"]);
    assert!(code == 2 && error.contains("--port"), "{code} {error}");
    let (code, _, error) = run(&["standalone", "--lisen", ":4000"]);
    assert!(code == 2 && error.contains("--listen"), "{code} {error}");
}

/// Man pages and completion scripts are generated from the same arguments as the help.
#[test]
fn completion_scripts_and_man_pages_have_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (code, script, error) = run(&["completion", shell]);
        assert_eq!((code, error.as_str()), (0, ""), "{shell}");
        assert!(script.contains("standalone") && script.contains("doctor"), "{shell}: {script}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    assert_eq!(run(&["man", "--out", path]), (0, String::new(), String::new()));
    for (page, part) in [("tcplb.1", "tcplb\\-standalone(1)"), ("kubectl-tcplb-status.1", "all\\-namespaces")] {
        let text = fs::read_to_string(folder.path().join(page)).unwrap_or_default();
        assert!(text.contains(part), "{page}: {text}");
    }
    let (code, _, error) = run(&["man", "--out", "/does/not/exist"]);
    assert!(code == 1 && error.contains("create the folder"), "{code} {error}");
}

/// The name of the program selects the commands.
#[test]
fn as_a_plugin_of_kubectl_the_program_has_its_commands_only() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, arguments: &[&str]| {
        let path = folder.path().join(name);
        if !path.exists() {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_tcplb"), &path).unwrap();
        }
        let output = std::process::Command::new(path).args(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, help, _) = run("kubectl-tcplb", &["--help"]);
    assert_eq!(code, Some(0));
    assert!(help.contains("kubectl tcplb") && help.contains("status") && !help.contains("standalone"), "{help}");
    assert_eq!(run("kubectl_complete-tcplb", &["status", "-o", "w"]).1, "wide\n:4\n");
    assert_eq!(run("kubectl_complete-tcplb", &["explain", "TcplbDrain"]).1, "TcplbDrainStuck\n:4\n");
    let unreadable = ["status", "--kubeconfig", "/nonexistent", ""];
    assert_eq!(run("kubectl_complete-tcplb", &unreadable), (Some(0), ":4\n".into(), String::new()));
    let (code, _, error) = run("kubectl-tcplb", &["status", "--kubeconfig", "/does/not/exist"]);
    assert!(code == Some(1) && error.contains("--kubeconfig /does/not/exist"), "{code:?} {error}");
    assert_eq!(error.matches("No such file or directory").count(), 1, "{error}");
    let (code, _, error) = run("kubectl-tcplb", &["doctor", "--kubeconfig", "/does/not/exist"]);
    assert!(code == Some(2) && error.contains("--kubeconfig /does/not/exist"), "{code:?} {error}");
}

#[test]
fn nothing_to_serve_is_an_error_that_says_what_to_write() {
    let (code, _, error) = run(&["standalone"]);
    assert!(code == 1 && error.contains("--listen") && error.contains("--backend"), "{code} {error}");
    let (code, _, error) = run(&["standalone", "--listen", ":4000"]);
    assert!(code == 1 && error.contains("--backend"), "{code} {error}");
}

#[test]
fn the_admin_address_in_use_is_an_error_that_names_the_flag() {
    let held = TcpListener::bind(free_address()).unwrap();
    let (backend, address) = (EchoServer::start(None), free_address());
    let admin = held.local_addr().unwrap();
    let (code, _, error) = run(&[
        "standalone",
        "--admin",
        &admin.to_string(),
        "--listen",
        &address.to_string(),
        "--backend",
        &backend.address.to_string(),
    ]);
    assert!(code == 1 && error.contains(&format!("port {}", admin.port())) && error.contains("--admin"), "{error}");
    assert!(visit(address).is_err());
}
