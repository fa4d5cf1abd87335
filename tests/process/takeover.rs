//! Takeover of the listening sockets of a running process by another one.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    delayed_link::DelayedLink,
    harness::{Client, EchoServer, Folder, Tcplb, free_address, http_get, manifest, program, run, visit, wait_until},
    load::Load,
};

/// Requests `/readyz` continuously. Counts the answers with status 200, and collects all others.
struct Probe {
    stop: Arc<AtomicBool>,
    asking: Option<JoinHandle<(usize, Vec<String>)>>,
}

impl Probe {
    fn start(prepare: impl FnOnce() + Send + 'static, admin: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let asking = thread::spawn(move || {
            prepare();
            let (mut good, mut bad) = (0, Vec::new());
            while !stopped.load(Relaxed) {
                match http_get(admin, "/readyz") {
                    Some((200, _)) => good += 1,
                    other => bad.push(format!("{other:?}")),
                }
                thread::sleep(Duration::from_millis(2));
            }
            (good, bad)
        });
        Self { stop, asking: Some(asking) }
    }

    fn ended(mut self) -> (usize, Vec<String>) {
        self.stop().unwrap()
    }

    fn stop(&mut self) -> Option<(usize, Vec<String>)> {
        self.stop.store(true, Relaxed);
        self.asking.take()?.join().ok()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// Starts a process that takes over, or the first process; `around` wraps its command.
fn start(around: &[&str], admin: SocketAddr, path: &Path, workers: usize, arguments: &[&str]) -> Tcplb {
    let mut command = match around {
        [] => program(),
        [wrapper, rest @ ..] => {
            let mut command = Command::new(wrapper);
            command.args(rest).arg(env!("CARGO_BIN_EXE_tcplb"));
            command
        }
    };
    command.args(["standalone", "--admin", &admin.to_string(), "--takeover", path.to_str().unwrap()]);
    command.args(["--workers", &workers.to_string()]).args(arguments);
    Tcplb::spawn(command, admin)
}

/// Takes over five times in a row, with different numbers of workers.
fn take_over_in_a_row(mut serving: Tcplb, load: &Load, mut next: impl FnMut(usize) -> Tcplb) -> Tcplb {
    for workers in [3, 1, 3, 1, 3] {
        load.goes_on_for(100);
        let mut successor = next(workers);
        successor.logged("took over from the previous process");
        let (status, _) = serving.ended();
        assert_eq!(status.code(), Some(0), "{:?}", serving.seen);
        serving = successor;
    }
    load.goes_on_for(100);
    serving
}

#[test]
fn five_takeovers_under_load_refuse_and_reset_nothing() {
    let (server, folder) = (EchoServer::start(None), Folder::new());
    let (address, admin, path) = (free_address(), free_address(), folder.join("takeover"));
    let (listen, backend) = (address.to_string(), server.address.to_string());
    let next = |workers| start(&[], admin, &path, workers, &["--listen", &listen, "--backend", &backend]);
    let first = next(1).ready();
    let (load, probe) = (Load::start(8, || {}, address), Probe::start(|| {}, admin));
    let last = take_over_in_a_row(first, &load, next);
    let (served, errors) = load.ended();
    assert!(errors.is_empty(), "{} of {served}: {errors:?}", errors.len());
    let (good, bad) = probe.ended();
    assert!(bad.is_empty() && good > 0, "{} of {good}: {bad:?}", bad.len());
    wait_until("no connection is left", || last.metric("tcplb_worker_connections_active", &["worker=\"2\""]) == 0.0);
}

#[test]
fn five_takeovers_over_a_slow_link_refuse_and_reset_nothing() {
    let Some(link) = DelayedLink::open() else { return };
    let folder = Folder::new();
    let (address, admin) = (link.server_address(4000), link.server_address(9900));
    let path = folder.join("takeover");
    let _backend = link.backend("127.0.0.1:5001");
    let (around, listen) = (link.around_server(), address.to_string());
    let around: Vec<&str> = around.iter().map(String::as_str).collect();
    link.inside(|| {
        let next =
            |workers| start(&around, admin, &path, workers, &["--listen", &listen, "--backend", "127.0.0.1:5001"]);
        let first = next(1).ready();
        let load = Load::start(48, enter(&link), address);
        let probe = Probe::start(enter(&link), admin);
        let _last = take_over_in_a_row(first, &load, next);
        let (served, errors) = load.ended();
        assert!(errors.is_empty(), "{} of {served}: {errors:?}", errors.len());
        let (good, bad) = probe.ended();
        assert!(bad.is_empty() && good > 0, "{} of {good}: {bad:?}", bad.len());
    });
}

fn enter(link: &DelayedLink) -> impl Fn() + Send + Sync + use<> {
    let link = link.clone();
    move || link.enter()
}

#[test]
fn the_slow_link_shows_the_fault_that_a_takeover_avoids() {
    let Some(link) = DelayedLink::open() else { return };
    let address = link.server_address(4000);
    let _backend = link.backend("127.0.0.1:5001");
    let start = |admin_port| {
        let (around, admin) = (link.around_server(), link.server_address(admin_port));
        let mut command = Command::new(&around[0]);
        command.args(&around[1..]).arg(env!("CARGO_BIN_EXE_tcplb"));
        command.args(["standalone", "--reuse-port", "--workers", "2", "--admin", &admin.to_string()]);
        command.args(["--listen", &address.to_string(), "--backend", "127.0.0.1:5001"]);
        Tcplb::spawn(command, admin).ready()
    };
    link.inside(|| {
        let _staying = start(9900);
        let load = Load::start(48, enter(&link), address);
        // Each time that a process closes its sockets, a connection probably waits in their queues.
        let shown = (9901..9921).any(|admin_port| {
            let mut leaving = start(admin_port);
            load.goes_on_for(100);
            leaving.signal("TERM");
            leaving.ended();
            load.has_failed()
        });
        assert!(shown, "closing sockets resets connections that wait for them, {} were served", load.ended().0);
    });
}

#[test]
fn open_connections_stay_with_the_old_process_until_they_end() {
    let (server, folder) = (EchoServer::start(None), Folder::new());
    let (address, admin, path) = (free_address(), free_address(), folder.join("takeover"));
    let file = folder
        .write("shop.yaml", &manifest("shop", address.port(), &[server.address], "drain: {shutdown: {after: 1h}}"));
    let mut first = start(&[], admin, &path, 1, &[&file]).ready();
    let mut open = Client::connect(address);
    open.echo("before").unwrap();
    let mut second = start(&[], admin, &path, 3, &[&file]);
    second.logged("took over");
    first.logged("another process has taken over");
    first.logged("draining");
    open.echo("after").unwrap();
    visit(address).unwrap();
    wait_until("new connections are the new process's", || {
        second.metric("tcplb_connections_accepted_total", &[]) == 1.0
    });
    assert!(first.is_running());
    open.finish().unwrap();
    let (status, output) = first.ended();
    assert_eq!((status.code(), output.lines().count()), (Some(0), 1), "{output}");
}

#[test]
fn a_successor_that_dies_before_it_serves_changes_nothing() {
    let (server, folder) = (EchoServer::start(None), Folder::new());
    let (address, admin, path) = (free_address(), free_address(), folder.join("takeover"));
    let (listen, backend) = (address.to_string(), server.address.to_string());
    let arguments = ["--listen", &listen, "--backend", &backend];
    let mut first = start(&[], admin, &path, 2, &arguments).ready();
    let wrong = folder.write("wrong.yaml", "kind: [");
    for _ in 0..3 {
        let mut dying = start(&[], admin, &path, 2, &[&wrong]);
        assert_eq!(dying.ended().0.code(), Some(1));
        first.logged("takeover aborted");
        first.forget_log();
        visit(address).unwrap();
        assert!(first.answers("/readyz", 200) && first.answers("/lb-ready", 200));
    }
    // A client that asks and then sends nothing delays no other takeover or connection.
    let asking =
        rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::SEQPACKET, None).unwrap();
    rustix::net::connect(&asking, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
    visit(address).unwrap();
    drop(asking);
    first.logged("takeover aborted");

    let mut second = start(&[], admin, &path, 2, &arguments);
    second.logged("took over");
    assert_eq!(first.ended().0.code(), Some(0));
    visit(address).unwrap();
}

#[test]
fn a_path_that_a_killed_process_left_is_taken_over() {
    let (server, folder) = (EchoServer::start(None), Folder::new());
    let (address, admin, path) = (free_address(), free_address(), folder.join("takeover"));
    let (listen, backend) = (address.to_string(), server.address.to_string());
    let arguments = ["--listen", &listen, "--backend", &backend];
    let mut first = start(&[], admin, &path, 1, &arguments).ready();
    first.signal("KILL");
    first.ended();
    assert!(path.exists());
    let mut second = start(&[], admin, &path, 1, &arguments).ready();
    visit(address).unwrap();
    let mut third = start(&[], admin, &path, 1, &arguments);
    third.logged("took over");
    second.ended();
    visit(address).unwrap();
}

#[test]
fn a_path_that_is_something_else_is_left_alone() {
    let (server, folder) = (EchoServer::start(None), Folder::new());
    let (address, backend) = (free_address().to_string(), server.address.to_string());
    let file = folder.write("precious.txt", "precious");
    let arguments = ["standalone", "--admin", "off", "--listen", &address, "--backend", &backend, "--takeover"];
    let (code, _, error) = run(&[&arguments[..], &[&file]].concat());
    assert!(code == 1 && error.contains(&file), "{code} {error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    let (code, _, error) = run(&[&arguments[..], &["/nowhere/takeover"]].concat());
    assert!(code == 1 && error.contains("/nowhere/takeover"), "{code} {error}");
}

#[test]
fn a_successor_may_serve_other_addresses() {
    let (server, folder) = (EchoServer::start(None), Folder::new());
    let [kept, given_up, new, admin] = std::array::from_fn(|_| free_address());
    let path = folder.join("takeover");
    let shop = |name: &str, address: SocketAddr| manifest(name, address.port(), &[server.address], "");
    let before = folder.write("before.yaml", &(shop("kept", kept) + "---\n" + &shop("gone", given_up)));
    let after = folder.write("after.yaml", &(shop("renamed", kept) + "---\n" + &shop("new", new)));
    let mut first = start(&[], admin, &path, 2, &[&before]).ready();
    visit(given_up).unwrap();
    let mut second = start(&[], admin, &path, 2, &[&after]);
    second.logged("took over");
    assert_eq!(first.ended().0.code(), Some(0));
    visit(kept).unwrap();
    visit(new).unwrap();
    assert!(visit(given_up).is_err());
}

#[test]
fn the_admin_address_may_change_with_a_takeover() {
    let (server, folder) = (EchoServer::start(None), Folder::new());
    let [address, before, after] = std::array::from_fn(|_| free_address());
    let path = folder.join("takeover");
    let (listen, backend) = (address.to_string(), server.address.to_string());
    let arguments = ["--listen", &listen, "--backend", &backend];
    let mut first = start(&[], before, &path, 1, &arguments).ready();
    let mut second = start(&[], after, &path, 1, &arguments).ready();
    second.logged("took over");
    first.ended();
    assert!(second.answers("/readyz", 200));
    assert!(http_get(before, "/readyz").is_none());
}

#[test]
fn a_signal_ends_a_process_that_waits_for_sockets() {
    let folder = Folder::new();
    let path = folder.join("takeover");
    // A process that is stopped or stuck: it accepts and answers nothing.
    let stuck =
        rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::SEQPACKET, None).unwrap();
    rustix::net::bind(&stuck, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&stuck, 1).unwrap();
    let admin = free_address();
    let mut waiting =
        start(&[], admin, &path, 1, &["--listen", &free_address().to_string(), "--backend", "127.0.0.1:1"]);
    let asked = rustix::net::accept(&stuck).unwrap();
    waiting.signal("TERM");
    assert_eq!(waiting.ended().0.code(), Some(1));
    assert!(waiting.seen.iter().any(|line| line.contains("before the previous process")), "{:?}", waiting.seen);
    drop(asked);
}

#[test]
fn a_signal_during_a_takeover_ends_both_processes_in_good_order() {
    let (server, folder) = (EchoServer::start(None), Folder::new());
    let (address, admin, path) = (free_address(), free_address(), folder.join("takeover"));
    let (listen, backend) = (address.to_string(), server.address.to_string());
    // Longer than a busy machine takes to start the second process.
    let arguments = ["--listen", &listen, "--backend", &backend, "--shutdown-delay", "10s"];
    let mut first = start(&[], admin, &path, 2, &arguments).ready();
    first.signal("TERM");
    wait_until("/lb-ready fails", || first.answers("/lb-ready", 503));
    let mut second = start(&[], admin, &path, 1, &arguments);
    second.logged("took over");
    visit(address).unwrap();
    assert_eq!(first.ended().0.code(), Some(0));
    for _ in 0..20 {
        visit(address).unwrap();
    }
    assert!(second.answers("/lb-ready", 200));
    second.signal("TERM");
    assert_eq!(second.ended().0.code(), Some(0));
}
