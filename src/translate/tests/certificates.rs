//! Certificates: valid, retained, dropped, and parsed only once.

use std::sync::Arc;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use rcgen::{CertificateParams, DnType, KeyPair, SanType, date_time_ymd};

use super::{manifests::FOLDER, *};
use crate::{api::RefKind, model::Certificate, world::ObjectRef};

pub(super) struct PemPair {
    pub(super) certificate: String,
    pub(super) key: String,
}

pub(super) fn issue(names: &[&str]) -> PemPair {
    issue_with(names, |_| {})
}

pub(super) fn issue_with(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> PemPair {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_before = date_time_ymd(2025, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    PemPair { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

pub(super) fn store(world: &mut World, name: &str, certificate: &str, key: &str) {
    let data = [("tls.crt", certificate), ("tls.key", key)]
        .map(|(name, text)| (name.to_owned(), ByteString(text.as_bytes().to_vec())));
    let secret = Secret { data: Some(data.into()), ..Secret::default() };
    world.secrets.insert(object(name), secret.into());
}

/// A world with one listener that presents these Secrets, which are not stored yet.
fn presenting(references: &str) -> World {
    let spec = format!(
        "{{listeners: [{{port: 1, tls: {{certificateRefs: [{references}]}}}}], backends: [{{addresses: ['10.0.0.1:1']}}]}}"
    );
    load_balancer("pg", &spec)
}

fn presented(snapshot: &Snapshot) -> &[Arc<Certificate>] {
    &snapshot.listeners[&listener("pg", 1)].tls.as_ref().unwrap().certificates
}

fn secret(name: &str) -> ObjectRef {
    ObjectRef { kind: RefKind::Secret, key: object(name) }
}

#[test]
fn a_secrets_certificate_is_presented_for_its_names() {
    let pair = issue(&["pg.example.com", "*.EU.example.com"]);
    let mut world = presenting("{name: a}");
    store(&mut world, "a", &pair.certificate, &pair.key);
    let (snapshot, verdicts) = first(&world);
    assert_eq!(sentences(&verdicts, "pg"), Vec::<String>::new());
    let certificate = &presented(&snapshot)[0];
    assert_eq!(&*certificate.source, "Secret shop/a");
    assert_eq!(certificate.names.as_slice(), ["pg.example.com".into(), "*.eu.example.com".into()]);
    assert_eq!(certificate.not_after.to_string(), "2027-01-01T00:00:00Z");
    assert!(!format!("{snapshot:?}").contains("KEY"));
}

#[test]
fn the_common_name_counts_only_without_alternative_names() {
    let named =
        |params: &mut CertificateParams| params.distinguished_name.push(DnType::CommonName, "Common.example.com");
    for (pair, expected) in
        [(issue_with(&["pg.example.com"], named), "pg.example.com"), (issue_with(&[], named), "common.example.com")]
    {
        let mut world = presenting("{name: a}");
        store(&mut world, "a", &pair.certificate, &pair.key);
        assert_eq!(presented(&first(&world).0)[0].names.as_slice(), [expected.into()]);
    }
}

#[test]
fn the_common_name_counts_without_alternative_names_of_services() {
    let common = |name: &'static str, alternative: Option<SanType>| {
        issue_with(&[], move |params| {
            params.distinguished_name.push(DnType::CommonName, name);
            params.subject_alt_names.extend(alternative);
        })
    };
    let text = |text: &str| text.try_into().unwrap();
    let none: &[&str] = &[];
    for (pair, expected) in [
        (common("a.example.com", Some(SanType::IpAddress([192, 0, 2, 1].into()))), &["a.example.com"][..]),
        (common("a.example.com", Some(SanType::Rfc822Name(text("a@example.com")))), &["a.example.com"]),
        (common("a.example.com", Some(SanType::URI(text("spiffe://example.com/a")))), none),
        (common("A.Example.com.", None), &["a.example.com"]),
        (common("*.example.com", None), &["*.example.com"]),
        (common("The Shop", None), none),
        (common("192.0.2.1", None), none),
        (common("a.*.example.com", None), none),
        (common("b\u{fc}cher.example", None), none),
        (issue(&["a*.example.com", "b.example.com"]), &["b.example.com"]),
    ] {
        let mut world = presenting("{name: a}");
        store(&mut world, "a", &pair.certificate, &pair.key);
        let (snapshot, _) = first(&world);
        let names: Vec<_> = presented(&snapshot)[0].names.as_slice().iter().map(ToString::to_string).collect();
        assert_eq!(names, expected, "{}", pair.certificate);
    }
}

#[test]
fn other_content_of_a_pem_text_is_ignored_or_refused() {
    let (pair, other) = (issue(&["pg.example.com"]), issue(&["other.example.com"]));
    let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    let list = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    let broken = "-----BEGIN CERTIFICATE-----\nMAAAAA==\n-----END CERTIFICATE-----\n";
    let read = |certificate: &str, key: &str| {
        let mut world = presenting("{name: a}");
        store(&mut world, "a", certificate, key);
        let (snapshot, verdicts) = first(&world);
        match sentences(&verdicts, "pg").first() {
            None => Ok(presented(&snapshot)[0].key.cert.len()),
            Some(sentence) => Err(sentence.clone()),
        }
    };
    let both = format!("{parameters}{}{}", pair.key, pair.certificate);
    assert_eq!(read(&both, &both), Ok(1), "one text for both");
    assert_eq!(read(&format!("{}Issuer: a\n{}", pair.certificate, other.certificate), &both), Ok(2));
    let glued = format!("{}{}", pair.certificate.trim_end(), other.certificate);
    let ends_at = pair.certificate.lines().count();
    for (certificate, key, expected) in [
        (&glued, &pair.key, &*format!("tls.crt of Secret shop/a is not PEM at line {ends_at}: ")),
        (&format!("{}{list}", pair.certificate), &pair.key, "tls.crt of Secret shop/a has a revocation list at"),
        (&format!("{}{broken}", pair.certificate), &pair.key, "tls.crt of Secret shop/a has an unreadable certificate"),
        (&pair.certificate, &format!(" {}", pair.key), "tls.key of Secret shop/a is not PEM at line 1: "),
        (
            &pair.certificate,
            &format!("{}{}", pair.key, other.key),
            "tls.key of Secret shop/a has more than one private key, at",
        ),
        (&pair.certificate, &list.to_owned(), "tls.key of Secret shop/a has a revocation list at line 1"),
    ] {
        let message = read(certificate, key).unwrap_err();
        assert!(message.contains(expected) && message.ends_with("; it is ignored"), "{expected}: {message}");
    }
}

#[test]
fn files_are_read_too() {
    let pair = issue(&["pg.example.com"]);
    let mut world = presenting("{name: a}, {files: {certificate: tls/pg.crt, key: /run/pg.key}}");
    store(&mut world, "a", &pair.certificate, &pair.key);
    world.files.insert(format!("{FOLDER}/tls/pg.crt").into(), Ok(pair.certificate.as_bytes().into()));
    world.files.insert("/run/pg.key".into(), Ok(pair.key.as_bytes().into()));
    let (snapshot, verdicts) = first(&world);
    assert_eq!(sentences(&verdicts, "pg"), Vec::<String>::new());
    let sources: Vec<_> = presented(&snapshot).iter().map(|certificate| &*certificate.source).collect();
    assert_eq!(sources, ["Secret shop/a", "/etc/tcplb/tls/pg.crt"]);

    world.files.insert("/run/pg.key".into(), Err("there is no such file".into()));
    let (_, verdicts) = first(&world);
    assert_eq!(
        sentences(&verdicts, "pg"),
        ["spec.listeners[0].tls.certificateRefs[1]: file /run/pg.key: there is no such file; it is ignored"]
    );
}

#[test]
fn a_broken_certificate_is_dropped_and_the_others_are_presented() {
    let (good, other) = (issue(&["good.example.com"]), issue(&["other.example.com"]));
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let broken_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let torn = &good.certificate[..good.certificate.len() / 2];
    for (certificate, key, expected) in [
        (
            &*good.certificate,
            &*other.key,
            "tls.key of Secret shop/broken does not match tls.crt of Secret shop/broken: write",
        ),
        (
            "",
            &good.key,
            "tls.crt of Secret shop/broken has no certificate: write a PEM text that begins with -----BEGIN",
        ),
        ("certificate", &good.key, "tls.crt of Secret shop/broken has no certificate"),
        (torn, &good.key, "tls.crt of Secret shop/broken is not PEM"),
        (nonsense, &good.key, "tls.crt of Secret shop/broken has an unreadable certificate"),
        (
            &good.certificate,
            "",
            "tls.key of Secret shop/broken has no readable private key: write an unencrypted PEM text",
        ),
        (&good.certificate, encrypted, "tls.key of Secret shop/broken has an encrypted private key at line 1"),
        (&good.certificate, broken_key, "tls.key of Secret shop/broken has a key of an unsupported type"),
    ] {
        let mut world = presenting("{name: broken}, {name: good}");
        store(&mut world, "good", &good.certificate, &good.key);
        store(&mut world, "broken", certificate, key);
        let (snapshot, verdicts) = first(&world);
        let found = sentences(&verdicts, "pg");
        let expected = format!("spec.listeners[0].tls.certificateRefs[0]: {expected}");
        assert!(found[0].starts_with(&expected) && found[0].ends_with("; it is ignored"), "{expected}: {found:?}");
        assert_eq!(found.len(), 1);
        assert_eq!(verdicts[&object("pg")].problems[0].reason, Reason::InvalidCertificateRef);
        assert_eq!(presented(&snapshot).len(), 1);
    }
}

/// Made with `openssl x509 -req` without extensions.
const VERSION_1: &str = "\
-----BEGIN CERTIFICATE-----
MIIBMDCB1wIUQC9pgZbtdFGRtiSjmgmVqFm4OjwwCgYIKoZIzj0EAwIwGjEYMBYG
A1UEAwwPb2xkLmV4YW1wbGUuY29tMCAXDTI2MTEyMjA1NTkwOVoYDzIxMjYxMDI5
MDU1OTA5WjAaMRgwFgYDVQQDDA9vbGQuZXhhbXBsZS5jb20wWTATBgcqhkjOPQIB
BggqhkjOPQMBBwNCAATSubPS+7+w6kd49G4vE0zyuMyJbOH25jwDZ9VwOn8N1lXM
oI8NV/OJYYEFhWfvsC8tfrXyAlHCaogNxOcLyutIMAoGCCqGSM49BAMCA0gAMEUC
IQDEclxLvbUxJmsjwttbH0BdBVOzXyRCR6GH0ZUy2SeV2AIgOedVyBo7JEvs9R17
YthI913DTMK+zQKR26/EwMkeY5s=
-----END CERTIFICATE-----
";

#[test]
fn a_version_1_certificate_gets_a_message() {
    let mut world = presenting("{name: old}");
    store(&mut world, "old", VERSION_1, &issue(&[]).key);
    assert_eq!(
        sentences(&first(&world).1, "pg")[0],
        "spec.listeners[0].tls.certificateRefs[0]: tls.crt of Secret shop/old has an X.509 certificate of version 1, \
         which has no extensions for its purpose and names: have one of version 3 issued, for a server with its names \
         in subjectAltName; it is ignored"
    );
}

#[test]
fn a_certificate_that_is_listed_twice_is_presented_once() {
    let pair = issue(&["pg.example.com"]);
    let mut world = presenting(
        "{name: a}, {files: {certificate: a, key: b}}, {name: a}, {files: {certificate: a, key: c}}, {}, {}",
    );
    store(&mut world, "a", &pair.certificate, &pair.key);
    let (snapshot, verdicts) = first(&world);
    assert_eq!(presented(&snapshot).len(), 1);
    let sentences = sentences(&verdicts, "pg");
    assert_eq!(
        sentences[1],
        "spec.listeners[0].tls.certificateRefs[2]: Secret shop/a is a duplicate of certificateRefs[0]: remove it; it \
         is presented once"
    );
    assert!(sentences[2].contains("[3]: /etc/tcplb/a is a duplicate of certificateRefs[1]"), "{sentences:?}");
    assert!(sentences[4].contains("[5]: neither name nor files is set"), "{sentences:?}");
}

#[test]
fn an_unreadable_secret_is_not_reported_as_missing() {
    let mut world = presenting("{name: a}");
    world.unreadable.insert(("Secret", object("a")), "data.x: is not base64".into());
    assert_eq!(
        sentences(&first(&world).1, "pg")[0],
        "spec.listeners[0].tls.certificateRefs[0]: Secret shop/a cannot be read: data.x: is not base64; it is ignored"
    );
}

#[test]
fn no_message_quotes_a_key() {
    let pair = issue(&["pg.example.com"]);
    let secret = "c2VjcmV0LWtleS1tYXRlcmlhbA";
    for key in [
        format!("-----BEGIN {secret}"),
        format!("-----BEGIN PRIVATE KEY-----\n{secret}"),
        format!("-----BEGIN PRIVATE KEY-----\n{secret}!\n-----END PRIVATE KEY-----"),
        secret.into(),
    ] {
        let mut world = presenting("{name: a}");
        store(&mut world, "a", &pair.certificate, &key);
        let (snapshot, verdicts) = first(&world);
        assert!(verdicts[&object("pg")].refuses());
        assert!(!format!("{snapshot:?}{verdicts:?}").contains(secret));
    }
}

#[test]
fn a_broken_or_missing_certificate_stays_as_it_was() {
    let (old, new) = (issue(&["pg.example.com"]), issue(&["pg.example.com"]));
    let mut world = presenting("{name: a}");
    store(&mut world, "a", &old.certificate, &old.key);
    let (before, _) = first(&world);

    store(&mut world, "a", &new.certificate, &old.key);
    let (torn, verdicts) = then(&world, &before);
    assert!(torn.configures_the_same(&before));
    assert!(sentences(&verdicts, "pg")[0].ends_with("; the previous one stays in use"));

    world.secrets.clear();
    let (deleted, verdicts) = then(&world, &torn);
    assert!(deleted.configures_the_same(&before));
    assert_eq!(
        sentences(&verdicts, "pg"),
        [
            "spec.listeners[0].tls.certificateRefs[0]: Secret shop/a does not exist: create it, or correct the reference; \
          the previous one stays in use"
        ]
    );

    store(&mut world, "a", &new.certificate, &new.key);
    let (rotated, verdicts) = then(&world, &deleted);
    assert_eq!(sentences(&verdicts, "pg"), Vec::<String>::new());
    assert_ne!(presented(&rotated)[0].fingerprint, presented(&before)[0].fingerprint);
    assert_eq!(rotated.generation, before.generation + 1);
}

#[test]
fn a_listener_that_is_left_without_certificates_keeps_serving_with_the_one_it_had() {
    let pair = issue(&["pg.example.com"]);
    let mut world = presenting("{name: a}");
    store(&mut world, "a", &pair.certificate, &pair.key);
    let (before, _) = first(&world);
    let (after, verdicts) = then(&presenting("{name: b}"), &before);
    assert!(after.configures_the_same(&before));
    assert!(sentences(&verdicts, "pg")[1].ends_with("is usable; the listener keeps its previous configuration"));
}

#[test]
fn expired_and_future_certificates_are_presented_with_a_warning() {
    let expired = issue_with(&["a.example.com"], |params| params.not_after = date_time_ymd(2025, 12, 31));
    let early = issue_with(&["b.example.com"], |params| params.not_before = date_time_ymd(2026, 1, 2));
    let endless = issue_with(&["c.example.com"], |params| params.not_after = date_time_ymd(9999, 12, 31));
    let mut world = presenting("{name: expired}, {name: early}, {name: endless}");
    for (name, pair) in [("expired", &expired), ("early", &early), ("endless", &endless)] {
        store(&mut world, name, &pair.certificate, &pair.key);
    }
    let (before, _) = first(&world);
    // Reported by each translation, not only when the certificate is read.
    let (snapshot, verdicts) = then(&world, &before);
    assert_eq!(
        sentences(&verdicts, "pg"),
        [
            "spec.listeners[0].tls.certificateRefs[0]: the certificate of Secret shop/expired expired on \
         2025-12-31T00:00:00Z: replace it; it is still presented",
            "spec.listeners[0].tls.certificateRefs[1]: the certificate of Secret shop/early is not valid before \
             2026-01-02T00:00:00Z; it is presented anyway",
        ]
    );
    assert_eq!(verdicts[&object("pg")].problems[0].reason, Reason::CertificateExpired);
    assert!(!verdicts[&object("pg")].refuses());
    assert_eq!(presented(&snapshot).len(), 3);
}

#[test]
fn an_unchanged_certificate_is_never_parsed_again() {
    let pair = issue(&["pg.example.com"]);
    let mut world = presenting("{name: a}");
    store(&mut world, "a", &pair.certificate, &pair.key);
    let (before, _) = first(&world);

    // Endpoints come and go, and the listener itself changes.
    let spec = "{listeners: [{name: other, port: 1, tls: {certificateRefs: [{name: a}]}}], \
                 backends: [{addresses: ['10.0.0.1:1', '10.0.0.2:1']}]}";
    world.load_balancers = load_balancer("pg", spec).load_balancers;
    let (after, _) = then(&world, &before);
    assert_eq!(after.generation, before.generation + 1);
    assert!(Arc::ptr_eq(&presented(&after)[0].key, &presented(&before)[0].key));
}

/// A world of a cluster: `a` refers to the Secrets `one` and `two`.
fn in_a_cluster(mode: &str, placement: &str) -> World {
    let mut world = world(&format!(
        "{mode}\n---\n{{kind: TcpLoadBalancer, apiVersion: tcplb.io/v1alpha1, metadata: {{name: a, uid: u-a}}, spec: \
         {{placement: {placement}, listeners: [{{port: 1, tls: {{certificateRefs: [{{name: one}}, {{name: two}}]}}}}], \
         backends: [{{service: {{name: s, port: 1}}}}]}}}}\n---\n{{kind: Service, metadata: {{name: s}}, \
         spec: {{selector: {{a: b}}, ports: [{{port: 1}}]}}}}"
    ));
    let pair = issue(&["a.example.com"]);
    store(&mut world, "one", &pair.certificate, &pair.key);
    world
}

fn certificate_problems(verdicts: &Verdicts) -> Vec<(Severity, Reason, String)> {
    let problems = verdicts[&object("a")].problems.iter().filter(|problem| problem.reason != Reason::EndpointsPending);
    problems.map(|problem| (problem.severity, problem.reason, problem.to_string())).collect()
}

#[test]
fn a_secret_beyond_the_quota_drops_only_its_certificate() {
    let mode =
        "{kind: Gateway, tenancy: {secretsPerNamespace: 1}, ports: {20001: {uid: u-a, port: 1, object: shop/a}}}";
    let mut world = in_a_cluster(mode, "Gateway");
    world.beyond_quota.insert(secret("two"));
    let expected = |consequence: &str| {
        let message = format!(
            "spec.listeners[0].tls.certificateRefs[1]: the administrator allows 1 Secrets and ConfigMaps with \
             certificates or passwords in namespace shop, and older load balancers and the references before this one \
             use them up: remove one of them, or use one of these instead of two; {consequence}"
        );
        vec![(Severity::Refused, Reason::NotPermitted, message)]
    };
    let (snapshot, verdicts) = first(&world);
    assert_eq!(certificate_problems(&verdicts), expected("it is ignored"));
    assert_eq!(snapshot.listeners[&listener("a", 1)].tls.as_ref().unwrap().certificates.len(), 1);

    // A certificate that was read before is still presented.
    let mut before = world.clone();
    before.beyond_quota.clear();
    before.secrets.insert(object("two"), before.secrets[&object("one")].clone());
    let (before, _) = first(&before);
    let (after, verdicts) = then(&world, &before);
    assert!(after.configures_the_same(&before));
    assert_eq!(certificate_problems(&verdicts), expected("the previous one stays in use"));
}

#[test]
fn unread_secrets_of_a_listener_beyond_quota_are_not_reported() {
    for (cap, what) in [("loadBalancersPerNamespace", "load balancers"), ("listenersPerNamespace", "listeners")] {
        let mut world = in_a_cluster(&format!("{{kind: Gateway, tenancy: {{{cap}: 0}}}}"), "Gateway");
        world.secrets.clear();
        world.beyond_quota = [secret("one"), secret("two")].into();
        let (_, verdicts) = first(&world);
        let problems = certificate_problems(&verdicts);
        assert!(problems.len() == 1 && problems[0].2.contains(&format!("allows no {what}")), "{problems:?}");
    }
}

#[test]
fn secrets_that_only_sidecars_read_are_not_required_here() {
    let mut world = in_a_cluster("{kind: Gateway, tenancy: {secretsPerNamespace: 0}}", "Sidecar");
    world.secrets.clear();
    world.beyond_quota = [secret("one"), secret("two")].into();
    let (_, verdicts) = first(&world);
    let expected = ["one", "two"].iter().enumerate().map(|(index, name)| {
        let message = format!(
            "spec.listeners[0].tls.certificateRefs[{index}]: Secret shop/{name} is not checked here, because the \
             administrator limits the Secrets of a namespace; the pods read it themselves"
        );
        (Severity::Warning, Reason::NotPermitted, message)
    });
    assert_eq!(certificate_problems(&verdicts), expected.collect::<Vec<_>>());
}
