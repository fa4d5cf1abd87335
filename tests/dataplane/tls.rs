//! TLS termination at the listener.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, ConfigBuilder, HandshakeKind, RootCertStore, SignatureScheme, StreamOwned,
    client::WantsClientCert,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use tcplb::{
    model::{Certificate, Route, Tls, TlsMode, TlsVersion},
    proxy::accounting::CloseReason,
};

use crate::{
    authority::{Authority, Issued, next_serial},
    limits::networks,
    relay::{receive_pattern, send_pattern, transfer_over},
    rig::*,
};

impl Authority {
    fn certificate(&self, name: &str) -> Arc<Certificate> {
        self.certificate_for(&[name])
    }

    pub fn certificate_for(&self, names: &[&str]) -> Arc<Certificate> {
        let key = KeyPair::generate().unwrap();
        let chain = vec![
            CertificateParams::new(names.iter().map(|name| name.to_string()).collect::<Vec<_>>())
                .unwrap()
                .signed_by(&key, &self.0)
                .unwrap()
                .der()
                .clone(),
        ];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut fingerprint = [0; 32];
        fingerprint[..8].copy_from_slice(&next_serial().to_be_bytes());
        Arc::new(Certificate {
            source: "test".into(),
            fingerprint,
            names: names.iter().map(|name| (*name).into()).collect(),
            not_before: jiff::Timestamp::UNIX_EPOCH,
            not_after: jiff::Timestamp::MAX,
            key: Arc::new(CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).unwrap()),
        })
    }

    /// A client that trusts this authority, and resumes sessions.
    pub fn client(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> Arc<ClientConfig> {
        Arc::new(self.trusting(versions).with_no_client_auth())
    }

    /// A client that trusts this authority and has a certificate.
    pub fn client_showing(
        &self,
        shown: &Issued,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(shown.certificate.as_bytes()).unwrap()];
        Arc::new(self.trusting(versions).with_client_auth_cert(chain, key).unwrap())
    }

    fn trusting(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ConfigBuilder<ClientConfig, WantsClientCert> {
        ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(self.roots())
    }

    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        roots
    }
}

pub fn tls(certificate: &Arc<Certificate>) -> Option<Tls> {
    let everywhere = Route { server_names: Vec::new(), mode: TlsMode::Terminate, backends: None };
    Some(Tls {
        certificates: vec![certificate.clone()],
        min_version: TlsVersion::V1_2,
        alpn: Vec::new(),
        start_tls: None,
        client_validation: None,
        routes: vec![everywhere],
    })
}

pub type Client = StreamOwned<ClientConnection, TcpStream>;

pub fn handshake(config: &Arc<ClientConfig>, stream: TcpStream) -> io::Result<Client> {
    handshake_for("db.example", config, stream)
}

pub fn handshake_for(name: &str, config: &Arc<ClientConfig>, stream: TcpStream) -> io::Result<Client> {
    let session = ClientConnection::new(config.clone(), ServerName::try_from(name.to_owned()).unwrap()).unwrap();
    let mut client = StreamOwned::new(session, stream);
    while client.conn.is_handshaking() {
        client.conn.complete_io(&mut client.sock)?;
    }
    Ok(client)
}

pub fn connect_tls(config: &Arc<ClientConfig>, address: SocketAddr) -> Client {
    handshake(config, connect(address)).unwrap()
}

fn presented(client: &Client) -> &[u8] {
    &client.conn.peer_certificates().unwrap()[0]
}

pub fn end(mut client: Client) {
    client.conn.send_close_notify();
    client.flush().unwrap();
    assert_eq!(read_to_end(client), b"");
}

