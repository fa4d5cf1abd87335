use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rcgen::{
    CertificateParams, CertifiedIssuer, CustomExtension, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    PKCS_RSA_SHA256, SignatureAlgorithm,
};
use rustls::{
    ClientConfig, HandshakeKind, NamedGroup, RootCertStore, SignatureScheme, SupportedProtocolVersion,
    client::{Resumption, Tls12Resumption},
    crypto::{
        CryptoProvider, SupportedKxGroup,
        aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519},
    },
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    server::WebPkiClientVerifier,
    sign::CertifiedKey,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsConnector, client};

use super::{
    certificates::VerifiableKeys,
    client_chain::{MAX_CLIENT_CERTIFICATES, MAX_CLIENT_CHAIN},
    *,
};
use crate::{
    cost::assert_grows_no_faster_than_n_log_n,
    model::{Certificate, TlsVersion},
};

/// The authority of a test's certificates.
pub(super) struct CertificateIssuer(CertifiedIssuer<'static, KeyPair>);

impl CertificateIssuer {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn certificate(&self, names: &[&str]) -> Arc<Certificate> {
        self.certificate_of(names, &PKCS_ECDSA_P256_SHA256)
    }

    fn certificate_of(&self, names: &[&str], algorithm: &'static SignatureAlgorithm) -> Arc<Certificate> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let key = KeyPair::generate_for(algorithm).unwrap();
        let params = CertificateParams::new(names.iter().map(|name| name.to_string()).collect::<Vec<_>>()).unwrap();
        let chain = vec![params.signed_by(&key, &self.0).unwrap().der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut fingerprint = [0; 32];
        fingerprint[..8].copy_from_slice(&SERIAL.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        Arc::new(Certificate {
            source: "test".into(),
            fingerprint,
            names: names.iter().map(|name| name.to_lowercase().into()).collect(),
            not_before: jiff::Timestamp::UNIX_EPOCH,
            not_after: jiff::Timestamp::MAX,
            key: Arc::new(CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).unwrap()),
        })
    }

    /// A client that trusts this authority, and resumes sessions.
    pub(super) fn client(&self) -> ClientConfig {
        self.client_of(&[&TLS12, &TLS13])
    }

    pub(super) fn client_of(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        self.client_with(Arc::new(aws_lc_rs::default_provider()), versions)
    }

    pub(super) fn client_with(
        &self,
        provider: Arc<CryptoProvider>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ClientConfig {
        ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(self.roots())
            .with_no_client_auth()
    }

    /// A client with a certificate of this authority. It also sends unrelated certificates with these many bytes each.
    fn client_with_chain(&self, version: &'static SupportedProtocolVersion, others: &[usize]) -> ClientConfig {
        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::new(Vec::new()).unwrap().signed_by(&key, &self.0).unwrap();
        let other = |bytes: &usize| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.custom_extensions.push(CustomExtension::from_oid_content(&[1, 2, 3, 4, 5], vec![b'x'; *bytes]));
            params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
        };
        let chain = std::iter::once(own.der().clone()).chain(others.iter().map(other)).collect();
        ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(self.roots())
            .with_client_auth_cert(chain, PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap()
    }

    /// A server that requires certificates of this authority.
    fn validating_server(&self) -> ServerTls {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots().into(), provider).build().unwrap();
        let mode = model::ClientValidationMode::Required;
        let validation = ClientValidation { mode, authorities: Vec::new(), verifier };
        let certificate = self.certificate(&["db.example.com"]);
        ServerTls::new(&model::Tls { client_validation: Some(Arc::new(validation)), ..tls(&[&certificate]) }).unwrap()
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        roots
    }
}

pub(super) fn tls(certificates: &[&Arc<Certificate>]) -> model::Tls {
    model::Tls {
        certificates: certificates.iter().copied().cloned().collect(),
        min_version: TlsVersion::V1_2,
        alpn: Vec::new(),
        start_tls: None,
        client_validation: None,
        routes: vec![model::Route { server_names: Vec::new(), mode: model::TlsMode::Terminate, backends: None }],
    }
}

type ConnectedPair = (client::TlsStream<DuplexStream>, ServerStream<DuplexStream>);

/// Does a handshake, and sends a byte each way so that the client receives its session tickets.
async fn connect(client: &ClientConfig, server: &ServerTls, name: &str) -> Result<ConnectedPair, [String; 2]> {
    let (near, far) = duplex(16 << 10);
    let name = ServerName::try_from(name.to_string()).unwrap();
    let connector = TlsConnector::from(Arc::new(client.clone()));
    let (client, server) = tokio::join!(connector.connect(name, near), server.accept(far, |_| Ok(())));
    match (client, server) {
        (Ok(mut client), Ok((mut server, _))) => {
            exchange(&mut client, &mut server).await;
            Ok((client, server))
        }
        (client, server) => Err([client.err(), server.err()].map(|e| e.map_or(String::new(), |e| e.to_string()))),
    }
}

async fn exchange(client: &mut client::TlsStream<DuplexStream>, server: &mut ServerStream<DuplexStream>) {
    let mut byte = [0];
    client.write_all(b"?").await.unwrap();
    client.flush().await.unwrap();
    server.read_exact(&mut byte).await.unwrap();
    server.write_all(b"!").await.unwrap();
    server.flush().await.unwrap();
    client.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"!");
}

fn presented(connection: &ConnectedPair) -> &CertificateDer<'static> {
    &connection.0.get_ref().1.peer_certificates().unwrap()[0]
}

