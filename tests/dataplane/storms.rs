//! Thousands of clients and backends that reset at every stage of a connection, next to clients that behave.

use std::{
    fs, io,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};
use tcplb::{
    model::{
        Listener, ListenerKey, ObjectKey, ProxyMode, ProxyProtocol, Route, Snapshot, Tls, TlsMode, UpstreamConfig,
        UpstreamKey,
    },
    proxy::accounting::CloseReason,
};

use crate::{authority::Authority, limits::networks, memory::alone, rig::*, tls};

/// The number of clients that reset, for each stage.
const EACH: usize = 400;
/// The number of concurrent ones.
const AT_ONCE: usize = 40;
/// More than the buffer of a relay, and than a pipe moves at once.
const LENGTH: usize = 300 << 10;
/// More than the buffers hold for a client that does not read.
const UNREAD: usize = 100_000;
const PROXY_HEADER: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 2000\r\n";

/// The request to the backend in the first byte of a client.
const ECHO: u8 = b'e';
const RESET: u8 = b'r';
const ANSWER_AND_RESET: u8 = b'a';

/// Listeners, each with its own load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Plain,
    ProxyHeader,
    Terminated,
    PassedThrough,
    /// One of the two endpoints answers no SYN.
    Pending,
    /// No client resets here.
    Quiet,
}

use Door::{PassedThrough, Pending, Plain, Quiet, Terminated};

const DOORS: [Door; 6] = [Plain, Door::ProxyHeader, Terminated, PassedThrough, Pending, Quiet];

/// The actions of a client before its reset. The number differs between the clients of a stage.
type Attack = fn(&mut TcpStream, usize, &Hello);
type Hello = [u8];

const STAGES: &[(Door, Attack)] = &[
    // Before the first byte.
    (Plain, |_, _, _| {}),
    (Door::ProxyHeader, |_, _, _| {}),
    (Terminated, |_, _, _| {}),
    (PassedThrough, |_, _, _| {}),
    // While an endpoint is dialled, with and without bytes to send.
    (Pending, |_, _, _| {}),
    (Pending, |client, _, _| send(client, &[ECHO; 1000])),
    // In the PROXY header, and behind it.
    (Door::ProxyHeader, |client, number, _| send(client, &PROXY_HEADER[..number % PROXY_HEADER.len()])),
    (Door::ProxyHeader, |client, _, _| send(client, PROXY_HEADER)),
    // In the ClientHello, and in the rest of the handshake.
    (Terminated, |client, number, hello| send(client, &hello[..number % hello.len()])),
    (Terminated, |client, number, hello| {
        send(client, hello);
        let _ = client.read(&mut vec![0; 1 + number % 3000]);
    }),
    (PassedThrough, |client, number, hello| send(client, &hello[..number % hello.len()])),
    (PassedThrough, |client, _, hello| send(client, hello)),
    // While bytes are relayed: none, some or all of them have been echoed.
    (Plain, |client, _, _| send(client, &[ECHO; UNREAD])),
    (Plain, |client, number, _| {
        send(client, &[ECHO; UNREAD]);
        let _ = client.read(&mut vec![0; 1 + number * 100]);
    }),
    // After the end of its own direction.
    (Plain, |client, _, _| {
        send(client, &[ECHO; 1000]);
        let _ = client.shutdown(Shutdown::Write);
    }),
    // The backend resets first, before and after it has answered, or at the same time.
    (Plain, |client, _, _| {
        send(client, &[RESET]);
        let _ = client.read(&mut [0]);
    }),
    (Plain, |client, _, _| send(client, &[RESET])),
    (Plain, |client, _, _| {
        send(client, &[ANSWER_AND_RESET]);
        let _ = client.read_to_end(&mut Vec::new());
    }),
    (Plain, |client, number, _| {
        send(client, &[ANSWER_AND_RESET]);
        let _ = client.read(&mut vec![0; 1 + number * 100]);
    }),
];

/// Ignores errors: the other side may be closed.
fn send(client: &mut TcpStream, bytes: &[u8]) {
    let _ = client.write_all(bytes);
}

