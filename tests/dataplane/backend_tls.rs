//! TLS towards backends.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use serde_json::{Value, json};
use tcplb::{
    model::{Preconnect, ProxyVersion, Route, Tls, TlsMode, TlsVersion, UpstreamConfig},
    proxy::accounting::CloseReason,
};

use crate::{
    authority::{Authority, Issued},
    mtls::translated,
    postgres::{ASK, CANCEL, postgres},
    relay::{receive_pattern, send_pattern, transfer},
    rig::*,
    tls::handshake,
};

type Served = StreamOwned<ServerConnection, TcpStream>;

/// Configures TLS for the only backend of an upstream.
fn encrypted(upstream: &mut UpstreamConfig, tls: &Value, files: &[(&str, String)]) {
    let spec = json!({"listeners": [{"port": 1}], "backends": [{"addresses": ["127.0.0.1:2"], "tls": tls}]});
    let snapshot = translated(spec, files);
    let declared = snapshot.upstreams.values().next().unwrap();
    backend_of(upstream).tls.clone_from(&declared.backends["default"].tls);
}

/// Configures verification by this authority.
fn verified(upstream: &mut UpstreamConfig, authority: &Authority) {
    let tls = json!({"serverName": "db.example", "caRefs": [{"files": {"ca": "ca"}}]});
    encrypted(upstream, &tls, &[("ca", authority.pem())]);
}

/// A server with this certificate, which requires client certificates if there is an authority for them.
fn server(
    certificate: &Issued,
    clients: Option<&Authority>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(certificate.certificate.as_bytes()).unwrap()];
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let roots = Arc::new(authority.roots());
            builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(roots, provider).build().unwrap(),
            )
        }
    };
    Arc::new(builder.with_single_cert(chain, key).unwrap())
}

fn served(config: &Arc<ServerConfig>, stream: TcpStream) -> Served {
    StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream)
}

fn close(mut stream: Served) {
    stream.conn.send_close_notify();
    let _ = stream.flush();
}

fn echo_over(mut stream: Served) {
    let mut bytes = [0; 1000];
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        let _ = stream.write_all(&bytes[..count]);
    }
    close(stream);
}

fn echo(config: &Arc<ServerConfig>) -> SocketAddr {
    let config = config.clone();
    Backend::serving(move |stream| echo_over(served(&config, stream)))
}

