//! Smuggling of PROXY headers. A backend that trusts PROXY headers gets exactly one header, from this proxy, followed
//! by the bytes of the client.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::mpsc::{Receiver, channel},
};

use rustls::version::TLS13;
use tcplb::{
    model::{self, ProxyMode, ProxyVersion},
    proxy::accounting::CloseReason,
};

use crate::{authority::Authority, limits::networks, rig::*, sockets::queued_at, tls};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V1: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 2000\r\n";
const TCP4: [u8; 12] = [192, 0, 2, 1, 192, 0, 2, 2, 3, 232, 7, 208];
const TRUSTED: [u8; 4] = [127, 0, 6, 1];
const OTHER: [u8; 4] = [127, 0, 7, 1];
/// The positions at which a header is split: the first ones, and the last ones.
const FIRST_SPLITS: usize = 60;
const LAST_SPLITS: usize = 3;

/// A version 2 header with this declared length.
fn v2_of_length(command: u8, family: u8, length: u16, block: &[u8]) -> Vec<u8> {
    [SIGNATURE, &[0x20 | command, family], &length.to_be_bytes(), block].concat()
}

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    v2_of_length(command, family, block.len() as u16, block)
}

/// The addresses of a client and of its destination.
type Addresses = (SocketAddr, SocketAddr);

fn announced() -> Option<Addresses> {
    Some(("192.0.2.1:1000".parse().unwrap(), "192.0.2.2:2000".parse().unwrap()))
}

