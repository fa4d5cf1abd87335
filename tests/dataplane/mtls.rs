//! Client certificates: admission of clients, and the identities that are reported.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use proxy_header::{ParseConfig, ProxyHeader, SslInfo};
use rcgen::{CrlDistributionPoint, CrlIssuingDistributionPoint};
use rustls::{
    ClientConfig, HandshakeKind, SupportedProtocolVersion,
    version::{TLS12, TLS13},
};
use serde_json::{Value, json};
use tcplb::{
    model::{Listener, ProxyVersion, Snapshot, Tls, UpstreamConfig},
    proxy::accounting::CloseReason,
    translate::translate,
    world::{Declared, World},
};

use crate::{
    authority::{Authority, Issued},
    rig::*,
    tls::{connect_tls, end, handshake},
};

/// The translation of a manifest with these files.
pub fn translated(spec: Value, files: &[(&str, String)]) -> Snapshot {
    let declared = Declared {
        spec: Some(Arc::new(serde_json::from_value(spec).unwrap())),
        problems: Vec::new(),
        without_value: Vec::new(),
        origin: "test".into(),
        folder: PathBuf::new(),
        identity: None,
        status: None,
    };
    let files = files.iter().map(|(name, text)| (PathBuf::from(name), Ok(text.as_bytes().into())));
    let world = World {
        load_balancers: [(listener_key().object, declared)].into_iter().collect(),
        files: files.collect(),
        ..World::default()
    };
    let (snapshot, verdicts) = translate(&world, &Snapshot::default(), jiff::Timestamp::now());
    assert!(verdicts.values().all(|verdict| !verdict.refuses()), "{verdicts:?}");
    snapshot
}

/// TLS of a listener that requests client certificates.
fn asking(mode: &str, presented: &Issued, authorities: &[(&Authority, Option<String>)]) -> Option<Tls> {
    let mut files = vec![("crt", presented.certificate.clone()), ("key", presented.key.clone())];
    let names = [("ca-0", "crl-0"), ("ca-1", "crl-1")];
    let references = authorities.iter().zip(names).map(|((authority, revoked), (ca, crl))| {
        files.push((ca, authority.pem()));
        files.extend(revoked.clone().map(|revoked| (crl, revoked)));
        json!({"files": {"ca": ca, "crl": revoked.as_ref().map(|_| crl)}})
    });
    let references: Vec<_> = references.collect();
    let snapshot = translated(
        json!({
            "listeners": [{"port": 1, "tls": {
                "certificateRefs": [{"files": {"certificate": "crt", "key": "key"}}],
                "alpn": ["mqtt"],
                "clientValidation": {"mode": mode, "caRefs": references},
            }}],
            "backends": [{"addresses": ["127.0.0.1:2"]}],
        }),
        &files,
    );
    Listener::clone(snapshot.listeners.values().next().unwrap()).tls
}

/// A connection with an echoed byte: with TLS 1.3 a client completes its handshake before it is refused.
fn echoed(config: &Arc<ClientConfig>, rig: &Rig) -> io::Result<HandshakeKind> {
    let mut client = handshake(config, rig.connect())?;
    client.write_all(b"?")?;
    client.read_exact(&mut [0])?;
    let kind = client.conn.handshake_kind().unwrap();
    end(client);
    Ok(kind)
}

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

#[test]
fn only_clients_with_a_certificate_of_the_authority_are_served() {
    let (authority, other) = (Authority::new(), Authority::new());
    let presented = authority.issue("db.example");
    let rig = Rig::with(&[Backend::echo()], |listener, _| {
        listener.tls = asking("Required", &presented, &[(&authority, None)]);
    });
    for (round, version) in (0..).zip(VERSIONS) {
        echoed(&authority.client_showing(&authority.issue("alice"), &[version]), &rig).unwrap();
        echoed(&authority.client(&[version]), &rig).unwrap_err();
        echoed(&authority.client_showing(&other.issue("alice"), &[version]), &rig).unwrap_err();
        rig.wait_closed(CloseReason::TlsClientCertificate, 2 * (round + 1));
    }
    rig.wait_closed(CloseReason::Complete, 2);
    let of_alice = |line: &String| line.contains(" tls_client=\"CN=alice\" ");
    wait_until("the log names who connected", || rig.logged().iter().filter(|line| of_alice(line)).count() == 2);
}

#[test]
fn a_client_may_show_a_certificate_that_is_configured_as_its_own_authority() {
    let (authority, own) = (Authority::new(), Authority::new());
    let presented = authority.issue("db.example");
    let rig = Rig::with(&[Backend::echo()], |listener, _| {
        listener.tls = asking("Required", &presented, &[(&own, None)]);
    });
    for version in VERSIONS {
        echoed(&authority.client_showing(&own.itself(), &[version]), &rig).unwrap();
        echoed(&authority.client_showing(&own.issue("alice"), &[version]), &rig).unwrap();
        echoed(&authority.client_showing(&Authority::new().itself(), &[version]), &rig).unwrap_err();
    }
    rig.wait_closed(CloseReason::Complete, 4);
    rig.wait_closed(CloseReason::TlsClientCertificate, 2);
}

