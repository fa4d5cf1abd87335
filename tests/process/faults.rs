//! Failures in the environment of the process.

use std::{
    fs,
    io::Write,
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use socket2::{Domain, Socket, Type};
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    harness::{Client, EchoServer, Folder, Tcplb, free_address, http_get, manifest, program, skip, visit, wait_until},
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
        // Ten signals in one command: separate processes would take longer than the signals.
        let mut kill = Command::new("kill");
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
    tcplb.logged("resolved: ");
    let line = tcplb.logged("all problems are resolved");
    assert!(line.contains("default/shop"), "{line}");
    visit(address).unwrap();
    wait_until("no problem is counted", || tcplb.metric("tcplb_configuration_problems", &[]) == 0.0);
}

#[test]
fn files_that_cannot_be_read_for_want_of_descriptors_are_read_again() {
    let (server, folder) = (EchoServer::start(None), Folder::new());
    let [first, second] = std::array::from_fn(|_| free_address());
    let file = folder.write("shop.yaml", &manifest("shop", first.port(), &[server.address], ""));
    let mut tcplb = Tcplb::standalone(&[&file]).ready();
    let mut open = Client::connect(first);
    open.echo("before").unwrap();

    let pid = Pid::from_raw(tcplb.pid());
    // The hard limit stays: the program has raised its soft limit to it.
    let hard = getrlimit(Resource::Nofile).maximum;
    let enough = prlimit(pid, Resource::Nofile, Rlimit { current: Some(0), maximum: hard }).unwrap();
    folder.write("shop.yaml", &manifest("shop", second.port(), &[server.address], ""));
    let line = tcplb.logged("Too many open files");
    assert!(line.contains(&file) && line.contains("it will be retried; the previous content stays in use"), "{line}");
    open.echo("meanwhile").unwrap();
    prlimit(pid, Resource::Nofile, enough).unwrap();
    wait_until("the change is read", || visit(second).is_ok());
    tcplb.logged("resolved: ");
}

#[test]
fn without_a_watcher_changes_are_read_on_a_hangup() {
    let (server, folder) = (EchoServer::start(None), Folder::new());
    let (first, second, admin) = (free_address(), free_address(), free_address());
    let file = folder.write("shop.yaml", &manifest("shop", first.port(), &[server.address], ""));
    // A user namespace in which file watches are not available.
    let mut command = Command::new("unshare");
    let script = "echo 0 > /proc/sys/user/max_inotify_instances && exec \"$0\" \"$@\"";
    command.args(["--user", "--map-root-user", "--", "sh", "-c", script, env!("CARGO_BIN_EXE_tcplb")]);
    let mut probe = Command::new("unshare");
    probe.args(["--user", "--map-root-user", "--", "sh", "-c", "echo 0 > /proc/sys/user/max_inotify_instances"]);
    if !probe.status().is_ok_and(|status| status.success()) {
        return skip("no user name spaces, in which nobody may watch files");
    }
    command.args(["standalone", "--admin", &admin.to_string(), &file]);
    let mut tcplb = Tcplb::spawn(command, admin).ready();
    tcplb.logged("cannot watch files: send SIGHUP after changing them, or wait");
    folder.write("shop.yaml", &manifest("shop", second.port(), &[server.address], ""));
    tcplb.signal("HUP");
    wait_until("the change is read", || visit(second).is_ok());
    wait_until("the old port is given up", || visit(first).is_err());
}

/// Runs the program in a shell that prepares something and then executes it.
fn in_shell(prepare: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{prepare} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_tcplb")]).args(arguments);
    command
}

/// A full pipe, with the end that is not read.
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let size = rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
    writer.write_all(&vec![b'.'; size]).unwrap();
    (reader, writer)
}