#[test]
fn a_changed_certificate_is_used_by_the_next_handshake_only() {
    let authority = Authority::new();
    let (old, new) = (authority.certificate("db.example"), authority.certificate("db.example"));
    let mut rig = Rig::with(&[Backend::echo()], |listener, _| listener.tls = tls(&old));
    let config = authority.client(&[&TLS13]);
    let mut before = connect_tls(&config, rig.address());
    is_echoed(&mut before);
    assert_eq!(presented(&before), &*old.key.cert[0]);

    rig.change_listener(|listener| listener.tls = tls(&new));
    let mut after = connect_tls(&authority.client(&[&TLS13]), rig.address());
    assert_eq!(presented(&after), &*new.key.cert[0]);
    is_echoed(&mut after);
    is_echoed(&mut before);

    let mut resumed = connect_tls(&config, rig.address());
    is_echoed(&mut resumed);
    assert_eq!(resumed.conn.handshake_kind(), Some(HandshakeKind::Resumed), "sessions outlive certificates");
    assert_eq!(rig.handshakes(), (2, 1));
    [before, after, resumed].into_iter().for_each(end);
    rig.wait_closed(CloseReason::Complete, 3);
}

#[test]
fn sessions_are_resumed_on_whichever_worker_the_client_comes_back_to() {
    let authority = Authority::new();
    let certificate = authority.certificate("db.example");
    let size = Size { workers: 4, ..Size::default() };
    let rig = Rig::sized(size, &[Backend::echo()], |listener, _| listener.tls = tls(&certificate));
    for version in [&TLS12, &TLS13] {
        let config = authority.client(&[version]);
        for connection in 0..10 {
            let mut client = connect_tls(&config, rig.address());
            is_echoed(&mut client);
            let resumed = client.conn.handshake_kind() == Some(HandshakeKind::Resumed);
            assert_eq!(resumed, connection > 0, "connection {connection} with {version:?}");
            end(client);
        }
    }
    assert_eq!(rig.handshakes(), (2, 18));
}

#[test]
fn everything_arrives_in_order_both_ways_at_once_over_tls() {
    const LENGTH: usize = 2 << 20;
    let authority = Authority::new();
    let certificate = authority.certificate("db.example");
    let backend = Backend::serving(|stream| crate::relay::transfer(stream, 1, 2, LENGTH));
    let rig = Rig::with(&[backend], |listener, _| listener.tls = tls(&certificate));
    for version in [&TLS12, &TLS13] {
        transfer_over(connect_tls(&authority.client(&[version]), rig.address()), 2, 1, LENGTH);
    }
    rig.wait_closed(CloseReason::Complete, 2);
    assert_eq!(rig.bytes(), (2 * LENGTH as u64, 2 * LENGTH as u64));
}

#[test]
fn half_closes_are_kept_over_tls() {
    let authority = Authority::new();
    let certificate = authority.certificate("db.example");
    let backend = Backend::new();
    let rig = Rig::with(&[backend.address], |listener, _| listener.tls = tls(&certificate));
    let config = authority.client(&[&TLS13]);

    let mut client = connect_tls(&config, rig.address());
    let served = backend.accept();
    client.write_all(b"question").unwrap();
    client.conn.send_close_notify();
    client.flush().unwrap();
    assert_eq!(read_to_end(&served), b"question");
    let sending = thread::spawn(move || send_pattern(served, 1, 1 << 20));
    assert_eq!(receive_pattern(&mut client, 1), 1 << 20);
    sending.join().unwrap();

    let mut client = connect_tls(&config, rig.address());
    let served = backend.accept();
    served.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client), b"");
    let receiving = thread::spawn(move || receive_pattern(served, 1));
    send_pattern(&mut client, 1, 1 << 20);
    client.conn.send_close_notify();
    client.flush().unwrap();
    assert_eq!(receiving.join().unwrap(), 1 << 20);
    rig.wait_closed(CloseReason::Complete, 2);
}