fn is(certificate: &Certificate, connection: &ConnectedPair) -> bool {
    certificate.key.cert[0] == *presented(connection)
}

/// The certificate presented for a server name, even if the client does not consider it valid for this name.
async fn presented_for(authority: &CertificateIssuer, server: &ServerTls, name: &str) -> CertificateDer<'static> {
    let mut client = authority.client();
    let any = model::AnyCertificate::new(&aws_lc_rs::default_provider());
    client.dangerous().set_certificate_verifier(Arc::new(any));
    presented(&connect(&client, server, name).await.unwrap()).clone()
}

#[tokio::test]
async fn the_server_name_selects_the_certificate() {
    let authority = CertificateIssuer::new();
    let first = authority.certificate(&["first.example.com"]);
    let exact = authority.certificate(&["db.example.com", "other.example.org"]);
    let wildcard = authority.certificate(&["*.example.com"]);
    let server = ServerTls::new(&tls(&[&first, &wildcard, &exact])).unwrap();
    for (name, expected) in [
        ("db.example.com", &exact),
        ("DB.Example.Com", &exact),
        ("other.example.org", &exact),
        ("first.example.com", &first),
        ("any.example.com", &wildcard),
        ("any.any.example.com", &first),
        ("example.com", &first),
        ("nowhere.test", &first),
        // No server name is sent for an address.
        ("192.0.2.1", &first),
    ] {
        assert!(presented_for(&authority, &server, name).await == expected.key.cert[0], "{name}");
    }
}

#[tokio::test]
async fn the_client_gets_a_certificate_with_a_key_that_it_can_verify() {
    let authority = CertificateIssuer::new();
    let rsa = authority.certificate_of(&["db.example.com"], &PKCS_RSA_SHA256);
    let ecdsa = authority.certificate_of(&["db.example.com"], &PKCS_ECDSA_P256_SHA256);
    let only = |kind: &str| {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites.retain(|suite| format!("{:?}", suite.suite()).contains(kind));
        authority.client_with(Arc::new(provider), &[&TLS12])
    };
    for certificates in [[&rsa, &ecdsa], [&ecdsa, &rsa]] {
        let server = ServerTls::new(&tls(&certificates)).unwrap();
        for (kind, expected) in [("_ECDHE_RSA_", &rsa), ("_ECDHE_ECDSA_", &ecdsa)] {
            let connection = connect(&only(kind), &server, "db.example.com").await.unwrap();
            assert!(is(expected, &connection), "{kind}");
        }
        let connection = connect(&authority.client(), &server, "db.example.com").await.unwrap();
        assert!(is(certificates[0], &connection), "the first of those it can verify");
    }
}

