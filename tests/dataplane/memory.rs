//! The memory of idle connections.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    sync::Arc,
    thread,
    time::Duration,
};

use rustls::version::TLS13;
use tcplb::{
    model::{Listener, ListenerKey, ObjectKey, Route, Snapshot, Tls, TlsMode, TlsVersion, UpstreamKey},
    proxy::accounting::CloseReason,
};

use crate::{authority::Authority, rig::*, tls::handshake_for};

const CONNECTIONS: usize = 2000;
/// Larger than the relay's buffer.
const EACH: usize = 256 << 10;
const ALONE: &str = "DATAPLANE_MEMORY_ALONE";

/// Runs a test in its own process, because memory can only be measured for a whole process.
pub fn alone(name: &str, measure: impl FnOnce()) {
    if env::var_os(ALONE).is_some() {
        return measure();
    }
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    println!("{text}");
}

#[test]
fn an_idle_connection_holds_no_buffer_however_much_it_moved_before() {
    alone("memory::an_idle_connection_holds_no_buffer_however_much_it_moved_before", measure);
}

#[test]
fn unfinished_handshakes_of_all_clients_have_a_bounded_memory() {
    alone("memory::unfinished_handshakes_of_all_clients_have_a_bounded_memory", || {
        // One handshake is read for a route, with a buffer that doubles; the other one by the TLS library.
        measure_handshakes(&[TlsMode::Passthrough, TlsMode::Terminate]);
        measure_handshakes(&[TlsMode::Terminate]);
    });
}

/// The size of an incomplete ClientHello, in records.
const HELLO: usize = 60_000;
/// The bytes of a handshake that need no handshake memory.
const FREE: usize = 8 << 10;