/// Executes the request in the first byte.
fn serve(mut stream: TcpStream) {
    let mut first = [0];
    match stream.read(&mut first) {
        Ok(1) => {}
        _ => return,
    }
    match first[0] {
        RESET => reset(stream),
        ANSWER_AND_RESET => {
            let _ = stream.write_all(&[b'x'; LENGTH]);
            reset(stream);
        }
        _ => {
            let _ = stream.write_all(&first);
            let _ = io::copy(&mut stream.try_clone().unwrap(), &mut stream);
        }
    }
}

fn key(door: Door) -> ListenerKey {
    ListenerKey { object: ObjectKey::new("shop", &format!("{door:?}").to_lowercase()), port: 1 }
}

fn declare(
    door: Door,
    backend: SocketAddr,
    hole: SocketAddr,
    certificate: &Arc<tcplb::model::Certificate>,
) -> (Listener, UpstreamConfig) {
    let (mut listener, mut upstream) = (listener(), upstream(&[backend]));
    listener.bind = SocketAddr::from(([127, 0, 9, 1 + door as u8], 0));
    listener.upstream = UpstreamKey { object: key(door).object };
    // Enabled so that leaked places are detected.
    listener.limits.max_connections_per_source = some(1_000_000);
    match door {
        Plain | Quiet => {}
        Door::ProxyHeader => {
            listener.proxy_protocol =
                Some(ProxyProtocol { mode: ProxyMode::Required, trusted: networks(&["127.0.0.0/8"]) });
        }
        Terminated => listener.tls = tls::tls(certificate),
        PassedThrough => {
            let route = Route { server_names: vec!["db.example".into()], mode: TlsMode::Passthrough, backends: None };
            listener.tls = tls::tls(certificate).map(|tls| Tls { routes: vec![route], ..tls });
        }
        Pending => {
            upstream.endpoints.push(endpoint(hole));
            upstream.endpoints.sort_by(|one, other| one.key.cmp(&other.key));
            // Longer than a busy machine takes to accept, and than the retransmission of a SYN.
            upstream.connect.timeout = Duration::from_secs(3);
        }
    }
    (listener, upstream)
}

/// A regular client: each byte that it sends is echoed, followed by an end.
fn visit(door: Door, mut client: TcpStream, config: &Arc<ClientConfig>, hello: &Hello) -> io::Result<()> {
    let bytes: Vec<u8> = (0..LENGTH as u32).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    let first = match door {
        Terminated => {
            let mut client = tls::handshake(config, client)?;
            for piece in [&[ECHO], &bytes[..10_000]] {
                client.write_all(piece)?;
                let mut answer = vec![0; piece.len()];
                client.read_exact(&mut answer)?;
                assert!(answer == piece);
            }
            tls::end(client);
            return Ok(());
        }
        PassedThrough => hello,
        Door::ProxyHeader => {
            client.write_all(PROXY_HEADER)?;
            &[ECHO]
        }
        Plain | Pending | Quiet => &[ECHO],
    };
    let sent = [first, &bytes].concat();
    let mut answer = Vec::new();
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            (&client).write_all(&sent)?;
            client.shutdown(Shutdown::Write)
        });
        let received = (&client).read_to_end(&mut answer).map(drop);
        sending.join().unwrap().and(received)
    })?;
    assert!(answer == sent, "{door:?}: its bytes, and an end");
    Ok(())
}

/// Runs the clients of one stage, a limited number at a time.
fn attack(address: SocketAddr, attack: Attack, hello: &Hello) {
    for batch in 0..EACH / AT_ONCE {
        let mut clients: Vec<TcpStream> = (0..AT_ONCE).map(|_| connect(address)).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            attack(client, batch * AT_ONCE + number, hello);
        }
        clients.into_iter().for_each(reset);
    }
}