#[test]
fn certificates_are_selected_by_normalized_name_and_verifiable_key() {
    const RSA: SignatureScheme = SignatureScheme::RSA_PSS_SHA256;
    const ECDSA: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

    let authority = CertificateIssuer::new();
    let default = authority.certificate(&["first.example.org"]);
    let exact_rsa = authority.certificate_of(&["db.example.com"], &PKCS_RSA_SHA256);
    let wildcard = authority.certificate(&["*.example.com"]);
    let other_rsa = authority.certificate_of(&["other.example.org"], &PKCS_RSA_SHA256);
    let all = [&default, &exact_rsa, &wildcard, &other_rsa].map(Arc::clone);
    let certificates = CertificateResolver::new(&all);
    for (name, scheme, expected) in [
        ("db.example.com", RSA, &exact_rsa),
        ("DB.Example.Com.", RSA, &exact_rsa),
        ("db.example.com", ECDSA, &wildcard),
        ("any.example.com.", ECDSA, &wildcard),
        ("xn--bcher-kva.example.com", ECDSA, &wildcard),
        // If the client can verify no certificate for the name, it gets one that it cannot verify, and reports that.
        ("any.example.com", RSA, &wildcard),
        ("a.any.example.com", ECDSA, &default),
        ("example.com", ECDSA, &default),
        ("192.0.2.1", ECDSA, &default),
        // If no certificate matches the name, the client gets the first one that it can verify.
        ("nowhere.test", RSA, &exact_rsa),
        (".", RSA, &exact_rsa),
    ] {
        let chosen = certificates.choose(Some(name), any_curve(&[scheme])).unwrap();
        assert!(Arc::ptr_eq(&chosen, &expected.key), "{name} {scheme:?}");
    }
    assert!(Arc::ptr_eq(&certificates.choose(None, any_curve(&[ECDSA])).unwrap(), &default.key));
}

fn any_curve(schemes: &[SignatureScheme]) -> VerifiableKeys<'_> {
    VerifiableKeys { schemes, curves: None }
}

#[test]
fn listeners_share_the_names_of_a_certificate() {
    let certificate = CertificateIssuer::new().certificate(&["db.example.com"]);
    let name = &certificate.names.as_slice()[0];
    let owners = Arc::strong_count(name);
    let listeners = [(); 3].map(|()| ServerTls::new(&tls(&[&certificate])).unwrap());
    listeners[0].update(&tls(&[&certificate])).unwrap();
    assert_eq!(Arc::strong_count(name), owners);
}

#[test]
fn the_cost_of_a_listener_does_not_grow_with_the_names_of_a_certificate() {
    let authority = CertificateIssuer::new();
    let prepare = |count: usize| {
        let texts: Vec<_> = (0..count).map(|number| format!("n{number}.example.com")).collect();
        let names: Vec<_> = texts.iter().map(String::as_str).collect();
        (authority.certificate(&names), count)
    };
    assert_grows_no_faster_than_n_log_n(500, prepare, |(certificate, count)| {
        let certificates = [certificate.clone()];
        let listeners: Vec<_> = (0..*count).map(|_| CertificateResolver::new(&certificates)).collect();
        let keys = any_curve(&[SignatureScheme::ECDSA_NISTP256_SHA256]);
        assert!(listeners.iter().all(|listener| listener.choose(Some("n0.example.com"), keys).is_some()));
    });
}