/// The header of this proxy, encoded independently of the tested code.
fn header(version: ProxyVersion, (source, destination): Addresses) -> Vec<u8> {
    let (from, to, ports) = (source.ip(), destination.ip(), [source.port(), destination.port()]);
    match version {
        ProxyVersion::V1 => {
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            format!("PROXY {family} {from} {to} {} {}\r\n", ports[0], ports[1]).into_bytes()
        }
        ProxyVersion::V2 => {
            let octets = |ip| match ip {
                std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
                std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            let block = [octets(from), octets(to), ports.map(u16::to_be_bytes).concat()].concat();
            v2(1, if from.is_ipv4() { 0x11 } else { 0x21 }, &block)
        }
    }
}

/// A proxy whose backend records the bytes of each connection, and whether it ended cleanly.
struct Smuggled {
    rig: Rig,
    address: SocketAddr,
    backend: SocketAddr,
    received: Receiver<(Vec<u8>, bool)>,
}

impl Smuggled {
    fn new(mode: ProxyMode, version: ProxyVersion, tls: Option<model::Tls>) -> Self {
        let (sender, received) = channel();
        let backend = Backend::serving(move |mut stream| {
            let mut bytes = Vec::new();
            let is_clean = stream.read_to_end(&mut bytes).is_ok();
            let _ = sender.send((bytes, is_clean));
        });
        let rig = Rig::with(&[backend], |listener, upstream| {
            let trusted = networks(&["127.0.6.0/24"]);
            (listener.proxy_protocol, listener.tls) = (Some(model::ProxyProtocol { mode, trusted }), tls);
            backend_of(upstream).proxy_protocol = Some(version);
        });
        Self { address: rig.address(), rig, backend, received }
    }

    fn received(&self) -> (Vec<u8>, bool) {
        self.received.recv_timeout(WAIT_LIMIT).expect("a connection to the backend that ends")
    }

    /// Sends these bytes from one client for each split position, and ends.
    ///
    /// The second piece is sent after the proxy has read the first one, or the connection is gone.
    fn send(&self, source: [u8; 4], bytes: &[u8], splits: &[usize]) -> Vec<Client> {
        let connect = |at: &usize| {
            let mut client = Client { stream: connect_from(source, self.address), sent: true };
            client.send(&bytes[..*at]);
            client
        };
        let mut clients: Vec<Client> = splits.iter().map(connect).collect();
        let addresses: Vec<SocketAddr> = clients.iter().map(Client::address).collect();
        wait_until("the first pieces are read", || queued_at(&addresses) == 0);
        for (at, client) in splits.iter().zip(&mut clients) {
            client.send(&bytes[*at..]);
            let _ = client.stream.shutdown(Shutdown::Write);
        }
        clients
    }
}

struct Client {
    stream: TcpStream,
    /// False: the client was refused before it had sent everything.
    sent: bool,
}

impl Client {
    fn send(&mut self, bytes: &[u8]) {
        self.sent &= self.stream.write_all(bytes).is_ok();
    }

    fn address(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }
}

fn splits(header: usize) -> Vec<usize> {
    (0..=header).filter(|at| *at < FIRST_SPLITS || *at + LAST_SPLITS > header).collect()
}

/// The number of occurrences of each item.
fn counted(all: impl IntoIterator<Item = Vec<u8>>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for one in all {
        *counts.entry(one.escape_ascii().to_string()).or_default() += 1;
    }
    counts
}

/// Payloads behind a header, all of them the client's: parts of a header, and whole headers that are not at the start.
fn payloads() -> Vec<Vec<u8>> {
    vec![
        b"payload".to_vec(),
        Vec::new(),
        b"PROXY".to_vec(),
        SIGNATURE[..11].to_vec(),
        [b"x", V1].concat(),
        [b"\r\n", SIGNATURE, &[0x21, 0x11, 0, 12], &TCP4].concat(),
    ]
}

/// Headers, and the addresses that they name. `None`: the peer itself is the client.
fn headers() -> Vec<(Vec<u8>, Option<Addresses>)> {
    let tcp6 = [[0x20, 1].repeat(8), vec![0xfd; 16], vec![3, 232, 7, 208]].concat();
    let announced6 = Some((
        "[2001:2001:2001:2001:2001:2001:2001:2001]:1000".parse().unwrap(),
        "[fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd]:2000".parse().unwrap(),
    ));
    let with = |more: &[u8]| v2(1, 0x11, &[&TCP4[..], more].concat());
    vec![
        (V1.to_vec(), announced()),
        (
            b"PROXY TCP6 2001:2001:2001:2001:2001:2001:2001:2001 fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd 1000 2000\r\n"
                .to_vec(),
            announced6,
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), None),
        (b"PROXY UNKNOWN 192.0.2.1 192.0.2.2 1000 2000\r\n".to_vec(), None),
        (v2(1, 0x11, &TCP4), announced()),
        (v2(1, 0x21, &tcp6), announced6),
        // LOCAL, with and without addresses, and families without TCP addresses.
        (v2(0, 0x11, &TCP4), None),
        (v2(0, 0, &[]), None),
        (v2(0, 0xff, &[7; 50]), None),
        (v2(1, 0, &TCP4), None),
        (v2(1, 0x12, &TCP4), None),
        (v2(1, 0x31, &[b'/'; 216]), None),
        (v2(1, 0x31, &TCP4), None),
        // Fields whose lengths end before, behind and far behind the header, and fields that contain headers.
        (with(&[4]), announced()),
        (with(&[4, 0]), announced()),
        (with(&[4, 0, 200, 1, 2]), announced()),
        (with(&[0xe0, 0xff, 0xff]), announced()),
        (with(&[&[4, 0, V1.len() as u8], V1].concat()), announced()),
        (with(&[V1, SIGNATURE].concat()), announced()),
        (with(&[0; 1500]), announced()),
    ]
}

#[test]
fn backends_get_one_header_with_the_right_source_and_then_what_the_client_sent() {
    let headers = headers();
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let smuggled = Smuggled::new(ProxyMode::Required, version, None);
        for (number, (sent, named)) in headers.iter().enumerate() {
            let payloads = payloads();
            // All pairs would take too long.
            let payload = &payloads[number % payloads.len()];
            let splits = splits(sent.len());
            let clients = smuggled.send(TRUSTED, &[&sent[..], payload].concat(), &splits);
            let expected = clients.iter().map(|client| {
                let addresses = named.unwrap_or((client.address(), smuggled.address));
                [header(version, addresses), payload.clone()].concat()
            });
            let received: Vec<_> = splits.iter().map(|_| smuggled.received()).collect();
            assert!(received.iter().all(|(_, is_clean)| *is_clean), "{number}");
            assert_eq!(
                counted(received.into_iter().map(|(bytes, _)| bytes)),
                counted(expected),
                "{number} {version:?}"
            );
            clients.into_iter().for_each(|client| assert_eq!(read_to_end(client.stream), b""));
        }
        // Bytes beyond the declared length belong to the client; bytes within it belong to the header.
        let short = v2_of_length(1, 0x11, 12, &[&TCP4[..], &[4, 0, 1, 0]].concat());
        smuggled.send(TRUSTED, &short, &[short.len()]);
        let expected = [header(version, announced().unwrap()), vec![4, 0, 1, 0]].concat();
        assert_eq!(smuggled.received(), (expected, true));
        let long = v2_of_length(1, 0x11, 17, &[&TCP4[..], b"paylo"].concat());
        smuggled.send(TRUSTED, &[&long[..], b"ad"].concat(), &[long.len()]);
        assert_eq!(smuggled.received(), ([header(version, announced().unwrap()), b"ad".to_vec()].concat(), true));
    }
}