const BOTH: [&rustls::SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

#[test]
fn plaintext_of_clients_is_encrypted_to_the_backend() {
    const LENGTH: usize = 2 << 20;
    let authority = Authority::new();
    for version in BOTH {
        let config = server(&authority.issue("db.example"), None, &[version]);
        let backend = Backend::serving(move |stream| {
            let mut stream = served(&config, stream);
            assert_eq!(receive_pattern(&mut stream, 1), LENGTH);
            assert_eq!(stream.conn.server_name(), Some("db.example"));
            send_pattern(&mut stream, 2, LENGTH);
            close(stream);
        });
        let rig = Rig::with(&[backend], |_, upstream| verified(upstream, &authority));
        for _ in 0..3 {
            transfer(rig.connect(), 1, 2, LENGTH);
        }
        rig.wait_closed(CloseReason::Complete, 3);
        assert_eq!(rig.bytes(), (3 * LENGTH as u64, 3 * LENGTH as u64));
        assert_eq!(rig.backend_handshakes(), (1, 2), "sessions are resumed");
    }
}

#[test]
fn a_request_to_cancel_goes_over_tls_where_connections_do() {
    let authority = Authority::new();
    let config = server(&authority.issue("db.example"), None, &BOTH);
    let certificate = authority.certificate_for(&["shop.example"]);
    let backend = Backend::new();
    let rig = Rig::with(&[backend.address], |listener, upstream| {
        listener.tls = postgres(TlsMode::Terminate, &certificate);
        let tls = json!({"serverName": "db.example", "caRefs": [{"files": {"ca": "ca"}}], "startTls": "Postgres"});
        encrypted(upstream, &tls, &[("ca", authority.pem())]);
    });
    let mut client = rig.connect();
    client.write_all(CANCEL).unwrap();
    let mut stream = backend.accept();
    assert_eq!(read_exactly(&stream, ASK.len()), ASK);
    stream.write_all(b"S").unwrap();
    let mut stream = served(&config, stream);
    assert_eq!(read_exactly(&mut stream, CANCEL.len()), CANCEL);
    close(stream);
    assert_eq!(read_to_end(&client), b"");
    rig.wait_closed(CloseReason::Complete, 1);
}

#[test]
fn the_clients_tls_ends_and_another_begins() {
    let authority = Authority::new();
    let certificate = authority.certificate_for(&["shop.example"]);
    let backend = echo(&server(&authority.issue("db.example"), None, &BOTH));
    let rig = Rig::with(&[backend], |listener, upstream| {
        listener.tls = terminating(&certificate, TlsMode::Terminate);
        verified(upstream, &authority);
    });
    let config = authority.client(&[&TLS13]);
    let mut client = crate::tls::handshake_for("shop.example", &config, rig.connect()).unwrap();
    is_echoed(&mut client);
    crate::tls::end(client);
    rig.wait_closed(CloseReason::Complete, 1);
}

fn terminating(certificate: &Arc<tcplb::model::Certificate>, mode: TlsMode) -> Option<Tls> {
    Some(Tls {
        certificates: vec![certificate.clone()],
        min_version: TlsVersion::V1_2,
        alpn: Vec::new(),
        start_tls: None,
        client_validation: None,
        routes: vec![Route { server_names: Vec::new(), mode, backends: None }],
    })
}

#[test]
fn passthrough_keeps_the_tls_of_the_client() {
    let authority = Authority::new();
    let certificate = authority.certificate_for(&["db.example"]);
    let backend = echo(&server(&authority.issue("db.example"), None, &BOTH));
    let rig = Rig::with(&[backend], |listener, upstream| {
        listener.tls = terminating(&certificate, TlsMode::Passthrough);
        verified(upstream, &authority);
    });
    let mut client = handshake(&authority.client(&[&TLS13]), rig.connect()).unwrap();
    is_echoed(&mut client);
    crate::tls::end(client);
    rig.wait_closed(CloseReason::Complete, 1);
    assert_eq!(rig.backend_handshakes(), (0, 0));
}

/// The reason why an endpoint could not be used by the only client that tried.
fn failure(rig: &Rig, backend: SocketAddr) -> String {
    is_reset(rig.connect());
    rig.wait_closed(CloseReason::BackendTls, 1);
    let endpoint = rig.endpoint(backend);
    assert_eq!((endpoint.connect_failures(), endpoint.connections()), (1, 0));
    endpoint.state().last_failure.unwrap().reason.clone()
}

#[test]
fn a_backend_with_another_identity_gets_no_data() {
    let (authority, other) = (Authority::new(), Authority::new());
    for (issued, problem) in
        [(authority.issue("other.example"), "not valid for name"), (other.issue("db.example"), "UnknownIssuer")]
    {
        let backend = echo(&server(&issued, None, &BOTH));
        let rig = Rig::with(&[backend], |_, upstream| verified(upstream, &authority));
        let reason = failure(&rig, backend);
        assert!(reason.contains(problem), "{reason}");
    }
    let plain = Backend::echo();
    let reason = failure(&Rig::with(&[plain], |_, upstream| verified(upstream, &authority)), plain);
    assert!(reason.contains("TLS handshake failed"), "{reason}");
    let silent = Backend::new();
    let rig = Rig::with(&[silent.address], |_, upstream| {
        verified(upstream, &authority);
        upstream.connect.timeout = Duration::from_millis(200);
    });
    let reason = failure(&rig, silent.address);
    assert_eq!(reason, "the TLS handshake did not finish within connect.timeout");
}

#[test]
fn a_revoked_certificate_of_a_backend_is_not_taken() {
    let authority = Authority::new();
    let issued = authority.issue("db.example");
    let backend = echo(&server(&issued, None, &BOTH));
    let rig = Rig::with(&[backend], |_, upstream| {
        let tls = json!({"serverName": "db.example", "caRefs": [{"files": {"ca": "ca", "crl": "crl"}}]});
        encrypted(upstream, &tls, &[("ca", authority.pem()), ("crl", authority.revoked(&[&issued]))]);
    });
    let reason = failure(&rig, backend);
    assert!(reason.contains("Revoked"), "{reason}");
}

/// An authority whose own certificate is also used as that of a server.
fn self_signed(change: impl FnOnce(&mut CertificateParams)) -> Authority {
    Authority::with(|params| {
        params.subject_alt_names = vec![SanType::DnsName("db.example".try_into().unwrap())];
        change(params);
    })
}

#[test]
fn a_self_signed_certificate_that_is_configured_as_its_own_authority_is_accepted() {
    for version in BOTH {
        let own = self_signed(|_| {});
        let backend = echo(&server(&own.itself(), None, &[version]));
        let rig = Rig::with(&[backend], |_, upstream| verified(upstream, &own));
        let mut client = rig.connect();
        is_echoed(&mut client);
        drop(client);
        // Certificates that it issued are accepted as well.
        let issued = echo(&server(&own.issue("db.example"), None, &[version]));
        let rig = Rig::with(&[issued], |_, upstream| verified(upstream, &own));
        is_echoed(&mut rig.connect());
    }
}

#[test]
fn a_self_signed_certificate_has_the_same_requirements_as_others() {
    let purposes = |purpose| move |params: &mut CertificateParams| params.extended_key_usages = vec![purpose];
    let long_ago = |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(2000, 1, 1);
    let not_yet = |params: &mut CertificateParams| params.not_before = rcgen::date_time_ymd(4000, 1, 1);
    let other_name = |params: &mut CertificateParams| {
        params.subject_alt_names = vec![SanType::DnsName("other.example".try_into().unwrap())];
    };
    let only_signs = |params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    for (own, problem) in [
        (self_signed(other_name), "not valid for name"),
        (self_signed(long_ago), "Expired"),
        (self_signed(not_yet), "NotValidYet"),
        (self_signed(purposes(ExtendedKeyUsagePurpose::ClientAuth)), "InvalidPurpose"),
        (self_signed(only_signs), "InvalidPurpose"),
    ] {
        let backend = echo(&server(&own.itself(), None, &BOTH));
        let rig = Rig::with(&[backend], |_, upstream| verified(upstream, &own));
        let reason = failure(&rig, backend);
        assert!(reason.contains(problem), "{problem}: {reason}");
    }
    // Another certificate with the same names and another key.
    let (own, other) = (self_signed(|_| {}), self_signed(|_| {}));
    let backend = echo(&server(&other.itself(), None, &BOTH));
    let rig = Rig::with(&[backend], |_, upstream| verified(upstream, &own));
    failure(&rig, backend);
}

#[test]
fn another_endpoint_is_tried_where_one_agrees_to_no_tls() {
    let authority = Authority::new();
    let (right, wrong) = (echo(&server(&authority.issue("db.example"), None, &BOTH)), Backend::echo());
    let rig = Rig::with(&[right, wrong], |_, upstream| verified(upstream, &authority));
    for _ in 0..4 {
        let client = rig.connect();
        is_echoed(&client);
        drop(client);
    }
    rig.wait_closed(CloseReason::Complete, 4);
    assert!(rig.endpoint(wrong).connect_failures() > 0);
    assert_eq!(rig.endpoint(right).connections(), 4);
}

#[test]
fn the_backend_is_shown_a_certificate() {
    let authority = Authority::new();
    let config = server(&authority.issue("db.example"), Some(&authority), &BOTH);
    let backend = Backend::serving(move |stream| {
        let mut stream = served(&config, stream);
        assert_eq!(read_exactly(&mut stream, 1), b"?");
        assert_eq!(stream.conn.peer_certificates().map(<[_]>::len), Some(1));
        stream.write_all(b"!").unwrap();
        close(stream);
    });
    let shown = authority.issue("tcplb");
    let rig = Rig::with(&[backend], |_, upstream| {
        let tls = json!({
            "serverName": "db.example",
            "caRefs": [{"files": {"ca": "ca"}}],
            "certificateRef": {"files": {"certificate": "crt", "key": "key"}},
        });
        let files = [("ca", authority.pem()), ("crt", shown.certificate.clone()), ("key", shown.key.clone())];
        encrypted(upstream, &tls, &files);
    });
    let client = rig.connect();
    (&client).write_all(b"?").unwrap();
    assert_eq!(read_to_end(&client), b"!");
    drop(client);
    rig.wait_closed(CloseReason::Complete, 1);
}

#[test]
fn any_certificate_is_taken_where_that_is_spelled_out() {
    let stranger = Authority::new();
    let backend = echo(&server(&stranger.issue("whoever.example"), None, &BOTH));
    for tls in [json!({"insecureSkipVerify": true}), json!({"insecureSkipVerify": true, "serverName": "db.example"})] {
        let rig = Rig::with(&[backend], |_, upstream| encrypted(upstream, &tls, &[]));
        is_echoed(rig.connect());
        rig.wait_closed(CloseReason::Complete, 1);
    }
}

#[test]
fn plaintext_of_a_start_tls_server_precedes_tls() {
    const ASK: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";
    let authority = Authority::new();
    let config = server(&authority.issue("db.example"), None, &BOTH);
    let backend = Backend::serving(move |mut stream| {
        assert_eq!(read_exactly(&stream, 28)[..12], *b"\r\n\r\n\0\r\nQUIT\n");
        assert_eq!(read_exactly(&stream, ASK.len()), ASK);
        stream.write_all(b"S").unwrap();
        echo_over(served(&config, stream));
    });
    let postgres = json!({"serverName": "db.example", "caRefs": [{"files": {"ca": "ca"}}], "startTls": "Postgres"});
    let files = [("ca", authority.pem())];
    let rig = Rig::with(&[backend], |_, upstream| {
        encrypted(upstream, &postgres, &files);
        backend_of(upstream).proxy_protocol = Some(ProxyVersion::V2);
    });
    is_echoed(rig.connect());
    rig.wait_closed(CloseReason::Complete, 1);

    let without = Backend::serving(|mut stream| {
        assert_eq!(read_exactly(&stream, ASK.len()), ASK);
        stream.write_all(b"N").unwrap();
        let _ = io::copy(&mut stream, &mut io::sink());
    });
    let rig = Rig::with(&[without], |_, upstream| encrypted(upstream, &postgres, &files));
    assert_eq!(failure(&rig, without), "the endpoint does not support TLS");
}

#[test]
fn a_connection_opened_in_advance_is_encrypted_when_it_is_needed() {
    let authority = Authority::new();
    let backend = echo(&server(&authority.issue("db.example"), None, &BOTH));
    let rig = Rig::with(&[backend], |_, upstream| {
        verified(upstream, &authority);
        upstream.connect.preconnect =
            Some(Preconnect { per_endpoint: 2.try_into().unwrap(), idle_timeout: Duration::from_secs(30) });
    });
    let endpoint = rig.endpoint(backend);
    wait_until("some are ready", || endpoint.pool_figures().idle == 2);
    is_echoed(rig.connect());
    rig.wait_closed(CloseReason::Complete, 1);
    assert_eq!(endpoint.pool_figures().hits, 1);
}

#[test]
fn each_side_may_end_its_half_of_an_encrypted_connection() {
    let authority = Authority::new();
    let config = server(&authority.issue("db.example"), None, &BOTH);
    let backend = Backend::new();
    let rig = Rig::with(&[backend.address], |_, upstream| verified(upstream, &authority));
    let opened = || {
        let client = rig.connect();
        let mut stream = served(&config, backend.accept());
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).unwrap();
        }
        (client, stream)
    };
    let (client, mut stream) = opened();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut stream), b"");
    let sending = thread::spawn(move || {
        send_pattern(&mut stream, 1, 1 << 20);
        close(stream);
    });
    assert_eq!(receive_pattern(&client, 1), 1 << 20);
    sending.join().unwrap();
    rig.wait_closed(CloseReason::Complete, 1);

    let (client, mut stream) = opened();
    stream.write_all(b"half an ans").unwrap();
    assert_eq!(read_exactly(&client, 11), b"half an ans");
    // An unauthenticated end is not a clean one.
    drop(stream);
    is_reset(&client);
    rig.wait_closed(CloseReason::BackendReset, 1);
}