#[tokio::test]
async fn the_curves_of_a_client_limit_ecdsa_certificates_before_tls_1_3_only() {
    let authority = CertificateIssuer::new();
    let p256 = authority.certificate_of(&["db.example.com"], &PKCS_ECDSA_P256_SHA256);
    let rsa = authority.certificate_of(&["db.example.com"], &PKCS_RSA_SHA256);
    let server = ServerTls::new(&tls(&[&p256, &rsa])).unwrap();
    for (groups, versions, expected) in [
        (vec![X25519], &[&TLS12][..], &rsa),
        (vec![SECP384R1, X25519], &[&TLS12], &rsa),
        (vec![X25519, SECP256R1], &[&TLS12], &p256),
        (vec![X25519], &[&TLS13], &p256),
        (vec![X25519], &[&TLS12, &TLS13], &p256),
    ] {
        let client = authority.client_with(provider(groups, versions), versions);
        let connection = connect(&client, &server, "db.example.com").await.unwrap();
        assert!(is(expected, &connection), "{versions:?} {:?}", client.crypto_provider().kx_groups);
    }
    let only = ServerTls::new(&tls(&[&p256])).unwrap();
    let client = authority.client_with(provider(vec![X25519], &[&TLS12]), &[&TLS12]);
    let connection = connect(&client, &only, "db.example.com").await.unwrap();
    assert!(is(&p256, &connection), "without another certificate the client decides");
}

/// A provider for clients with these groups, which offer only cipher suites of these versions.
fn provider(
    kx_groups: Vec<&'static dyn SupportedKxGroup>,
    versions: &[&SupportedProtocolVersion],
) -> Arc<CryptoProvider> {
    let mut provider = CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() };
    provider.cipher_suites.retain(|suite| versions.contains(&suite.version()));
    Arc::new(provider)
}

#[test]
fn a_client_without_supported_groups_can_verify_keys_of_all_curves() {
    const SCHEMES: [SignatureScheme; 2] = [SignatureScheme::ECDSA_NISTP384_SHA384, SignatureScheme::RSA_PSS_SHA256];

    let authority = CertificateIssuer::new();
    let p384 = authority.certificate_of(&["db.example.com"], &PKCS_ECDSA_P384_SHA384);
    let rsa = authority.certificate_of(&["db.example.com"], &PKCS_RSA_SHA256);
    let certificates = CertificateResolver::new(&[p384.clone(), rsa.clone()]);
    for (curves, expected) in [
        (None, &p384),
        (Some(&[NamedGroup::X25519, NamedGroup::secp384r1][..]), &p384),
        (Some(&[NamedGroup::X25519, NamedGroup::secp256r1]), &rsa),
        (Some(&[]), &rsa),
    ] {
        let chosen = certificates.choose(Some("db.example.com"), VerifiableKeys { schemes: &SCHEMES, curves }).unwrap();
        assert!(Arc::ptr_eq(&chosen, &expected.key), "{curves:?}");
    }
}

#[tokio::test]
async fn a_changed_certificate_is_presented_next_and_the_open_connection_goes_on() {
    let authority = CertificateIssuer::new();
    let (old, new) = (authority.certificate(&["db.example.com"]), authority.certificate(&["db.example.com"]));
    let server = ServerTls::new(&tls(&[&old])).unwrap();
    let mut open = connect(&authority.client(), &server, "db.example.com").await.unwrap();

    server.update(&tls(&[&new])).unwrap();
    let next = connect(&authority.client(), &server, "db.example.com").await.unwrap();
    assert!(is(&old, &open) && is(&new, &next));
    exchange(&mut open.0, &mut open.1).await;
}