#[test]
fn an_end_without_close_notify_delivers_the_data_and_is_not_clean() {
    const LENGTH: usize = 1 << 20;
    let authority = Authority::new();
    let certificate = authority.certificate("db.example");
    let backend = Backend::new();
    let rig = Rig::with(&[backend.address], |listener, _| listener.tls = tls(&certificate));
    let mut client = connect_tls(&authority.client(&[&TLS13]), rig.address());
    let served = backend.accept();
    // The client has read all bytes of the handshake: closing with unread bytes would be a reset.
    (&served).write_all(b"!").unwrap();
    assert_eq!(read_exactly(&mut client, 1), b"!");
    let sending = thread::spawn(move || {
        client.write_all(&[b'x'; LENGTH]).unwrap();
        client.flush().unwrap();
        // Drops the TCP connection: an unauthenticated end.
    });
    sending.join().unwrap();
    wait_until("the proxy has passed it on", || rig.bytes().0 == LENGTH as u64);
    assert_eq!(read_to_reset(&served).len(), LENGTH);
    rig.wait_closed(CloseReason::ClientReset, 1);
}

#[test]
fn a_backend_that_resets_is_no_clean_end_for_a_tls_client() {
    let authority = Authority::new();
    let certificate = authority.certificate("db.example");
    let backend = Backend::new();
    let rig = Rig::with(&[backend.address], |listener, _| listener.tls = tls(&certificate));
    let mut client = connect_tls(&authority.client(&[&TLS13]), rig.address());
    let mut served = backend.accept();
    served.write_all(b"half an ans").unwrap();
    assert_eq!(read_exactly(&mut client, 11), b"half an ans");
    reset(served);
    is_reset(&mut client);
    rig.wait_closed(CloseReason::BackendReset, 1);
}

#[test]
fn stalled_handshakes_delay_no_other_client() {
    let authority = Authority::new();
    let certificate = authority.certificate("db.example");
    let size = Size { workers: 1, ..Size::default() };
    let echo = Backend::echo();
    let rig = Rig::sized(size, &[echo], |listener, _| listener.tls = tls(&certificate));
    let stalled: Vec<TcpStream> = (0..200)
        .map(|number| {
            let mut stream = rig.connect();
            if number % 2 == 1 {
                // The first bytes of a ClientHello.
                stream.write_all(&[0x16, 3, 1, 2, 0, 1]).unwrap();
            }
            stream
        })
        .collect();
    let mut client = connect_tls(&authority.client(&[&TLS13]), rig.address());
    is_echoed(&mut client);
    assert_eq!(rig.endpoint(echo).connections(), 1, "no backend is dialled for the others");
    end(client);
    drop(stalled);
    rig.wait_closed(CloseReason::TlsFailed, 200);
}