#[test]
fn headers_against_the_specification_reach_no_backend_however_they_are_split() {
    let overlong = [&b"PROXY UNKNOWN "[..], &[b'x'; 92], b"\r\n"].concat();
    assert_eq!(overlong.len(), 108);
    let smuggled = Smuggled::new(ProxyMode::Required, ProxyVersion::V2, None);
    let mut refused = 0;
    for sent in [
        &overlong[..],
        &[b'P'; 200],
        // Version 1 behind the signature of version 2, and the reverse.
        &[SIGNATURE, V1].concat(),
        &[b"PROXY ", SIGNATURE, &[0x21, 0x11, 0, 12], &TCP4].concat(),
        &[&SIGNATURE[..11], V1].concat(),
        &[&V1[..20], V1].concat(),
        &[&V1[..V1.len() - 2], b"\n"].concat(),
        &[&V1[..V1.len() - 2], b"\r", V1].concat(),
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 2000 3000\r\n",
        b"PROXY TCP4 192.0.2.1\0 192.0.2.2 1000 2000\r\n",
        b"proxy TCP4 192.0.2.1 192.0.2.2 1000 2000\r\n",
        b" PROXY TCP4 192.0.2.1 192.0.2.2 1000 2000\r\n",
        // Lengths that are too short for the addresses.
        &v2_of_length(1, 0x11, 0, &TCP4),
        &v2_of_length(1, 0x11, 11, &TCP4),
        &v2_of_length(1, 0x21, 12, &TCP4),
        // Lengths that are never reached, or too long.
        &v2_of_length(1, 0x11, 400, &TCP4),
        &v2_of_length(0, 0, 1, &[]),
        &v2_of_length(1, 0x11, u16::MAX, &[0; 5000]),
        // Other versions, commands and families.
        &[SIGNATURE, &[0x11, 0x11, 0, 12], &TCP4].concat(),
        &[SIGNATURE, &[0x22, 0x11, 0, 12], &TCP4].concat(),
        &v2(1, 0x41, &TCP4),
        &v2(1, 0x13, &TCP4),
    ] {
        let splits = splits(sent.len().min(FIRST_SPLITS));
        let clients = smuggled.send(TRUSTED, sent, &splits);
        // A client that has seen the reset while sending does not see it again.
        for (at, mut client) in splits.iter().zip(clients).filter(|(_, client)| client.sent) {
            let outcome = client.stream.read(&mut [0]).map_err(|error| error.kind());
            assert_eq!(outcome, Err(ErrorKind::ConnectionReset), "{} split at {at}", sent.escape_ascii());
        }
        refused += splits.len() as u64;
        smuggled.rig.wait_closed(CloseReason::ProxyInvalid, refused);
    }
    assert_eq!(smuggled.rig.endpoint(smuggled.backend).connections(), 0);
}

/// Checks the bytes from a client that was cut off: the beginning of this proxy's header and of a signature, without a
/// clean end.
fn is_cut_off(smuggled: &Smuggled, ours: &[u8]) {
    let (bytes, is_clean) = smuggled.received();
    let behind = bytes.strip_prefix(ours);
    let harmless = match behind {
        Some(behind) => [&V1[..5], &SIGNATURE[..11]].iter().any(|signature| signature.starts_with(behind)),
        None => ours.starts_with(&bytes),
    };
    assert!(harmless && !is_clean, "{}", bytes.escape_ascii());
}

