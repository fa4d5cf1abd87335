//! Faults of what surrounds the process.

use std::{fs, os::unix::fs::PermissionsExt};

use crate::{
    harness::{Client, EchoServer, Folder, Tcplb, free_address, manifest, skip, visit, wait_until},
    mistakes::without_capability,
};

#[test]
fn a_thousand_hangups_do_no_harm() {
    let (server, folder, address) = (EchoServer::start(None), Folder::new(), free_address());
    let file = folder.write("shop.yaml", &manifest("shop", address.port(), &[server.address], ""));
    let mut tcplb = Tcplb::standalone(&[&file]).ready();
    let mut open = Client::connect(address);
    open.echo("before").unwrap();
    let pid = tcplb.pid().to_string();
    for _ in 0..100 {
        // Ten in one command: a process each would take longer than the signals.
        let mut kill = std::process::Command::new("kill");
        kill.arg("-HUP").args([pid.as_str(); 10]);
        assert!(kill.status().unwrap().success());
        visit(address).unwrap();
    }
    open.echo("after").unwrap();
    assert_eq!(tcplb.metric("tcplb_configuration_generation", &[]), 1.0, "nothing has changed");
    let late = free_address();
    folder.write("shop.yaml", &manifest("shop", late.port(), &[server.address], ""));
    wait_until("changes are still followed", || visit(late).is_ok());
    assert!(tcplb.is_running());
}

#[test]
fn a_folder_that_becomes_unreadable_keeps_what_it_declared() {
    let (server, folder, address) = (EchoServer::start(None), Folder::new(), free_address());
    let manifests = folder.join("manifests");
    fs::create_dir(&manifests).unwrap();
    fs::write(manifests.join("shop.yaml"), manifest("shop", address.port(), &[server.address], "")).unwrap();
    let admin = free_address();
    let mut command = without_capability("dac_override,dac_read_search");
    command.args(["standalone", "--admin", &admin.to_string(), manifests.to_str().unwrap()]);
    let mut tcplb = Tcplb::spawn(command, admin).ready();
    let mut open = Client::connect(address);

    let set_mode = |mode| fs::set_permissions(&manifests, fs::Permissions::from_mode(mode)).unwrap();
    set_mode(0o000);
    tcplb.signal("HUP");
    let line = tcplb.logged("permission denied");
    assert!(line.contains(manifests.to_str().unwrap()), "{line}");
    visit(address).unwrap();
    open.echo("still there").unwrap();
    set_mode(0o755);
    tcplb.signal("HUP");
    tcplb.logged("no longer");
    let line = tcplb.logged("all is well again");
    assert!(line.contains("default/shop"), "{line}");
    visit(address).unwrap();
    assert_eq!(tcplb.metric("tcplb_configuration_problems", &[]), 0.0);
}

#[test]
fn without_a_watcher_changes_are_read_on_a_hangup() {
    let (server, folder) = (EchoServer::start(None), Folder::new());
    let (first, second, admin) = (free_address(), free_address(), free_address());
    let file = folder.write("shop.yaml", &manifest("shop", first.port(), &[server.address], ""));
    // A user name space in which nobody may watch files.
    let mut command = std::process::Command::new("unshare");
    let script = "echo 0 > /proc/sys/user/max_inotify_instances && exec \"$0\" \"$@\"";
    command.args(["--user", "--map-root-user", "--", "sh", "-c", script, env!("CARGO_BIN_EXE_tcplb")]);
    let mut probe = std::process::Command::new("unshare");
    probe.args(["--user", "--map-root-user", "--", "sh", "-c", "echo 0 > /proc/sys/user/max_inotify_instances"]);
    if !probe.status().is_ok_and(|status| status.success()) {
        return skip("no user name spaces, in which nobody may watch files");
    }
    command.args(["standalone", "--admin", &admin.to_string(), &file]);
    let mut tcplb = Tcplb::spawn(command, admin).ready();
    tcplb.logged("files are not watched: send SIGHUP after changing them");
    folder.write("shop.yaml", &manifest("shop", second.port(), &[server.address], ""));
    tcplb.signal("HUP");
    wait_until("the change is read", || visit(second).is_ok());
    wait_until("the old port is given up", || visit(first).is_err());
}