/// The beginning of a ClientHello that never ends.
fn incomplete_hello() -> Vec<u8> {
    let message = [&[1, 0, 0xff, 0xdc][..], &[b'x'; HELLO]].concat();
    let records =
        message.chunks(1000).flat_map(|part| [&[22, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat());
    records.take(HELLO).collect()
}

fn tls(authority: &Authority, modes: &[TlsMode]) -> Tls {
    let routes = modes.iter().zip(["a.example", "b.example"]).map(|(mode, name)| Route {
        server_names: if modes.len() > 1 { vec![name.into()] } else { Vec::new() },
        mode: *mode,
        backends: None,
    });
    Tls {
        certificates: vec![authority.certificate_for(&["b.example"])],
        min_version: TlsVersion::V1_2,
        alpn: Vec::new(),
        start_tls: None,
        client_validation: None,
        routes: routes.collect(),
    }
}

/// Starts many large handshakes and completes none.
fn measure_handshakes(modes: &[TlsMode]) {
    const LIMIT: usize = 16 << 20;
    let authority = Authority::new();
    let rig = Rig::with(&[Backend::echo()], |listener, _| {
        listener.tls = Some(tls(&authority, modes));
        listener.timeouts.handshake = Duration::from_secs(3600);
    });
    let hello = incomplete_hello();
    let before = resident();
    let mut grown = Vec::new();
    let mut clients = Vec::new();
    for count in [500, 1000, 2000] {
        while clients.len() < count {
            let mut client = rig.connect();
            // The connection may already be closed.
            let _ = client.write_all(&hello);
            clients.push(client);
        }
        wait_until_or(
            || (rig.active(), rig.monitor.handshake_memory(), rig.reasons()),
            || {
                let (active, refused) = (rig.active() as usize, rig.closed(CloseReason::HandshakeMemory) as usize);
                active + refused == count && rig.monitor.handshake_memory() >= active * (HELLO - FREE)
            },
        );
        assert!(rig.monitor.handshake_memory() <= LIMIT);
        // An eighth of the memory is guaranteed to a load balancer that is still to come.
        assert!(rig.active() >= 240, "{} stay: as many as there is memory for", rig.active());
        grown.push(resident().saturating_sub(before));
    }
    println!("{grown:?} bytes more for 500, 1,000 and 2,000 clients");
    assert!(grown[2] < 3 * LIMIT && grown[2] < grown[1] + LIMIT / 2, "{grown:?}");

    // Other clients are still served.
    let mut honest = handshake_for("b.example", &authority.client(&[&TLS13]), rig.connect()).unwrap();
    is_echoed(&mut honest);
    drop((honest, clients));
    wait_until("the memory is given back", || rig.active() == 0 && rig.monitor.handshake_memory() == 0);
}

#[test]
fn unfinished_handshakes_of_one_load_balancer_leave_others_their_guaranteed_memory() {
    let authority = Authority::new();
    let keys = ["greedy", "other"].map(|name| ListenerKey { object: ObjectKey::new("shop", name), port: 1 });
    let mut snapshot = Snapshot::default();
    for (key, last) in keys.iter().zip(1..) {
        let (bind, of) = (SocketAddr::from(([127, 0, 0, last], 0)), UpstreamKey { object: key.object.clone() });
        let tls = Some(tls(&authority, &[TlsMode::Terminate]));
        snapshot.listeners.insert(key.clone(), Listener { bind, tls, upstream: of.clone(), ..listener() }.into());
        snapshot.upstreams.insert(of, upstream(&[Backend::echo()]).into());
    }
    let rig = Rig::start(Size::default(), snapshot);
    let (hello, address) = (incomplete_hello(), rig.address_of(&keys[0]));
    let mut greedy = Vec::new();
    // Smaller ones take what a larger one had to leave.
    for size in [HELLO, FREE + 1] {
        let refused = rig.closed(CloseReason::HandshakeMemory);
        while rig.closed(CloseReason::HandshakeMemory) == refused {
            let before = rig.monitor.handshake_memory();
            let mut client = connect(address);
            // The connection may already be closed.
            let _ = client.write_all(&hello[..size]);
            greedy.push(client);
            wait_until("the bytes are read, or the client is refused", || {
                rig.closed(CloseReason::HandshakeMemory) > refused
                    || rig.monitor.handshake_memory() >= before + size - FREE
            });
        }
    }

    // A ClientHello of more than 8 KiB.
    let mut config = (*authority.client(&[&TLS13])).clone();
    config.alpn_protocols = vec![vec![b'x'; 250]; 40];
    let client = connect(rig.address_of(&keys[1]));
    let mut honest = handshake_for("b.example", &Arc::new(config), client).unwrap();
    is_echoed(&mut honest);
    drop((honest, greedy));
}

fn measure() {
    let backend = Backend::new();
    let rig = Rig::new(&[backend.address]);
    let connected = |count| (0..count).map(|_| rig.connect_to(&backend)).collect::<Vec<_>>();
    // Memory that the process allocates once must not count.
    let warm = connected(50);
    warm.iter().for_each(|(client, served)| moves(client, served, EACH));

    let before = resident();
    let open = connected(CONNECTIONS);
    for (client, served) in &open {
        moves(client, served, EACH);
        moves(served, client, EACH);
    }
    let each = (resident() - before) / CONNECTIONS;
    println!("{each} bytes of resident memory for each of {CONNECTIONS} idle connections");
    assert!(each < 3 << 10, "{each} bytes for each connection");

    let before = resident();
    for (client, served) in &warm {
        stalls_and_moves(client, served);
    }
    let each = resident().saturating_sub(before) / warm.len();
    assert!(each < 16 << 10, "{each} bytes for each connection that had to wait for its reader");
    assert_eq!(rig.active() as usize, open.len() + warm.len());
}

/// Sends bytes that fit into the kernel's buffers, before any of them is read.
fn moves(mut from: &TcpStream, mut to: &TcpStream, count: usize) {
    from.write_all(&vec![b'x'; count]).unwrap();
    to.read_exact(&mut vec![0; count]).unwrap();
}

/// Sends more than the kernel's buffers hold: the relay has to keep bytes that it has read.
fn stalls_and_moves(mut from: &TcpStream, to: &TcpStream) {
    from.set_nonblocking(true).unwrap();
    let (mut sent, mut blocked) = (0, 0);
    while blocked < 20 {
        match from.write(&[b'x'; 64 << 10]) {
            Ok(count) => (sent, blocked) = (sent + count, 0),
            Err(_) => {
                blocked += 1;
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
    from.set_nonblocking(false).unwrap();
    io::copy(&mut to.take(sent as u64), &mut io::sink()).unwrap();
}

/// The resident memory of this process in bytes (proc_pid_status(5)).
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
}