#[tokio::test]
async fn a_client_below_the_minimum_version_is_refused() {
    let authority = CertificateIssuer::new();
    let certificate = authority.certificate(&["db.example.com"]);
    let server = ServerTls::new(&tls(&[&certificate])).unwrap();
    let (old_client, new_client) = (authority.client_of(&[&TLS12]), authority.client_of(&[&TLS13]));
    connect(&old_client, &server, "db.example.com").await.expect("1.2 is the minimum");

    server.update(&model::Tls { min_version: TlsVersion::V1_3, ..tls(&[&certificate]) }).unwrap();
    let [client, server_side] = connect(&old_client, &server, "db.example.com").await.unwrap_err();
    assert!(client.contains("ProtocolVersion"), "{client}");
    assert!(server_side.contains("incompatible"), "{server_side}");
    connect(&new_client, &server, "db.example.com").await.expect("1.3 is the minimum");

    server.update(&tls(&[&certificate])).unwrap();
    connect(&old_client, &server, "db.example.com").await.expect("1.2 is the minimum again");
}

#[tokio::test]
async fn a_protocol_is_negotiated_by_the_listeners_preference() {
    let authority = CertificateIssuer::new();
    let certificate = authority.certificate(&["db.example.com"]);
    let server =
        ServerTls::new(&model::Tls { alpn: vec!["postgresql".into(), "mqtt".into()], ..tls(&[&certificate]) }).unwrap();
    let client = |protocols: &[&str]| {
        let mut client = authority.client();
        client.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        client
    };
    for (offered, expected) in
        [(&["mqtt", "postgresql"][..], Some("postgresql")), (&["mqtt"], Some("mqtt")), (&[], None)]
    {
        let connection = connect(&client(offered), &server, "db.example.com").await.unwrap();
        assert_eq!(connection.1.state().alpn_protocol(), expected.map(str::as_bytes));
    }
    let [refused, _] = connect(&client(&["h2"]), &server, "db.example.com").await.unwrap_err();
    assert!(refused.contains("NoApplicationProtocol"), "{refused}");

    server.update(&tls(&[&certificate])).unwrap();
    let connection = connect(&client(&["h2"]), &server, "db.example.com").await.unwrap();
    assert_eq!(connection.1.state().alpn_protocol(), None, "a listener without protocols negotiates none");
}

#[tokio::test]
async fn sessions_are_resumed_before_and_after_any_change() {
    let authority = CertificateIssuer::new();
    let (old, new) = (authority.certificate(&["db.example.com"]), authority.certificate(&["db.example.com"]));
    for version in [&TLS12, &TLS13] {
        let server = ServerTls::new(&tls(&[&old])).unwrap();
        let client = authority.client_of(&[version]);
        let kind = async || {
            let connection = connect(&client, &server, "db.example.com").await.unwrap();
            connection.1.state().handshake_kind()
        };
        assert_eq!(kind().await, Some(HandshakeKind::Full));
        assert_eq!(kind().await, Some(HandshakeKind::Resumed), "{version:?}");
        server.update(&tls(&[&new])).unwrap();
        assert_eq!(kind().await, Some(HandshakeKind::Resumed), "{version:?}, after a change of certificates");
        server.update(&model::Tls { alpn: vec!["mqtt".into()], ..tls(&[&new]) }).unwrap();
        assert_eq!(kind().await, Some(HandshakeKind::Resumed), "{version:?}, after a change of protocols");
        assert!(server.config().ticketer.enabled(), "tickets hold the sessions, not memory");
    }
}

#[tokio::test]
async fn a_client_without_tickets_resumes_from_the_session_cache() {
    let authority = CertificateIssuer::new();
    let server = ServerTls::new(&tls(&[&authority.certificate(&["db.example.com"])])).unwrap();
    let mut client = authority.client_of(&[&TLS12]);
    client.resumption = Resumption::in_memory_sessions(8).tls12_resumption(Tls12Resumption::SessionIdOnly);
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let connection = connect(&client, &server, "db.example.com").await.unwrap();
        assert_eq!(connection.1.state().handshake_kind(), Some(expected));
    }
}

