//! Backends by DNS name.

use std::{collections::BTreeSet, fs, net::SocketAddr, process::Command};

use crate::harness::{
    Backend, EchoServer, Folder, Tcplb, free_address, is_root, manifest, program, skip, visit, wait_until, who_answers,
};

#[test]
fn a_name_is_resolved_and_an_unresolvable_one_leaves_the_others_serving() {
    let (server, folder, address) = (EchoServer::start(None), Folder::new(), free_address());
    let port = server.address.port();
    let text = manifest("named", address.port(), &[server.address], "")
        .replace(&server.address.to_string(), &format!("localhost:{port}\", \"nonexistent.invalid:{port}"));
    let mut tcplb = Tcplb::standalone(&[&folder.write("named.yaml", &text)]).ready();
    // The server has no IPv6 address, which `localhost` may also resolve to: another attempt finds it.
    for _ in 0..4 {
        visit(address).unwrap();
    }
    let line = tcplb.logged("`nonexistent.invalid`");
    assert!(line.contains("spec.backends[0].addresses[1]") && line.contains("default/named"), "{line}");
    assert_eq!(tcplb.metric("tcplb_configuration_problems", &["warning"]), 1.0);
}

/// Runs the program with a replaced `/etc/hosts`.
fn with_hosts(hosts: &str, arguments: &[&str]) -> Tcplb {
    let admin = free_address();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\"", hosts]);
    command.args([env!("CARGO_BIN_EXE_tcplb"), "standalone", "--admin", &admin.to_string()]).args(arguments);
    Tcplb::spawn(command, admin)
}

#[test]
fn an_added_address_is_used_and_a_removed_one_leaves_after_several_answers_without_it() {
    if !is_root() {
        return skip("only root gives a process another /etc/hosts");
    }
    // All addresses of a name use the same port.
    let one = free_address();
    let two = SocketAddr::new([127, 0, 0, 2].into(), one.port());
    let _servers = [("one", one), ("two", two)].map(|(name, address)| {
        Backend::start(program().args(["backend", "--listen", &address.to_string(), "--name", name]), address)
    });
    let (folder, address) = (Folder::new(), free_address());
    let hosts = folder.write("hosts", "127.0.0.1 servers.test\n");
    let text = manifest("named", address.port(), &[one], "")
        .replace(&format!("\"{one}\"]"), &format!("\"servers.test:{}\"], resolveInterval: 1s", one.port()));
    let mut tcplb = with_hosts(&hosts, &[&folder.write("named.yaml", &text)]).ready();
    assert_eq!((who_answers(address), who_answers(address)), ("one".into(), "one".into()));

    fs::write(&hosts, "127.0.0.1 servers.test\n127.0.0.2 servers.test\n").unwrap();
    let mut reached = BTreeSet::new();
    wait_until("the added address is used", || {
        reached.insert(who_answers(address));
        reached.len() == 2
    });
    tcplb.logged("addresses of a DNS name changed");
    tcplb.forget_log();

    let removed = std::time::Instant::now();
    fs::write(&hosts, "127.0.0.2 servers.test\n").unwrap();
    tcplb.logged("addresses of a DNS name changed");
    // Three answers take at least two intervals of a second, less their jitter of a tenth.
    assert!(removed.elapsed().as_millis() >= 1800, "gone after {:?}", removed.elapsed());
    wait_until("the removed address is no longer used", || (0..4).all(|_| who_answers(address) == "two"));

    tcplb.forget_log();
    fs::write(&hosts, "\n").unwrap();
    let line = tcplb.logged("`servers.test`");
    assert!(line.contains("its last known addresses are used") && line.contains("spec.backends[0]"), "{line}");
    assert_eq!(who_answers(address), "two");
    fs::write(&hosts, "127.0.0.1 servers.test\n").unwrap();
    tcplb.logged("DNS lookup succeeds again");
}