#[test]
fn where_certificates_are_optional_a_wrong_one_is_still_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let presented = authority.issue("db.example");
    let rig = Rig::with(&[Backend::echo()], |listener, _| {
        listener.tls = asking("Optional", &presented, &[(&authority, None)]);
    });
    for version in VERSIONS {
        echoed(&authority.client(&[version]), &rig).unwrap();
        echoed(&authority.client_showing(&authority.issue("alice"), &[version]), &rig).unwrap();
        echoed(&authority.client_showing(&other.issue("alice"), &[version]), &rig).unwrap_err();
    }
    rig.wait_closed(CloseReason::Complete, 4);
    rig.wait_closed(CloseReason::TlsClientCertificate, 2);
}

#[test]
fn revoked_clients_cannot_resume_earlier_sessions() {
    let (authority, other) = (Authority::new(), Authority::new());
    let presented = authority.issue("db.example");
    let (alice, bob, carol) = (authority.issue("alice"), authority.issue("bob"), other.issue("carol"));
    let asking = |revoked| asking("Required", &presented, &[(&authority, revoked), (&other, None)]);
    let mut rig = Rig::with(&[Backend::echo()], |listener, _| listener.tls = asking(None));
    let everybody =
        VERSIONS.map(|version| [&alice, &bob, &carol].map(|issued| authority.client_showing(issued, &[version])));
    for config in everybody.iter().flatten() {
        let kinds = [echoed(config, &rig).unwrap(), echoed(config, &rig).unwrap()];
        assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed]);
    }
    rig.change_listener(|listener| listener.tls = asking(Some(authority.revoked(&[&bob]))));
    for [alice, bob, carol] in &everybody {
        assert_eq!(echoed(alice, &rig).unwrap(), HandshakeKind::Full);
        echoed(bob, &rig).unwrap_err();
        assert_eq!(echoed(carol, &rig).unwrap(), HandshakeKind::Full, "her authority has no list");
    }
    rig.wait_closed(CloseReason::TlsClientCertificate, 2);
    // Unchanged settings end no session.
    rig.change_listener(|listener| listener.timeouts.handshake += std::time::Duration::from_secs(1));
    for [alice, ..] in &everybody {
        assert_eq!(echoed(alice, &rig).unwrap(), HandshakeKind::Resumed);
    }
}

#[test]
fn all_partial_lists_of_an_issuer_apply() {
    let authority = Authority::new();
    let presented = authority.issue("db.example");
    let part = |number: u8| CrlDistributionPoint { uris: vec![format!("http://crl.example/{number}")] };
    let issue = |name, number| authority.issue_with(name, |params| params.crl_distribution_points = vec![part(number)]);
    let list = |revoked: &Issued, number| {
        authority.revoked_with(&[revoked], |list| {
            let distribution_point = part(number);
            list.issuing_distribution_point = Some(CrlIssuingDistributionPoint { distribution_point, scope: None });
        })
    };
    let (alice, bob, carol, dave) = (issue("alice", 1), issue("bob", 1), issue("carol", 2), issue("dave", 2));
    let lists = list(&bob, 1) + &list(&dave, 2);
    let rig = Rig::with(&[Backend::echo()], |listener, _| {
        listener.tls = asking("Required", &presented, &[(&authority, Some(lists))]);
    });
    for (issued, is_revoked) in [(&alice, false), (&bob, true), (&carol, false), (&dave, true)] {
        assert_eq!(echoed(&authority.client_showing(issued, &VERSIONS), &rig).is_err(), is_revoked);
    }
}

#[test]
fn complete_lists_replace_older_deltas_and_newer_deltas_take_precedence() {
    let authority = Authority::new();
    let presented = authority.issue("db.example");
    let part = || CrlDistributionPoint { uris: vec!["http://crl.example/1".to_owned()] };
    let issue = |name| authority.issue_with(name, |params| params.crl_distribution_points = vec![part()]);
    let (old, new) = (issue("alice"), issue("bob"));
    let whole = |revoked: &Issued, year| {
        authority.revoked_with(&[revoked], |list| list.this_update = rcgen::date_time_ymd(year, 1, 1))
    };
    let in_part = |revoked: &Issued, year| {
        authority.revoked_with(&[revoked], |list| {
            list.this_update = rcgen::date_time_ymd(year, 1, 1);
            let distribution_point = part();
            list.issuing_distribution_point = Some(CrlIssuingDistributionPoint { distribution_point, scope: None });
        })
    };
    for lists in [[whole(&old, 2024), in_part(&new, 2025)], [in_part(&old, 2024), whole(&new, 2025)]] {
        for lists in [lists.concat(), [&*lists[1], &*lists[0]].concat()] {
            let rig = Rig::with(&[Backend::echo()], |listener, _| {
                listener.tls = asking("Required", &presented, &[(&authority, Some(lists))]);
            });
            echoed(&authority.client_showing(&old, &VERSIONS), &rig).unwrap();
            echoed(&authority.client_showing(&new, &VERSIONS), &rig).unwrap_err();
        }
    }
}