#[tokio::test]
async fn tickets_come_with_the_first_data_also_after_a_second_client_hello() {
    let authority = CertificateIssuer::new();
    let groups = |kx_groups| Arc::new(CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() });
    let server = ServerConfig::builder_with_provider(groups(vec![SECP256R1]))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(CertificateResolver::new(&[authority.certificate(&["db.example.com"])])));
    let server = Arc::new(server);
    let second = HandshakeKind::FullWithHelloRetryRequest;
    for (offered, kind) in [(vec![SECP256R1], HandshakeKind::Full), (vec![X25519, SECP256R1], second)] {
        let (near, far) = duplex(16 << 10);
        let connector = TlsConnector::from(Arc::new(authority.client_with(groups(offered), &[&TLS13])));
        let name = ServerName::try_from("db.example.com").unwrap();
        let (client, accepted) =
            tokio::join!(connector.connect(name, near), ServerStream::accept(server.clone(), far, |_| Ok(())));
        let (mut client, mut accepted) = (client.unwrap(), accepted.unwrap());
        assert_eq!(client.get_ref().1.handshake_kind(), Some(kind));

        accepted.flush().await.unwrap();
        assert!(futures::poll!(pin!(client.read_u8())).is_pending());
        assert_eq!(client.get_ref().1.tls13_tickets_received(), 0);
        accepted.write_all(b"!").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'!');
        assert_eq!(client.get_ref().1.tls13_tickets_received(), 2);
    }
}

#[tokio::test]
async fn a_chain_that_is_too_long_is_refused() {
    let authority = CertificateIssuer::new();
    let server = authority.validating_server();
    let most = MAX_CLIENT_CERTIFICATES - 1;
    for version in [&TLS12, &TLS13] {
        for (others, is_accepted) in [
            (vec![100; most], true),
            (vec![100; most + 1], false),
            (vec![MAX_CLIENT_CHAIN - 2_000], true),
            (vec![MAX_CLIENT_CHAIN], false),
        ] {
            let (near, far) = duplex(64 << 10);
            let name = ServerName::try_from("db.example.com").unwrap();
            let connector = TlsConnector::from(Arc::new(authority.client_with_chain(version, &others)));
            let (_client, accepted) = tokio::join!(connector.connect(name, near), server.accept(far, |_| Ok(())));
            let fault = accepted.err().map(|error| HandshakeFault::of(&error));
            assert_eq!(fault, (!is_accepted).then_some(HandshakeFault::ChainTooLong), "{version:?} {others:?}");
        }
    }
}

#[tokio::test]
async fn a_session_with_a_long_chain_takes_no_memory() {
    let authority = CertificateIssuer::new();
    let server = authority.validating_server();
    for (bytes, at_once, with_data) in [(100, 0, 2), (5_000, 2, 2), (20_000, 0, 0)] {
        let client = authority.client_with_chain(&TLS13, &[bytes]);
        let (near, far) = duplex(64 << 10);
        let name = ServerName::try_from("db.example.com").unwrap();
        let connector = TlsConnector::from(Arc::new(client));
        let (connected, accepted) = tokio::join!(connector.connect(name, near), server.accept(far, |_| Ok(())));
        let (mut client, mut accepted) = (connected.unwrap(), accepted.unwrap().0);
        assert!(futures::poll!(pin!(client.read_u8())).is_pending());
        assert_eq!(client.get_ref().1.tls13_tickets_received(), at_once, "{bytes}");
        exchange(&mut client, &mut accepted).await;
        assert_eq!(client.get_ref().1.tls13_tickets_received(), with_data, "{bytes}");
    }
    for version in [&TLS12, &TLS13] {
        for (bytes, kind) in
            [(100, HandshakeKind::Resumed), (5_000, HandshakeKind::Resumed), (20_000, HandshakeKind::Full)]
        {
            let client = authority.client_with_chain(version, &[bytes]);
            connect(&client, &server, "db.example.com").await.unwrap();
            let second = connect(&client, &server, "db.example.com").await.unwrap();
            assert_eq!(second.1.state().handshake_kind(), Some(kind), "{version:?} {bytes}");
        }
    }
}
