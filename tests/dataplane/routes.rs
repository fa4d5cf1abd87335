//! Routes by server name, to backends with and without their own TLS.

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    sync::Arc,
    thread,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned,
    client::{EchConfig, EchMode},
    crypto::aws_lc_rs::{self, hpke},
    pki_types::{EchConfigListBytes, ServerName},
    sign::SingleCertAndKey,
    version::{TLS12, TLS13},
};
use tcplb::{
    model::{Certificate, Route, Tls, TlsMode, TlsVersion},
    proxy::accounting::CloseReason,
};

use crate::{
    authority::Authority,
    relay::{receive_pattern, send_pattern, transfer_over},
    rig::*,
    tls::{Client, end, handshake_for},
};

/// Offers X25519 with HKDF-SHA256 and AES-128-GCM, for a key that no server has (RFC 9849, section 4).
fn encrypted_hello_config(public_name: &str) -> EchConfigListBytes<'static> {
    let with_length = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let (config_id, kem, suites) = ([7], [0, 0x20], [0, 1, 0, 1]);
    let public_key = [&[9][..], &[0; 31]].concat();
    let key_config = [&config_id[..], &kem, &with_length(&public_key), &with_length(&suites)].concat();
    let name = [&[64, public_name.len() as u8][..], public_name.as_bytes()].concat();
    let contents = [key_config, name, with_length(&[])].concat();
    let config = [&[0xfe, 0x0d][..], &with_length(&contents)].concat();
    EchConfigListBytes::from(with_length(&config))
}

#[test]
fn an_encrypted_client_hello_is_routed_by_its_outer_name() {
    let authority = Authority::new();
    let (outer, inner) = (Backend::new(), Backend::new());
    let to = |name: &str, backend| route(&[name], TlsMode::Passthrough, Some(&[backend]));
    let routes = vec![to("front.example", "outer"), to("secret.example", "inner")];
    let rig = rig(&[("outer", outer.address), ("inner", inner.address)], routed(&[], routes));

    let config = EchConfig::new(encrypted_hello_config("front.example"), hpke::ALL_SUPPORTED_SUITES).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_ech(EchMode::from(config))
        .unwrap()
        .with_root_certificates(authority.roots())
        .with_no_client_auth();
    let name = ServerName::try_from("secret.example").unwrap();
    let mut hello = Vec::new();
    ClientConnection::new(config.into(), name).unwrap().write_tls(&mut hello).unwrap();
    assert!(!hello.windows(14).any(|part| part == b"secret.example"), "it is encrypted");

    let mut client = rig.connect();
    client.write_all(&hello).unwrap();
    assert_eq!(read_exactly(outer.accept(), hello.len()), hello);
    assert!(inner.accept_now().is_none());
}

/// A server that sends its name, then echoes.
fn says(name: &'static str) -> SocketAddr {
    Backend::serving(move |mut stream| answer(&mut stream, name))
}

/// A server that sends its name over its own TLS, then echoes.
fn says_over_tls(name: &'static str, certificate: &Certificate) -> SocketAddr {
    let config = server_config(certificate);
    Backend::serving(move |stream| {
        let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
        answer(&mut stream, name);
        stream.conn.send_close_notify();
        let _ = stream.flush();
    })
}

pub fn server_config(certificate: &Certificate) -> Arc<ServerConfig> {
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from((*certificate.key).clone())));
    Arc::new(config)
}

fn answer(stream: &mut (impl Read + Write), name: &str) {
    let mut bytes = [0; 100];
    // The client sends first: the server sends nothing before the handshake is complete.
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        let _ = stream.write_all(name.as_bytes());
        let _ = stream.write_all(&bytes[..count]);
    }
}

fn route(names: &[&str], mode: TlsMode, backends: Option<&[&str]>) -> Route {
    Route {
        server_names: names.iter().copied().map(Into::into).collect(),
        mode,
        backends: backends.map(|names| names.iter().copied().map(Into::into).collect()),
    }
}

fn routed(certificates: &[&Arc<Certificate>], routes: Vec<Route>) -> Option<Tls> {
    let certificates = certificates.iter().copied().cloned().collect();
    Some(Tls {
        certificates,
        min_version: TlsVersion::V1_2,
        alpn: Vec::new(),
        start_tls: None,
        client_validation: None,
        routes,
    })
}

/// A rig with routes to backends by name, each with one endpoint.
fn rig(backends: &[(&str, SocketAddr)], tls: Option<Tls>) -> Rig {
    let addresses: Vec<_> = backends.iter().map(|(_, address)| *address).collect();
    Rig::with(&addresses, |listener, upstream| {
        listener.tls = tls;
        for endpoint in &mut upstream.endpoints {
            let (name, _) = backends.iter().find(|(_, address)| *address == endpoint.address()).unwrap();
            endpoint.key.backend = (*name).into();
        }
        upstream.backends = backends.iter().map(|(name, _)| ((*name).into(), Arc::default())).collect();
        upstream.endpoints.sort_by(|one, other| one.key.cmp(&other.key));
    })
}