#[test]
fn a_handshake_has_a_deadline() {
    let authority = Authority::new();
    let certificate = authority.certificate("db.example");
    let backend = Backend::new();
    let rig = Rig::with(&[backend.address], |listener, _| {
        listener.tls = tls(&certificate);
        listener.timeouts.handshake = Duration::from_millis(200);
    });
    let mut trickling = rig.connect();
    let silent = rig.connect();
    thread::scope(|scope| {
        scope.spawn(|| is_reset(&silent));
        // A record that announces 512 bytes and arrives one byte at a time.
        let mut record = [0x16, 3, 1, 2, 0].into_iter().chain(std::iter::repeat(0));
        while trickling.write_all(&[record.next().unwrap()]).is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    rig.wait_closed(CloseReason::TlsTimeout, 2);
    assert!(backend.accept_now().is_none());
}

#[test]
fn clients_without_a_tls_handshake_are_refused() {
    let authority = Authority::new();
    let certificate = authority.certificate("db.example");
    let backend = Backend::new();
    let rig = Rig::with(&[backend.address], |listener, _| listener.tls = tls(&certificate));
    let mut plain = rig.connect();
    plain.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let alert = read_to_reset(&plain);
    assert_eq!(alert.first(), Some(&21), "an alert says why: {alert:?}");
    rig.wait_closed(CloseReason::TlsFailed, 1);
    assert!(backend.accept_now().is_none());
}

#[test]
fn the_log_says_why_a_handshake_failed() {
    let (authority, other) = (Authority::new(), Authority::new());
    let certificate = authority.certificate("db.example");
    let http = |rig: &Rig| drop(rig.connect().write_all(b"GET / HTTP/1.0\r\n\r\n"));
    let damaged = |rig: &Rig| drop(rig.connect().write_all(&[22, 3, 1, 0, 5, 1, 0, 0, 1, 0]));
    let ends = |rig: &Rig| drop(rig.connect().write_all(&[22, 3, 1, 2, 0, 1]));
    let old = |rig: &Rig| drop(handshake(&authority.client(&[&TLS12]), rig.connect()).unwrap_err());
    let distrusting = |rig: &Rig| drop(handshake(&other.client(&[&TLS13]), rig.connect()).unwrap_err());
    let of_rsa = |rig: &Rig| {
        let mut provider = aws_lc_rs::default_provider();
        let mut schemes = provider.signature_verification_algorithms.mapping.to_vec();
        schemes.retain(|(scheme, _)| *scheme == SignatureScheme::RSA_PSS_SHA256);
        provider.signature_verification_algorithms.mapping = schemes.leak();
        let config = ClientConfig::builder_with_provider(provider.into()).with_protocol_versions(&[&TLS13]).unwrap();
        let config = config.with_root_certificates(authority.roots()).with_no_client_auth();
        drop(handshake(&Arc::new(config), rig.connect()).unwrap_err());
    };
    type Client<'a> = &'a dyn Fn(&Rig);
    let cases: [(&str, Client); 6] = [
        ("not_tls", &http),
        ("malformed", &damaged),
        ("ended", &ends),
        ("unsupported_version", &old),
        ("alert_unknown_ca", &distrusting),
        ("no_common_signature_scheme", &of_rsa),
    ];
    for passes_through in [false, true] {
        let rig = Rig::with(&[Backend::echo()], |listener, _| {
            let tls = listener.tls.insert(tls(&certificate).unwrap());
            tls.min_version = TlsVersion::V1_3;
            if passes_through {
                // A second route, so that each ClientHello is parsed.
                let names = vec!["passed.example".into()];
                tls.routes.push(Route { server_names: names, mode: TlsMode::Passthrough, backends: None });
            }
        });
        for (done, (fault, connect)) in (1..).zip(cases) {
            connect(&rig);
            rig.wait_closed(CloseReason::TlsFailed, done);
            let expected = format!(" reason=tls_failed tls_client_fault={fault}");
            wait_until("it is logged", || rig.logged().iter().any(|line| line.ends_with(&expected)));
        }
    }
}

#[test]
fn refused_clients_cost_no_handshake() {
    let authority = Authority::new();
    let certificate = authority.certificate("db.example");
    let rig = Rig::with(&[Backend::echo()], |listener, _| {
        listener.tls = tls(&certificate);
        listener.access.deny = networks(&["127.0.0.1/32"]);
    });
    is_reset(rig.connect());
    rig.wait_closed(CloseReason::AccessDenied, 1);
    let mut allowed = handshake(&authority.client(&[&TLS13]), connect_from([127, 0, 0, 2], rig.address())).unwrap();
    is_echoed(&mut allowed);
    end(allowed);
    assert_eq!(rig.handshakes(), (1, 0));
}

#[test]
fn a_tls_client_that_stops_reading_stops_its_backend() {
    let authority = Authority::new();
    let certificate = authority.certificate("db.example");
    let backend = Backend::new();
    let rig = Rig::with(&[backend.address], |listener, _| listener.tls = tls(&certificate));
    let mut client = connect_tls(&authority.client(&[&TLS13]), rig.address());
    let served = backend.accept();
    let sent = crate::relay::fill(&served, || rig.bytes().1);
    // The bytes that the relay read, and encrypted bytes that were not accepted (64 KiB and the overhead of records).
    crate::relay::is_held(sent, &client.sock, &served, crate::relay::HELD + (65 << 10));
    served.shutdown(std::net::Shutdown::Write).unwrap();
    let mut received = vec![0; 64 << 10];
    let mut count = 0;
    loop {
        match client.read(&mut received).unwrap() {
            0 => break,
            read => count += read,
        }
    }
    assert_eq!(count, sent);
    end(client);
}
