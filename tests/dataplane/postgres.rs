//! PostgreSQL messages before TLS.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

use rustls::{ServerConnection, StreamOwned, version::TLS13};
use tcplb::{
    model::{Certificate, ProxyVersion, Route, StartTls, Tls, TlsMode, TlsVersion},
    proxy::accounting::CloseReason,
};

use crate::{
    authority::Authority,
    rig::*,
    routes::server_config,
    tls::{end, handshake},
};

pub const ASK: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";
pub const CANCEL: &[u8] = b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x07secr";

pub fn postgres(mode: TlsMode, certificate: &Arc<Certificate>) -> Option<Tls> {
    Some(Tls {
        certificates: vec![certificate.clone()],
        min_version: TlsVersion::V1_2,
        alpn: Vec::new(),
        start_tls: Some(StartTls::Postgres),
        client_validation: None,
        routes: vec![Route { server_names: Vec::new(), mode, backends: None }],
    })
}

/// A client whose request for TLS was accepted.
fn asked(rig: &Rig) -> TcpStream {
    let mut client = rig.connect();
    client.write_all(ASK).unwrap();
    assert_eq!(read_exactly(&client, 1), b"S");
    client
}

#[test]
fn tls_that_is_asked_for_ends_here_or_is_asked_for_at_the_backend() {
    let authority = Authority::new();
    let certificate = authority.certificate_for(&["db.example"]);
    let config = authority.client(&[&TLS13]);
    let theirs = server_config(&certificate);
    let asks_first = Backend::serving(move |mut stream| {
        // The PROXY header precedes everything else.
        let start = read_exactly(&stream, 16);
        assert_eq!(start[..12], *b"\r\n\r\n\0\r\nQUIT\n");
        let parameters = read_exactly(&stream, u16::from_be_bytes([start[14], start[15]]).into());
        assert!(parameters.ends_with(b"\x02\0\x0adb.example"), "the name that the client asks for: {parameters:?}");
        assert_eq!(read_exactly(&stream, ASK.len()), ASK);
        stream.write_all(b"S").unwrap();
        let mut stream = StreamOwned::new(ServerConnection::new(theirs.clone()).unwrap(), stream);
        is_echoing(&mut stream);
        stream.conn.send_close_notify();
        stream.flush().unwrap();
    });
    let terminated = Rig::with(&[Backend::echo()], |listener, _| {
        listener.tls = postgres(TlsMode::Terminate, &certificate);
    });
    let passed = Rig::with(&[asks_first], |listener, upstream| {
        listener.tls = postgres(TlsMode::Passthrough, &certificate);
        backend_of(upstream).proxy_protocol = Some(ProxyVersion::V2);
    });
    for rig in [&terminated, &passed] {
        let mut client = handshake(&config, asked(rig)).unwrap();
        is_echoed(&mut client);
        end(client);
        rig.wait_closed(CloseReason::Complete, 1);
    }
    let mut direct = handshake(&config, terminated.connect()).unwrap();
    is_echoed(&mut direct);
    end(direct);
}

/// Expects an echoed byte, then the end.
fn is_echoing(stream: &mut (impl Read + Write)) {
    let byte = read_exactly(&mut *stream, 1);
    stream.write_all(&byte).unwrap();
    assert_eq!(read_to_end(stream), b"");
}

#[test]
fn a_backend_without_tls_gives_an_error_response() {
    let authority = Authority::new();
    let certificate = authority.certificate_for(&["db.example"]);
    let declines = Backend::serving(|mut stream| {
        let _ = stream.read_exact(&mut [0; 8]);
        let _ = stream.write_all(b"N");
        let _ = stream.read(&mut [0]);
    });
    let rig = Rig::with(&[declines], |listener, _| listener.tls = postgres(TlsMode::Passthrough, &certificate));
    handshake(&authority.client(&[&TLS13]), asked(&rig)).unwrap_err();
    rig.wait_closed(CloseReason::BackendTls, 1);
    let failure = rig.endpoint(declines).state().last_failure.unwrap();
    assert_eq!(failure.reason, "the endpoint does not support TLS");
}