#[test]
fn a_second_signal_ends_the_process_with_unread_outputs() {
    let mut usual = None;
    for (blocked_output, blocked_log) in [(false, false), (true, false), (false, true), (true, true)] {
        let (server, folder) = (EchoServer::start(None), Folder::new());
        let [address, admin] = std::array::from_fn(|_| free_address());
        let drain = "drain: {shutdown: {after: 1h}}";
        let file = folder.write("shop.yaml", &manifest("shop", address.port(), &[server.address], drain));
        let mut command = program();
        command.args(["standalone", "--admin", &admin.to_string(), "--shutdown-delay", "1h", &file]);
        let (output, log) = (full_pipe(), full_pipe());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if blocked_output {
            command.stdout(output.1);
        }
        if blocked_log {
            command.stderr(log.1);
        }
        let mut child = command.spawn().unwrap();
        let answers = |path: &str, status: u16| http_get(admin, path).is_some_and(|(answered, _)| answered == status);
        wait_until("it serves", || answers("/readyz", 200));
        (0..20).for_each(|_| visit(address).unwrap());
        let _open = Client::connect(address);
        let kill = || assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
        kill();
        wait_until("/lb-ready fails", || answers("/lb-ready", 503));
        let begun = std::time::Instant::now();
        kill();
        let mut status = None;
        wait_until("it ends", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        assert_eq!(status.unwrap().code(), Some(1));
        let took = begun.elapsed();
        // The first process shows how long an end without unread outputs takes.
        let most = std::time::Duration::from_secs(4) + 10 * *usual.get_or_insert(took);
        assert!(took < most, "{took:?} (output {blocked_output}, log {blocked_log})");
    }
}

#[test]
fn a_process_that_cannot_start_ends_with_an_unread_log() {
    for format in ["text", "json"] {
        let (_reader, writer) = full_pipe();
        let mut command = program();
        command.args(["standalone", "--admin", "off", "--log-format", format, "/nonexistent/manifest.yaml"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer).spawn().unwrap();
        let mut status = None;
        wait_until("it ends", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        assert_eq!(status.unwrap().code(), Some(1), "{format}");
    }
}

#[test]
fn an_unread_log_stops_nothing() {
    for errors in ["/dev/full", "closed"] {
        let (server, folder) = (EchoServer::start(None), Folder::new());
        let [first, second, admin] = std::array::from_fn(|_| free_address());
        let file = folder.write("shop.yaml", &manifest("shop", first.port(), &[server.address], ""));
        let mut command = in_shell("true", &["standalone", "--admin", &admin.to_string(), &file]);
        let (reader, writer) = std::io::pipe().unwrap();
        match errors {
            "closed" => command.stderr(writer),
            full => command.stderr(fs::File::options().write(true).open(full).unwrap()),
        };
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        drop((command, reader));
        wait_until("it serves", || visit(first).is_ok());
        folder.write("shop.yaml", &manifest("shop", second.port(), &[server.address], ""));
        wait_until("a change is still followed", || visit(second).is_ok());
        fs::write(&file, "kind: [").unwrap();
        let broken = || {
            http_get(admin, "/metrics")
                .map_or(0.0, |(_, text)| crate::harness::metric(&text, "tcplb_configuration_problems", &["refused"]))
        };
        wait_until("a mistake is noticed", || broken() >= 1.0);
        visit(second).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn a_log_that_is_never_taken_neither_stops_the_process_nor_keeps_it_from_ending() {
    let (server, address, admin) = (EchoServer::start(None), free_address(), free_address());
    let (_reader, mut writer) = std::io::pipe().unwrap();
    // The size of a pipe: the next writer blocks forever.
    writer.write_all(&[b'.'; 64 * 1024]).unwrap();
    let mut child = program()
        .args(["standalone", "--admin", &admin.to_string(), "--listen", &address.to_string()])
        .args(["--backend", &server.address.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(writer)
        .spawn()
        .unwrap();
    wait_until("it serves", || visit(address).is_ok());
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    let mut status = None;
    wait_until("it ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(0));
}

#[test]
fn too_low_a_limit_of_open_files_is_named() {
    let standalone = ["standalone", "--listen", "127.0.0.1:1", "--backend", "127.0.0.1:2", "--workers", "16"];
    for (arguments, sentence) in [
        (&standalone[..], "the limit of open files is 70, which is too low for 16 workers: raise it to at least 192"),
        (&["demo"], "the limit of open files is 70, which is too low for"),
    ] {
        let output = in_shell("ulimit -n 70", arguments).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(sentence), "{error}");
    }
}

#[test]
fn a_named_pipe_in_a_folder_is_not_waited_for() {
    let (server, folder) = (EchoServer::start(None), Folder::new());
    let [first, second] = std::array::from_fn(|_| free_address());
    folder.write("first.yaml", &manifest("first", first.port(), &[server.address], ""));
    assert!(Command::new("mkfifo").arg(folder.join("pipe.yaml")).status().unwrap().success());
    let tcplb = Tcplb::standalone(&[folder.path()]).ready();
    visit(first).unwrap();
    folder.write("second.yaml", &manifest("second", second.port(), &[server.address], ""));
    wait_until("a change is followed", || visit(second).is_ok());
    drop(tcplb);
}

#[test]
fn held_admin_connections_do_not_exclude_other_clients() {
    let (server, address) = (EchoServer::start(None), free_address());
    let tcplb =
        Tcplb::standalone(&["--listen", &address.to_string(), "--backend", &server.address.to_string()]).ready();
    let hold = |number: usize, said: &str| -> Vec<TcpStream> {
        let hold = |_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
            socket.connect(&tcplb.admin.into()).unwrap();
            let mut held = TcpStream::from(socket);
            // A connection that was already closed reports an error.
            let _ = held.write_all(said.as_bytes());
            held
        };
        (0..number).map(hold).collect()
    };
    let _silent = hold(600, "G");
    assert!(tcplb.answers("/livez", 200) && tcplb.answers("/readyz", 200));
    // While the first request waits for its answer, neither the connection nor further input is read.
    let (_, report) = http_get(tcplb.admin, "/report").unwrap();
    let question =
        format!("GET /report?unless={:016x} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", xxh3_64(report.as_bytes()));
    let _waiting = hold(600, &question.repeat(60));
    assert!(tcplb.answers("/livez", 200) && tcplb.answers("/readyz", 200));
}

#[test]
fn a_full_disk_below_the_access_log_stops_nothing() {
    let (server, address, admin) = (EchoServer::start(None), free_address(), free_address());
    let mut command = in_shell("exec >/dev/full", &["standalone", "--admin", &admin.to_string()]);
    command.args(["--listen", &address.to_string(), "--backend", &server.address.to_string()]);
    let tcplb = Tcplb::spawn(command, admin).ready();
    for _ in 0..10 {
        visit(address).unwrap();
    }
    wait_until("the lines count as dropped", || {
        tcplb.metric("tcplb_access_log_events_total", &["dropped"]) == 10.0
            && tcplb.metric("tcplb_access_log_events_total", &["logged"]) == 0.0
    });
}

#[test]
fn more_connections_than_descriptors_are_refused_and_served_again_when_there_is_room() {
    let (server, address, admin) = (EchoServer::start(None), free_address(), free_address());
    let mut command = in_shell("ulimit -n 200", &["standalone", "--workers", "2", "--admin", &admin.to_string()]);
    command.args(["--listen", &address.to_string(), "--backend", &server.address.to_string()]);
    let mut tcplb = Tcplb::spawn(command, admin).ready();
    let limit = tcplb.metric("tcplb_process_connections_limit", &[]);
    assert!((1.0..100.0).contains(&limit), "{limit}");
    for _ in 0..3 {
        let mut open = Vec::new();
        let mut refused = 0;
        for _ in 0..300 {
            match Client::try_connect(address).and_then(|mut client| client.echo("here").map(|()| client)) {
                Ok(client) => open.push(client),
                Err(_) => refused += 1,
            }
        }
        assert!(
            !open.is_empty() && open.len() as f64 <= limit && refused >= 200,
            "{} open, {refused} refused",
            open.len()
        );
        assert!(tcplb.answers("/livez", 200) && tcplb.answers("/readyz", 200));
        for client in &mut open {
            client.echo("still there").unwrap();
        }
        for client in open {
            client.finish().unwrap();
        }
        wait_until("all have ended", || tcplb.metric("tcplb_connections_active", &[]) == 0.0);
        visit(address).unwrap();
    }
    assert!(tcplb.metric("tcplb_connections_closed_total", &["process_full"]) >= 600.0);
    assert!(tcplb.is_running());
}