/// The ClientHello as a client sends it.
fn client_hello(config: &Arc<ClientConfig>) -> Vec<u8> {
    let name = ServerName::try_from("db.example").unwrap();
    let mut session = ClientConnection::new(config.clone(), name).unwrap();
    let mut hello = Vec::new();
    session.write_tls(&mut hello).unwrap();
    hello
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn resets_at_every_stage_leave_nothing_behind_and_disturb_no_other_client() {
    alone("storms::resets_at_every_stage_leave_nothing_behind_and_disturb_no_other_client", storm);
}

fn storm() {
    let (backend, hole, authority) = (Backend::serving(serve), BlackHole::new(), Authority::new());
    let (certificate, config) =
        (authority.certificate_for(&["db.example"]), authority.client(&[&rustls::version::TLS13]));
    let hello = client_hello(&config);
    let mut snapshot = Snapshot::default();
    for door in DOORS {
        let (listener, upstream) = declare(door, backend, hole.address, &certificate);
        snapshot.upstreams.insert(listener.upstream.clone(), upstream.into());
        snapshot.listeners.insert(key(door), listener.into());
    }
    let rig = Rig::start(Size::default(), snapshot);
    let addresses = DOORS.map(|door| rig.address_of(&key(door)));
    let visit = |door: Door| {
        let client = connect(addresses[door as usize]);
        let peer = client.local_addr().unwrap();
        visit(door, client, &config, &hello).map_err(|error| (door, peer, error))
    };
    let is_served = |outcome: Result<(), (Door, SocketAddr, io::Error)>| {
        let Err((door, peer, error)) = outcome else { return };
        let line = || rig.logged().into_iter().find(|line| line.contains(&format!("peer={peer} ")));
        wait_until("the end of the client is logged", || line().is_some());
        panic!("a client of {door:?} was not served: {error}; {:?}", line());
    };
    let is_idle = || rig.active() == 0 && rig.monitor.open_by_worker().sum::<usize>() == 0;
    // Afterwards all descriptors that are opened once are open.
    DOORS.map(visit).into_iter().for_each(is_served);
    wait_until("the first clients have left", is_idle);
    let before = descriptors();

    let visits = visits_during_resets(&visit, &addresses, &hello);
    let served: usize = visits.iter().map(|(served, _)| served).sum();
    visits.into_iter().for_each(|(_, outcome)| is_served(outcome));
    let all = (DOORS.len() + served + STAGES.len() * EACH) as u64;
    wait_until_or(|| format!("all of {all} have ended: {:?}", rig.reasons()), || rig.accepted() == all && is_idle());
    wait_until_or(|| format!("{before} descriptors: {}", descriptors()), || descriptors() <= before);
    assert_eq!(rig.monitor.handshake_memory(), 0);
    assert_eq!(rig.closed(CloseReason::Internal) + rig.closed(CloseReason::LocalFailure), 0, "{:?}", rig.reasons());
    // The doors work as before.
    DOORS.map(visit).into_iter().for_each(is_served);
    println!("{served} were served while {} reset: {:?}", STAGES.len() * EACH, rig.reasons());
}

/// Visits every door repeatedly while clients reset at every stage. Returns for each door the number of served visits,
/// and the error that ended them.
fn visits_during_resets<E: Send>(
    visit: &(impl Fn(Door) -> Result<(), E> + Sync),
    addresses: &[SocketAddr; DOORS.len()],
    hello: &[u8],
) -> [(usize, Result<(), E>); DOORS.len()] {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let others = DOORS.map(|door| {
            let over = &over;
            scope.spawn(move || {
                let mut served = 0;
                // At least once, and while clients reset.
                while served == 0 || !over.load(Relaxed) {
                    if let Err(error) = visit(door) {
                        return (served, Err(error));
                    }
                    served += 1;
                }
                (served, Ok(()))
            })
        });
        let storms: Vec<_> = STAGES
            .iter()
            .map(|(door, stage)| {
                let address = addresses[*door as usize];
                scope.spawn(move || attack(address, *stage, hello))
            })
            .collect();
        let outcomes: Vec<_> = storms.into_iter().map(|storm| storm.join()).collect();
        over.store(true, Relaxed);
        let others = others.map(|other| other.join().unwrap());
        outcomes.into_iter().for_each(|outcome| outcome.unwrap());
        others
    })
}