#[test]
fn malformed_startup_requests_are_refused() {
    let authority = Authority::new();
    let certificate = authority.certificate_for(&["db.example"]);
    let backend = Backend::new();
    let rig = Rig::with(&[backend.address], |listener, _| listener.tls = postgres(TlsMode::Terminate, &certificate));
    let mut unencrypted = rig.connect();
    unencrypted.write_all(b"\0\0\0\x17\0\x03\0\0user\0postgres\0\0").unwrap();
    let error = read_to_end(&unencrypted);
    assert!(error[0] == b'E' && String::from_utf8_lossy(&error).contains("TLS is required here"));

    let mut injecting = rig.connect();
    injecting.write_all(&[ASK, b"Q\0\0\0\x04"].concat()).unwrap();
    is_reset(&injecting);
    let mut other = rig.connect();
    other.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    is_reset(&other);
    rig.wait_closed(CloseReason::TlsFailed, 3);
    for fault in ["unencrypted", "bytes_behind_request", "not_postgres"] {
        let expected = format!(" reason=tls_failed tls_client_fault={fault}");
        wait_until("it is logged", || rig.logged().iter().any(|line| line.ends_with(&expected)));
    }
    assert!(backend.accept_now().is_none());
}

#[test]
fn a_flood_of_cancel_requests_does_not_block_others() {
    let certificate = Authority::new().certificate_for(&["db.example"]);
    // These servers accept requests, and do not end the connection as PostgreSQL does.
    let silent = || Backend::serving(|mut stream| drop(std::io::copy(&mut stream, &mut std::io::sink())));
    let rig = Rig::with(&[silent(), silent(), silent()], |listener, _| {
        listener.tls = postgres(TlsMode::Passthrough, &certificate);
    });
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for thread in 0..40 {
            let (rig, stop) = (&rig, &stop);
            scope.spawn(move || {
                while !stop.load(Relaxed) {
                    let mut client = connect_from([127, 0, 2, 1 + thread % 2], rig.address());
                    client.write_all(CANCEL).unwrap();
                    let _ = client.read(&mut [0]);
                }
            });
        }
        wait_until("the flood has begun", || rig.accepted() > 100);
        for _ in 0..20 {
            let mut client = rig.connect();
            client.write_all(CANCEL).unwrap();
            assert_eq!(read_to_end(&client), b"", "it is handed over");
        }
        stop.store(true, Relaxed);
    });
}

#[test]
fn a_request_to_cancel_is_handed_to_every_endpoint() {
    let authority = Authority::new();
    let certificate = authority.certificate_for(&["db.example"]);
    let (one, other) = (Backend::new(), Backend::new());
    let (_held, dead) = dead_address();
    let silent = BlackHole::new();
    let rig = Rig::with(&[one.address, other.address, dead, silent.address], |listener, upstream| {
        listener.tls = postgres(TlsMode::Passthrough, &certificate);
        let announced = tcplb::model::Backend { proxy_protocol: Some(ProxyVersion::V2), ..Default::default() };
        upstream.backends.insert("announced".into(), Arc::new(announced));
        let its_own = upstream.endpoints.iter_mut().find(|endpoint| endpoint.address() == other.address);
        its_own.unwrap().key.backend = "announced".into();
        upstream.endpoints.sort_by(|one, other| one.key.cmp(&other.key));
    });
    let mut client = rig.connect();
    client.write_all(CANCEL).unwrap();
    let (first, second) = (one.accept(), other.accept());
    assert_eq!(read_exactly(&first, CANCEL.len()), CANCEL);
    assert_eq!(read_exactly(&second, 28 + CANCEL.len())[28..], *CANCEL);
    drop((first, second));
    // Silent servers are waited for, but not for as long as connecting would take.
    assert_eq!(read_to_end(&client), b"");
    rig.wait_closed(CloseReason::Complete, 1);
    assert!(rig.logged().iter().all(|line| !line.contains("secr")));
}