/// The name of the server that a client with this server name reaches, and the certificate it sees.
fn reached(rig: &Rig, config: &Arc<ClientConfig>, name: &str) -> io::Result<(String, Vec<u8>)> {
    let mut client = handshake_for(name, config, rig.connect())?;
    let certificate = client.conn.peer_certificates().unwrap()[0].to_vec();
    client.write_all(b"?")?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"?") {
        answer.extend(read_exactly(&mut client, 1));
    }
    answer.pop();
    end(client);
    Ok((String::from_utf8(answer).unwrap(), certificate))
}

fn reached_name(rig: &Rig, config: &Arc<ClientConfig>, name: &str) -> String {
    reached(rig, config, name).unwrap_or_else(|error| panic!("{name}: {error}")).0
}

#[test]
fn the_server_name_selects_the_route_and_passthrough_tls_ends_at_the_backend() {
    use TlsMode::{Passthrough, Terminate};
    let authority = Authority::new();
    let ours = authority.certificate_for(&["terminated.example", "*.wild.example"]);
    let theirs = authority.certificate_for(&["passed.example", "*.passed.example", "*.deep.passed.example"]);
    let other = authority.certificate_for(&["other.example", "wild.example"]);
    let backends = [
        ("exact", says_over_tls("exact", &theirs)),
        ("below", says_over_tls("below", &theirs)),
        ("deep", says_over_tls("deep", &theirs)),
        ("plain", says("plain")),
        ("rest", says_over_tls("rest", &other)),
    ];
    let routes = vec![
        route(&["terminated.example", "*.wild.example"], Terminate, Some(&["plain"])),
        route(&["*.passed.example"], Passthrough, Some(&["below"])),
        route(&["*.deep.passed.example"], Passthrough, Some(&["deep"])),
        route(&["passed.example"], Passthrough, Some(&["exact"])),
        route(&[], Passthrough, Some(&["rest"])),
    ];
    let rig = rig(&backends, routed(&[&ours], routes));
    for version in [&TLS12, &TLS13] {
        let config = authority.client(&[version]);
        for (name, expected, certificate) in [
            ("passed.example", "exact", &theirs),
            ("any.passed.example", "below", &theirs),
            ("any.deep.passed.example", "deep", &theirs),
            ("terminated.example", "plain", &ours),
            ("any.wild.example", "plain", &ours),
            ("other.example", "rest", &other),
            // A wildcard does not match its own domain.
            ("wild.example", "rest", &other),
        ] {
            let (answer, presented) = reached(&rig, &config, name).unwrap();
            assert_eq!(answer, expected, "{name}");
            assert_eq!(presented, certificate.key.cert[0].to_vec(), "{name}");
        }
    }
    assert_eq!(rig.handshakes().0, 4, "only two names are terminated here");
    let asked_for = |line: &String| line.contains("tls_server_name=any.deep.passed.example");
    wait_until("the log tells what was asked for", || rig.logged().iter().any(asked_for));
}

#[test]
fn a_client_without_a_matching_route_gets_an_alert() {
    let authority = Authority::new();
    let certificate = authority.certificate_for(&["db.example"]);
    let backend = ("db", says_over_tls("db", &certificate));
    let only = route(&["db.example"], TlsMode::Passthrough, None);
    let mut rig = rig(&[backend], routed(&[], vec![only.clone()]));
    let config = authority.client(&[&TLS13]);
    assert_eq!(reached_name(&rig, &config, "DB.example"), "db");
    for name in ["other.example", "db.example.org", "192.0.2.1"] {
        let error = reached(&rig, &config, name).unwrap_err().to_string();
        assert!(error.contains("UnrecognisedName"), "{name}: {error}");
    }
    rig.wait_closed(CloseReason::NoRoute, 3);
    let is_told = |line: &String| line.contains("tls_server_name=other.example") && line.ends_with("reason=no_route");
    wait_until("the log tells what it asked for", || rig.logged().iter().any(is_told));

    let others = Route { server_names: Vec::new(), ..only };
    rig.change_listener(|listener| listener.tls = routed(&[], vec![others]));
    let asks_for_none = handshake_for("192.0.2.1", &config, rig.connect()).unwrap_err().to_string();
    assert!(asks_for_none.contains("certificate"), "the backend's, which is not for an address: {asks_for_none}");
}