#[test]
fn a_second_header_never_reaches_a_backend_that_expects_one() {
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let smuggled = Smuggled::new(ProxyMode::Required, version, None);
        let mut refused = 0;
        for first in [V1.to_vec(), v2(1, 0x11, &TCP4), v2(1, 0x11, &[&TCP4[..], &[4, 0, 1, 0]].concat())] {
            for second in [V1.to_vec(), v2(1, 0x11, &TCP4), v2(0, 0, &[]), b"PROXY UNKNOWN\r\n".to_vec()] {
                // Also splits within the second header.
                let splits: Vec<usize> = (0..=SIGNATURE.len()).map(|more| first.len() + more).chain([0, 1]).collect();
                drop(smuggled.send(TRUSTED, &[&first[..], &second].concat(), &splits));
                refused += splits.len() as u64;
                smuggled.rig.wait_closed(CloseReason::ProxyUntrusted, refused);
            }
        }
        let ours = header(version, announced().unwrap());
        (0..refused).for_each(|_| is_cut_off(&smuggled, &ours));
    }
}

#[test]
fn headers_of_peers_that_are_not_trusted_never_reach_a_backend() {
    let smuggled = Smuggled::new(ProxyMode::Optional, ProxyVersion::V1, None);
    let mut refused = 0;
    for forged in
        [V1.to_vec(), v2(1, 0x11, &TCP4), v2(0, 0x11, &TCP4), [SIGNATURE, V1].concat(), v2_of_length(1, 0x11, 3, &TCP4)]
    {
        let splits = splits(forged.len().min(20));
        let clients = smuggled.send(OTHER, &forged, &splits);
        refused += splits.len() as u64;
        smuggled.rig.wait_closed(CloseReason::ProxyUntrusted, refused);
        drop(clients);
    }
    let dialled = smuggled.rig.endpoint(smuggled.backend).connections();
    for _ in 0..dialled {
        let (bytes, is_clean) = smuggled.received();
        let ours = format!("PROXY TCP4 {} ", std::net::Ipv4Addr::from(OTHER)).into_bytes();
        assert!(ours.starts_with(&bytes) || bytes.starts_with(&ours), "{}", bytes.escape_ascii());
        let more = bytes.windows(2).position(|pair| pair == b"\r\n").map_or(&[][..], |end| &bytes[end + 2..]);
        let harmless = [&V1[..5], &SIGNATURE[..11]].iter().any(|signature| signature.starts_with(more));
        assert!(harmless && !is_clean, "{}", bytes.escape_ascii());
    }
    // Bytes that are not a header are the client's payload, and the peer is the client.
    for payload in [&b"PROXYX"[..], b"proxy TCP4", b"\r\n\r\n\0\r\nQUIT", b"\r\n", b"PROXY", b"xPROXY TCP4"] {
        let splits: Vec<usize> = (0..=payload.len()).collect();
        let clients = smuggled.send(OTHER, payload, &splits);
        let ours = |client: &Client| header(ProxyVersion::V1, (client.address(), smuggled.address));
        let expected = clients.iter().map(|client| [ours(client), payload.to_vec()].concat());
        let received: Vec<_> = splits.iter().map(|_| smuggled.received()).collect();
        assert!(received.iter().all(|(_, is_clean)| *is_clean));
        assert_eq!(counted(received.into_iter().map(|(bytes, _)| bytes)), counted(expected));
    }
}

#[test]
fn a_header_within_tls_never_reaches_a_backend() {
    let authority = Authority::new();
    let certificate = authority.certificate_for(&["db.example"]);
    let smuggled = Smuggled::new(ProxyMode::Required, ProxyVersion::V1, tls::tls(&certificate));
    let config = authority.client(&[&TLS13]);
    let ours = header(ProxyVersion::V1, announced().unwrap());
    let connect = || {
        let mut client = connect_from(TRUSTED, smuggled.address);
        client.write_all(V1).unwrap();
        tls::handshake(&config, client).unwrap()
    };
    for forged in [V1.to_vec(), v2(1, 0x11, &TCP4)] {
        for at in [0, 1, 5] {
            let mut client = connect();
            client.write_all(&forged[..at]).unwrap();
            let _ = client.write_all(&forged[at..]);
            is_cut_off(&smuggled, &ours);
        }
    }
    smuggled.rig.wait_closed(CloseReason::ProxyUntrusted, 6);
    let mut client = connect();
    client.write_all(b"payload").unwrap();
    tls::end(client);
    assert_eq!(smuggled.received(), ([&ours[..], b"payload"].concat(), true));
}