fn issue_until(end: SystemTime, name: &str, authority: &Authority) -> Issued {
    let since_1970 = end.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    authority.issue_with(name, |params| params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_1970)
}

#[test]
fn clients_with_expired_certificates_cannot_resume_earlier_sessions() {
    let authority = Authority::new();
    let presented = authority.issue("db.example");
    let rig = Rig::with(&[Backend::echo()], |listener, _| {
        listener.tls = asking("Required", &presented, &[(&authority, None)]);
    });
    let are_resumed = |issued: &Issued| {
        let clients = VERSIONS.map(|version| authority.client_showing(issued, &[version]));
        for client in &clients {
            let kinds = [echoed(client, &rig).unwrap(), echoed(client, &rig).unwrap()];
            assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed]);
        }
        clients
    };
    // The certificate is valid for longer than these connections take.
    let begun = Instant::now();
    are_resumed(&authority.issue("bob"));
    let end = SystemTime::now() + Duration::from_secs(10) + 3 * begun.elapsed();
    let clients = are_resumed(&issue_until(end, "alice", &authority));
    wait_until("it has expired", || SystemTime::now() > end + Duration::from_secs(1));
    clients.iter().for_each(|client| _ = echoed(client, &rig).unwrap_err());
    rig.wait_closed(CloseReason::TlsClientCertificate, 2);
}

#[test]
fn the_log_says_what_is_wrong_with_a_certificate() {
    let (authority, other) = (Authority::new(), Authority::new());
    let presented = authority.issue("db.example");
    let (revoked, expired) = (authority.issue("bob"), issue_until(SystemTime::UNIX_EPOCH, "carol", &authority));
    let rig = Rig::with(&[Backend::echo()], |listener, _| {
        listener.tls = asking("Required", &presented, &[(&authority, Some(authority.revoked(&[&revoked])))]);
    });
    let showing = |issued| authority.client_showing(issued, &VERSIONS);
    for (client, fault) in [
        (authority.client(&VERSIONS), "missing"),
        (showing(&revoked), "revoked"),
        (showing(&expired), "expired"),
        (showing(&other.issue("dave")), "unknown_issuer"),
    ] {
        echoed(&client, &rig).unwrap_err();
        let expected = format!(" reason=tls_client_certificate tls_client_fault={fault}");
        wait_until("it is logged", || rig.logged().iter().any(|line| line.contains(&expected)));
    }
}

/// The PROXY header that a backend gets.
fn header(served: &TcpStream) -> ProxyHeader<'static> {
    let mut bytes = read_exactly(served, 16);
    bytes.extend(read_exactly(served, u16::from_be_bytes([bytes[14], bytes[15]]).into()));
    let (header, length) = ProxyHeader::parse(&bytes, ParseConfig::default()).unwrap();
    assert_eq!(length, bytes.len());
    header.into_owned()
}

#[test]
fn backends_are_told_of_the_clients_tls() {
    let authority = Authority::new();
    let presented = authority.issue("db.example");
    let backend = Backend::new();
    let announced = |_: &mut Listener, upstream: &mut UpstreamConfig| {
        backend_of(upstream).proxy_protocol = Some(ProxyVersion::V2);
    };
    let rig = Rig::with(&[backend.address], |listener, upstream| {
        listener.tls = asking("Optional", &presented, &[(&authority, None)]);
        announced(listener, upstream);
    });
    let header_for = |config: &Arc<ClientConfig>| {
        let client = connect_tls(config, rig.address());
        let mut served = backend.accept();
        let mut client = client;
        client.write_all(b"?").unwrap();
        let header = header(&served);
        served.write_all(&read_exactly(&served, 1)).unwrap();
        assert_eq!(read_exactly(&mut client, 1), b"?");
        drop(served);
        end(client);
        header
    };
    let flags = |ssl: &SslInfo| (ssl.client_ssl(), ssl.client_cert_conn(), ssl.client_cert_sess(), ssl.verify());
    for (version, name) in [(&TLS12, "TLSv1.2"), (&TLS13, "TLSv1.3")] {
        let mut config = (*authority.client_showing(&authority.issue("alice"), &[version])).clone();
        config.alpn_protocols = vec![b"mqtt".to_vec()];
        let config = Arc::new(config);
        for expected in [(true, true, true, 0), (true, false, true, 0)] {
            let header = header_for(&config);
            assert_eq!((header.authority(), header.alpn()), (Some("db.example"), Some(&b"mqtt"[..])));
            let ssl = header.ssl().unwrap();
            assert_eq!((ssl.version(), ssl.cn()), (Some(name), Some("alice")));
            assert_eq!(flags(&ssl), expected, "in the session, and the second time not in the connection");
        }
        let header = header_for(&authority.client(&[version]));
        let ssl = header.ssl().unwrap();
        assert_eq!((header.alpn(), ssl.cn(), flags(&ssl)), (None, None, (true, false, false, 1)));
    }
    rig.wait_closed(CloseReason::Complete, 6);
    let plain = Rig::with(&[backend.address], announced);
    let (_client, served) = plain.connect_to(&backend);
    assert_eq!(header(&served).tlvs().count(), 0, "there is nothing to tell of a client without TLS");
}