#[test]
fn a_client_hello_may_come_in_pieces_and_has_a_deadline() {
    let authority = Authority::new();
    let certificate = authority.certificate_for(&["db.example"]);
    let backend = ("db", says_over_tls("db", &certificate));
    let mut rig = rig(&[backend], routed(&[], vec![route(&["db.example"], TlsMode::Passthrough, None)]));
    let config = authority.client(&[&TLS13]);
    let name = ServerName::try_from("db.example").unwrap();
    let mut client = ClientConnection::new(config, name).unwrap();
    let mut stream = rig.connect();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    for byte in &hello {
        stream.write_all(std::slice::from_ref(byte)).unwrap();
    }
    let mut client = StreamOwned::new(client, stream);
    client.write_all(b"?").unwrap();
    assert_eq!(read_exactly(&mut client, 3), b"db?");
    end(client);
    rig.wait_closed(CloseReason::Complete, 1);

    let mut garbage = rig.connect();
    garbage.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    is_reset(&garbage);
    let mut ended = rig.connect();
    ended.write_all(&hello[..100]).unwrap();
    ended.shutdown(std::net::Shutdown::Write).unwrap();
    is_reset(&ended);
    rig.wait_closed(CloseReason::TlsFailed, 2);

    // Longer than a busy machine takes to send the first bytes.
    rig.change_listener(|listener| listener.timeouts.handshake = Duration::from_secs(2));
    let mut stalled = rig.connect();
    stalled.write_all(&hello[..hello.len() - 1]).unwrap();
    is_reset(&stalled);
    is_reset(rig.connect());
    rig.wait_closed(CloseReason::TlsTimeout, 2);
}

#[test]
fn a_route_without_a_usable_endpoint_refuses_and_the_others_serve() {
    let authority = Authority::new();
    let certificate = authority.certificate_for(&["db.example", "gone.example", "none.example"]);
    let (_held, dead) = dead_address();
    let backends = [("db", says_over_tls("db", &certificate)), ("gone", dead)];
    let passed = |name: &str, backends: &[&str]| route(&[name], TlsMode::Passthrough, Some(backends));
    let routes = vec![
        passed("db.example", &["db"]),
        passed("gone.example", &["gone"]),
        passed("none.example", &[]),
        route(&["terminated.example"], TlsMode::Terminate, Some(&[])),
    ];
    let rig = rig(&backends, routed(&[&certificate], routes));
    let config = authority.client(&[&TLS13]);
    assert!(reached(&rig, &config, "gone.example").is_err());
    rig.wait_closed(CloseReason::ConnectFailed, 1);
    for name in ["none.example", "terminated.example"] {
        assert!(reached(&rig, &config, name).is_err());
    }
    rig.wait_closed(CloseReason::NoEndpoint, 2);
    assert_eq!(reached_name(&rig, &config, "db.example"), "db");
}

#[test]
fn passthrough_data_arrives_completely_in_both_directions() {
    const LENGTH: usize = 3 << 20;
    let authority = Authority::new();
    let certificate = authority.certificate_for(&["db.example"]);
    let config = server_config(&certificate);
    let backend = Backend::serving(move |stream| {
        let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
        assert_eq!(receive_pattern(&mut stream, 2), LENGTH);
        send_pattern(&mut stream, 1, LENGTH);
        stream.conn.send_close_notify();
        stream.flush().unwrap();
    });
    let rig = rig(&[("db", backend)], routed(&[], vec![route(&[], TlsMode::Passthrough, None)]));
    let config = authority.client(&[&TLS13]);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let client: Client = handshake_for("db.example", &config, rig.connect()).unwrap();
                transfer_over(client, 2, 1, LENGTH);
            });
        }
    });
    rig.wait_closed(CloseReason::Complete, 3);
}

#[test]
fn a_change_of_routes_disturbs_no_connection() {
    let authority = Authority::new();
    let certificate = authority.certificate_for(&["db.example"]);
    let backends = [("a", says_over_tls("a", &certificate)), ("b", says_over_tls("b", &certificate))];
    let to = |backend: &str| routed(&[], vec![route(&["db.example"], TlsMode::Passthrough, Some(&[backend]))]);
    let mut rig = rig(&backends, to("a"));
    let config = authority.client(&[&TLS13]);
    let mut open: Client = handshake_for("db.example", &config, rig.connect()).unwrap();
    open.write_all(b"?").unwrap();
    assert_eq!(read_exactly(&mut open, 2), b"a?");

    rig.change_listener(|listener| listener.tls = to("b"));
    assert_eq!(reached_name(&rig, &config, "db.example"), "b");
    open.write_all(b"!").unwrap();
    assert_eq!(read_exactly(&mut open, 2), b"a!");
    end(open);
}
