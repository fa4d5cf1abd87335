//! Authorities of clients and backends: valid, retained and refused.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, CustomExtension, DnType,
    DnValue, IsCa, KeyIdMethod, KeyPair, date_time_ymd,
};
use rustls::pki_types::CertificateDer;

use super::{manifests::FOLDER, *};
use crate::{
    api::RefKind,
    cost::assert_grows_no_faster_than_n_log_n,
    model::{BackendTls, ClientValidation, ClientValidationMode},
    world::{ObjectIdentity, ObjectRef, ProcessMode},
};

pub struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new() -> Self {
        Self::until(4096)
    }

    fn until(year: i32) -> Self {
        Self::with(|params| params.not_after = date_time_ymd(year, 1, 1))
    }

    pub fn named(name: &str) -> Self {
        Self::with(|params| params.distinguished_name.push(DnType::CommonName, name))
    }

    /// The same key with another name.
    pub fn renamed(&self, name: DnValue) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, self.key()).unwrap())
    }

    fn key(&self) -> KeyPair {
        KeyPair::from_pem(&self.0.key().serialize_pem()).unwrap()
    }

    /// An intermediate authority with this serial number.
    pub fn intermediate(&self, name: &str, serial: u64) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(serial.into());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &self.0).unwrap())
    }

    /// A certificate of a client with this serial number.
    pub fn issue(&self, serial: u64) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["client".to_owned()]).unwrap();
        params.serial_number = Some(serial.into());
        params.signed_by(&KeyPair::generate().unwrap(), &self.0).unwrap().der().clone()
    }

    fn with(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        change(&mut params);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// The empty revocation list of this authority.
    pub fn list(&self) -> String {
        self.list_of(2026)
    }

    /// An empty revocation list that is issued in this year.
    pub fn list_of(&self, year: i32) -> String {
        self.list_with(year, |_| {})
    }

    pub fn list_with(&self, year: i32, change: impl FnOnce(&mut CertificateRevocationListParams)) -> String {
        let mut list = CertificateRevocationListParams {
            this_update: date_time_ymd(year, 1, 1),
            next_update: date_time_ymd(year + 1, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        change(&mut list);
        list.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

/// A world with a Secret `own`, one listener with these TLS settings, and one backend with these.
fn declaring(tls: &str, backend: &str) -> World {
    let mut world = load_balancer(
        "pg",
        &format!(
            "{{listeners: [{{port: 1, tls: {{certificateRefs: [{{name: own}}], {tls}}}}}], \
             backends: [{{addresses: ['10.0.0.1:1'], {backend}}}]}}"
        ),
    );
    let pair = rcgen::generate_simple_self_signed(["pg.example.com".into()]).unwrap();
    let data = [("tls.crt", pair.cert.pem()), ("tls.key", pair.signing_key.serialize_pem())];
    let data = data.map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())));
    world.secrets.insert(object("own"), Secret { data: Some(data.into()), ..Secret::default() }.into());
    world
}

pub fn validating(references: &str) -> World {
    declaring(&format!("clientValidation: {{caRefs: [{references}]}}"), "")
}

fn encrypting(tls: &str) -> World {
    declaring("", &format!("tls: {tls}"))
}

pub fn store(world: &mut World, name: &str, texts: &[(&str, &str)]) {
    let data: BTreeMap<_, _> = texts.iter().map(|(key, text)| (key.to_string(), text.to_string())).collect();
    let map = k8s_openapi::api::core::v1::ConfigMap { data: Some(data), ..Default::default() };
    world.config_maps.insert(object(name), map.into());
}

pub fn validation(snapshot: &Snapshot) -> &Arc<ClientValidation> {
    snapshot.listeners[&listener("pg", 1)].tls.as_ref().unwrap().client_validation.as_ref().unwrap()
}

fn backend_tls(snapshot: &Snapshot) -> &Arc<BackendTls> {
    snapshot.upstreams[&upstream("pg")].backends["default"].tls.as_ref().unwrap()
}

fn sources(validation: &ClientValidation) -> Vec<&str> {
    validation.authorities.iter().map(|authority| &*authority.source).collect()
}

#[test]
fn authorities_come_from_config_maps_secrets_and_files() {
    let ca = Ca::new();
    let mut world = validating("{name: a}, {kind: Secret, name: b}, {files: {ca: ca.pem, crl: /run/revoked.pem}}");
    store(&mut world, "a", &[("ca.crt", &ca.pem()), ("ca.crl", &ca.list())]);
    let data = [("ca.crt".to_owned(), ByteString(ca.pem().into_bytes()))];
    world.secrets.insert(object("b"), Secret { data: Some(data.into()), ..Secret::default() }.into());
    world.files.insert(format!("{FOLDER}/ca.pem").into(), Ok(ca.pem().as_bytes().into()));
    world.files.insert("/run/revoked.pem".into(), Ok(ca.list().as_bytes().into()));
    let (snapshot, verdicts) = first(&world);
    assert_eq!(sentences(&verdicts, "pg"), Vec::<String>::new());
    let validation = validation(&snapshot);
    assert_eq!(sources(validation), ["/etc/tcplb/ca.pem", "ConfigMap shop/a", "Secret shop/b"]);
    assert_eq!(validation.mode, ClientValidationMode::Required);
    let lists: Vec<_> = validation.authorities.iter().map(|authority| authority.revoked.len()).collect();
    assert_eq!(lists, [1, 1, 0]);
    let (again, _) = then(&world, &snapshot);
    assert!(Arc::ptr_eq(validation, self::validation(&again)), "what has not changed is not made anew");
}

/// A load balancer with a listener for each of these lists of ConfigMaps, and a backend for each of the others.
pub fn combining(clients: &[&str], backends: &[&str]) -> World {
    let references =
        |names: &str| names.split(' ').map(|name| format!("{{name: {name}}}")).collect::<Vec<_>>().join(", ");
    let listeners = clients.iter().enumerate().map(|(index, names)| {
        format!(
            "{{name: l{index}, port: {}, tls: {{certificateRefs: [{{name: own}}], clientValidation: {{caRefs: [{}]}}}}}}",
            index + 1,
            references(names)
        )
    });
    let backends = backends.iter().enumerate().map(|(index, names)| {
        format!(
            "{{name: b{index}, addresses: ['10.0.0.{}:1'], tls: {{serverName: db.example.com, caRefs: [{}]}}}}",
            index + 1,
            references(names)
        )
    });
    let (listeners, backends): (Vec<_>, Vec<_>) = (listeners.collect(), backends.collect());
    let spec = format!("{{listeners: [{}], backends: [{}]}}", listeners.join(", "), backends.join(", "));
    World { load_balancers: load_balancer("pg", &spec).load_balancers, ..declaring("", "") }
}

#[test]
fn verifiers_are_shared_by_all_uses_of_the_same_authorities_in_any_order() {
    let (x, y) = (Ca::named("x").pem(), Ca::named("y").pem());
    let stored = |mut world: World| {
        store(&mut world, "x", &[("ca.crt", &x)]);
        store(&mut world, "y", &[("ca.crt", &y)]);
        world
    };
    let of_listener = |snapshot: &Snapshot, port| {
        snapshot.listeners[&listener("pg", port)].tls.as_ref().unwrap().client_validation.clone().unwrap()
    };
    let of_backend = |snapshot: &Snapshot, name: &str| {
        let backend = &snapshot.upstreams[&upstream("pg")].backends[name];
        backend.tls.as_ref().unwrap().client.verifier.clone().unwrap()
    };
    let (before, verdicts) = first(&stored(combining(&["x y", "y x", "x y x", "x"], &["x y", "y x", "y"])));
    assert_eq!(sentences(&verdicts, "pg"), [""; 0]);
    let (shared, shared_by_backends) = (of_listener(&before, 1), of_backend(&before, "b0"));
    assert!([2, 3].iter().all(|port| Arc::ptr_eq(&of_listener(&before, *port), &shared)));
    assert!(!Arc::ptr_eq(&of_listener(&before, 4), &shared));
    assert!(Arc::ptr_eq(&of_backend(&before, "b1"), &shared_by_backends));
    assert!(!Arc::ptr_eq(&of_backend(&before, "b2"), &shared_by_backends));

    // New listeners and backends share those of earlier translations.
    let (after, _) = then(&stored(combining(&["x", "y x"], &["y", "y x"])), &before);
    assert!(Arc::ptr_eq(&of_listener(&after, 2), &shared));
    assert!(Arc::ptr_eq(&of_backend(&after, "b1"), &shared_by_backends));
    let (nothing, _) = then(&World::default(), &after);
    assert!(nothing.certificate_cache.verifiers.is_empty());
}

#[test]
fn verifiers_of_sidecars_are_built_once_by_a_gateway() {
    let spec = "{placement: Sidecar, listeners: [{port: 1, tls: {certificateRefs: [{name: own}], clientValidation: \
                {caRefs: [{name: a}]}}}], backends: [{addresses: ['127.0.0.1:1']}]}";
    let mode = ProcessMode::Gateway(Arc::default(), Arc::default());
    let mut world = World { load_balancers: load_balancer("pg", spec).load_balancers, mode, ..declaring("", "") };
    store(&mut world, "a", &[("ca.crt", &Ca::new().pem())]);
    let validations = |snapshot: &Snapshot| {
        let known = snapshot.certificate_cache.verifiers.clients.values();
        known.map(|validation| validation.clone().unwrap()).collect::<Vec<_>>()
    };
    let (before, _) = first(&world);
    let (after, _) = then(&world, &before);
    let (built, kept) = (validations(&before), validations(&after));
    assert!(after.listeners.is_empty() && built.len() == 1 && Arc::ptr_eq(&built[0], &kept[0]));
}

/// An authority with a certificate of more than 60,000 bytes.
fn large() -> Ca {
    Ca::with(|params| {
        params.custom_extensions.push(CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![0; 60_000]));
    })
}

/// The combinations of `large` with `s0` to `s3`.
fn combinations() -> Vec<String> {
    let of = |bits: u8| {
        let others = (0..4).filter(|bit| (bits >> bit) & 1 == 1).map(|bit| format!(" s{bit}"));
        format!("large{}", others.collect::<String>())
    };
    (0..16).map(of).collect()
}

#[test]
fn large_authorities_in_too_many_combinations_are_refused() {
    let [large, newer] = [(); 2].map(|()| large());
    let small = Ca::named("small").pem();
    let combinations = combinations();
    let clients: Vec<_> = combinations.iter().map(String::as_str).collect();
    let stored = |mut world: World| {
        store(&mut world, "large", &[("ca.crt", &large.pem().repeat(10))]);
        (0..4).for_each(|bit| store(&mut world, &format!("s{bit}"), &[("ca.crt", &small)]));
        world
    };
    let (before, verdicts) = first(&stored(combining(&clients, &["large"])));
    assert_eq!(before.listeners.len(), 14, "each further copy has more than 600,000 bytes");
    let expected = "clientValidation.caRefs: the different combinations of authorities in namespace shop would repeat \
                    more than 8 MiB of certificates and revocation lists: use the same caRefs for several listeners";
    let messages = sentences(&verdicts, "pg");
    assert!(messages[0].starts_with(&format!("spec.listeners[14].tls.{expected}")), "{messages:?}");
    assert!(messages.iter().any(|message| message.starts_with("spec.backends[0].tls.caRefs: the different")));

    // The order of the declarations decides, so a later change of all lists is admitted as well.
    let others: Vec<_> = clients.iter().rev().copied().collect();
    let refused = |verdicts: &Verdicts| sentences(verdicts, "pg").iter().filter(|text| text.contains("repeat")).count();
    let reversed = stored(combining(&others, &["s0"]));
    let (after, verdicts) = then(&reversed, &before);
    assert_eq!((after.listeners.len(), refused(&verdicts)), (14, 2));
    let mut rotated = reversed.clone();
    store(&mut rotated, "large", &[("ca.crt", &newer.pem().repeat(10))]);
    let (_, verdicts) = then(&rotated, &after);
    assert_eq!(refused(&verdicts), 2, "no others than before: {:?}", sentences(&verdicts, "pg"));
    let (fewer, verdicts) = then(&stored(combining(&clients[14..], &["large"])), &Snapshot::default());
    assert_eq!((sentences(&verdicts, "pg"), fewer.listeners.len()), (Vec::new(), 2));
}

#[test]
fn the_combinations_of_the_oldest_load_balancers_are_admitted() {
    let combinations = combinations();
    let clients: Vec<_> = combinations.iter().map(String::as_str).collect();
    let mut world = combining(&clients, &["large"]);
    store(&mut world, "large", &[("ca.crt", &large().pem().repeat(10))]);
    (0..4).for_each(|bit| store(&mut world, &format!("s{bit}"), &[("ca.crt", &Ca::named("small").pem())]));
    world.load_balancers.clear();
    for (name, created, clients) in [("newer", 2, &clients[13..15]), ("older", 1, &clients[..13])] {
        let mut declared = combining(clients, &["large"]).load_balancers[&object("pg")].clone();
        let created = Timestamp::from_second(created).unwrap();
        declared.identity = Some(ObjectIdentity { created, uid: name.into(), generation: 1 });
        world.load_balancers.insert(object(name), declared);
    }
    let (snapshot, verdicts) = first(&world);
    let served = |name: &str| snapshot.listeners_of(&object(name)).count();
    assert_eq!(sentences(&verdicts, "older"), [""; 0]);
    assert_eq!((served("older"), served("newer")), (13, 0), "{:?}", sentences(&verdicts, "newer"));
    let repeated = |text: &&String| text.contains("would repeat more than 8 MiB");
    assert_eq!(sentences(&verdicts, "newer").iter().filter(repeated).count(), 2);
}

#[test]
fn the_cost_of_a_text_does_not_grow_with_its_references() {
    let prepare = |count: usize| {
        let mut world = combining(&vec!["x"; count], &["x"]);
        let comments = "# An authority of clients.\n".repeat(1_200 * count);
        store(&mut world, "x", &[("ca.crt", &(Ca::new().pem() + &comments))]);
        let (before, _) = first(&world);
        (world, before)
    };
    assert_grows_no_faster_than_n_log_n(25, prepare, |(world, before)| {
        assert_eq!(then(world, before).0.generation, before.generation);
    });
}

#[test]
fn a_key_that_a_config_map_has_twice_is_refused() {
    let ca = Ca::new();
    let mut world = validating("{name: a}");
    store(&mut world, "a", &[("ca.crt", &ca.pem())]);
    let map = Arc::make_mut(world.config_maps.get_mut(&object("a")).unwrap());
    map.binary_data = Some([("ca.crt".to_owned(), ByteString(ca.pem().into_bytes()))].into());
    let messages = sentences(&first(&world).1, "pg");
    assert!(messages[0].contains("ConfigMap shop/a has ca.crt twice, in data and in binaryData"), "{messages:?}");
}

#[test]
fn one_file_may_have_authorities_and_their_lists_if_it_is_named_for_both() {
    let ca = Ca::new();
    let mut world = validating("{files: {ca: all.pem, crl: all.pem}}");
    let text = ca.pem() + &ca.list();
    world.files.insert(format!("{FOLDER}/all.pem").into(), Ok(text.as_bytes().into()));
    let (snapshot, verdicts) = first(&world);
    assert_eq!(sentences(&verdicts, "pg"), Vec::<String>::new());
    let authority = &validation(&snapshot).authorities[0];
    assert_eq!((authority.roots.len(), authority.revoked.len()), (1, 1));
}

/// Made with `openssl ca -gencrl`, without `crlnumber` in its configuration.
const VERSION_1: &str = "\
-----BEGIN X509 CRL-----
MIGhMEgwCgYIKoZIzj0EAwIwGjEYMBYGA1UEAwwPb2xkLmV4YW1wbGUuY29tFw0y
NjExMjIyMzU3MTJaGA8yMTI2MTAyOTIzNTcxMlowCgYIKoZIzj0EAwIDSQAwRgIh
AKGwZM2IVbZkJQnmGf/3M2jPNOjGdL9rBuOZiMereqQsAiEArCSG++h5OdMalsGn
KvPxcbUqAhjgYHo34svaGKKLY3o=
-----END X509 CRL-----
";

#[test]
fn unreadable_authorities_are_dropped_and_reported() {
    let ca = Ca::new();
    let (pem, list) = (ca.pem(), ca.list());
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let no_list = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    for (texts, expected) in [
        (&[("other", &*pem)][..], "ConfigMap shop/wrong has no key ca.crt: write the CA certificates"),
        (&[("ca.crt", "")], "ca.crt of ConfigMap shop/wrong has no certificate: write a PEM text"),
        (&[("ca.crt", nonsense)], "ca.crt of ConfigMap shop/wrong has an unreadable certificate"),
        (&[("ca.crt", &pem[..200])], "ca.crt of ConfigMap shop/wrong is not PEM"),
        (&[("ca.crt", &pem), ("ca.crl", "")], "ca.crl of ConfigMap shop/wrong has no readable revocation list"),
        (&[("ca.crt", &pem), ("ca.crl", &pem)], "ca.crl of ConfigMap shop/wrong has no readable revocation list"),
        (&[("ca.crt", &pem), ("ca.crl", no_list)], "ca.crl of ConfigMap shop/wrong has no readable revocation list"),
        (
            &[("ca.crt", &pem), ("ca.crl", VERSION_1)],
            "ca.crl of ConfigMap shop/wrong has a revocation list of version 1, which is not supported: have one of \
             version 2 issued (for `openssl ca`, write `crlnumber`",
        ),
        (
            &[("ca.crt", &pem), ("ca.crl", &Ca::new().list())],
            "ca.crl of ConfigMap shop/wrong has a revocation list of \"CN=rcgen self signed cert\" that is not signed by \
             the authority of this name in ca.crt of ConfigMap shop/wrong: write the list as",
        ),
        (
            &[("ca.crt", &pem), ("ca.crl", &list[..100])],
            "ca.crl of ConfigMap shop/wrong is not PEM at line 1: the block",
        ),
        (&[("ca.crt", &(pem.clone() + &list))], "ca.crt of ConfigMap shop/wrong has a revocation list at line"),
        (
            &[("ca.crt", &pem), ("ca.crl", &(list.clone() + &pem))],
            "ca.crl of ConfigMap shop/wrong has a block other than a revocation list at line",
        ),
        (
            &[("ca.crt", &pem), ("ca.crl", &format!("{}{list}", list.trim_end()))],
            "ca.crl of ConfigMap shop/wrong is not PEM at line",
        ),
    ] {
        let mut world = validating("{name: wrong}, {name: right}");
        store(&mut world, "right", &[("ca.crt", &pem)]);
        store(&mut world, "wrong", texts);
        let (snapshot, verdicts) = first(&world);
        let found = sentences(&verdicts, "pg");
        let start = format!("spec.listeners[0].tls.clientValidation.caRefs[0]: {expected}");
        let end = "; it is ignored, and certificates of its authorities are refused";
        assert!(found.len() == 1 && found[0].starts_with(&start) && found[0].ends_with(end), "{start}: {found:?}");
        assert_eq!(verdicts[&object("pg")].problems[0].reason, Reason::InvalidCertificateRef);
        assert_eq!(sources(validation(&snapshot)), ["ConfigMap shop/right"]);
    }
}

#[test]
fn revocation_lists_of_another_authority_are_refused() {
    let (old, new) = (Ca::new(), Ca::new());
    let outcome = |of_old: &[(&str, &str)], of_new: &[(&str, &str)]| {
        let mut world = validating("{name: old}, {name: new}");
        store(&mut world, "old", of_old);
        store(&mut world, "new", of_new);
        let (snapshot, verdicts) = first(&world);
        assert_eq!(snapshot.listeners.is_empty(), verdicts[&object("pg")].refuses());
        sentences(&verdicts, "pg")
    };
    let (old, of_old, new) = (old.pem(), old.list(), new.pem());
    assert_eq!(outcome(&[("ca.crt", &old)], &[("ca.crt", &new)]), [""; 0]);
    assert_eq!(outcome(&[("ca.crt", &old), ("ca.crl", &of_old)], &[("ca.crt", &old)]), [""; 0]);
    let other = Ca::named("other");
    assert_eq!(outcome(&[("ca.crt", &old), ("ca.crl", &other.list())], &[("ca.crt", &other.pem())]), [""; 0]);
    let forged = outcome(&[("ca.crt", &old), ("ca.crl", &Ca::named("other").list())], &[("ca.crt", &other.pem())]);
    assert!(
        forged[0].starts_with(
            "spec.listeners[0].tls.clientValidation.caRefs: ConfigMap shop/old has a revocation list of \"CN=other\" that \
             is not signed by the authority of this name"
        ),
        "{forged:?}"
    );
    let refused = outcome(&[("ca.crt", &old), ("ca.crl", &of_old)], &[("ca.crt", &new)]);
    assert!(
        refused[0].starts_with(
            "spec.listeners[0].tls.clientValidation.caRefs: several authorities have the name \"CN=rcgen self signed cert\" \
             and different keys"
        ),
        "{refused:?}"
    );
}

#[test]
fn outdated_revocation_lists_get_a_warning_and_still_apply() {
    let (old, fresh) = (Ca::until(2025), Ca::new());
    let both = fresh.list_of(2024) + &fresh.list_of(2025);
    let warnings = |texts: &[(&str, &str)]| {
        let mut world = validating("{name: a}");
        store(&mut world, "a", texts);
        let (before, _) = first(&world);
        // Reported by each translation, not only when it is read.
        let (snapshot, verdicts) = then(&world, &before);
        assert!(!verdicts[&object("pg")].refuses());
        assert_eq!(sources(validation(&snapshot)), ["ConfigMap shop/a"]);
        let problems = verdicts[&object("pg")].problems.iter();
        problems.map(|problem| (problem.reason, problem.to_string())).collect::<Vec<_>>()
    };
    let field = "spec.listeners[0].tls.clientValidation.caRefs[0]";
    let expired = format!(
        "{field}: the authority \"CN=rcgen self signed cert\" in ca.crt of ConfigMap shop/a expired on \
         2025-01-01T00:00:00Z: replace it; certificates that it issued are still accepted"
    );
    let stale = format!(
        "{field}: the revocation list of \"CN=rcgen self signed cert\" in ca.crl of ConfigMap shop/a was due for renewal \
         by 2025-01-01T00:00:00Z: replace it; the old one stays in effect"
    );
    let warned = |sentence: &str| vec![(Reason::AuthorityExpired, sentence.to_owned())];
    assert_eq!(warnings(&[("ca.crt", &old.pem())]), warned(&expired));
    assert_eq!(warnings(&[("ca.crt", &fresh.pem()), ("ca.crl", &fresh.list_of(2024))]), warned(&stale));
    assert_eq!(
        warnings(&[("ca.crt", &old.pem()), ("ca.crl", &old.list_of(2024))]),
        warned(&format!("{expired}; the same applies to 1 more"))
    );
    assert_eq!(warnings(&[("ca.crt", &fresh.pem()), ("ca.crl", &both)]), [], "the newest list counts");
}

#[test]
fn a_listener_without_an_authority_is_not_served() {
    for (references, expected) in [
        ("", "caRefs: must not be empty: write the name of a ConfigMap or Secret with the key ca.crt, or a file"),
        ("{}", "caRefs[0]: neither name nor files is set: write the name of a ConfigMap or Secret, or a file"),
        ("{name: a, files: {ca: a}}", "caRefs[0]: both name and files are set: keep one of them"),
        ("{name: a}", "caRefs[0]: ConfigMap shop/a does not exist: create it, or correct the reference"),
        ("{name: a, kind: Secret}", "caRefs[0]: Secret shop/a does not exist: create it"),
        (
            "{name: a}",
            "caRefs: none of the references has a readable CA certificate: correct the references; the listener is not \
             served",
        ),
    ] {
        let (snapshot, verdicts) = first(&validating(references));
        let field = format!("spec.listeners[0].tls.clientValidation.{expected}");
        assert!(sentences(&verdicts, "pg").iter().any(|message| message.starts_with(&field)), "{field}: {verdicts:?}");
        assert!(snapshot.listeners.is_empty(), "{references}");
    }
}

#[test]
fn newly_invalid_client_validation_keeps_the_last_good_one() {
    let ca = Ca::new();
    let mut world = validating("{name: a}");
    store(&mut world, "a", &[("ca.crt", &ca.pem()), ("ca.crl", &ca.list())]);
    let (before, _) = first(&world);
    for broken in [Some([("ca.crt", ca.pem()), ("ca.crl", "nothing".into())]), None] {
        match &broken {
            Some(texts) => store(&mut world, "a", &texts.each_ref().map(|(key, text)| (*key, &**text))),
            None => world.config_maps.clear(),
        }
        let (after, verdicts) = then(&world, &before);
        assert!(after.configures_the_same(&before));
        assert!(sentences(&verdicts, "pg")[0].ends_with("; the previous certificates stay in use"), "{verdicts:?}");
    }
}

#[test]
fn invalid_backend_tls_drops_that_backend() {
    let ca = Ca::new();
    for (tls, expected) in [
        ("{caRefs: [{name: ca}]}", "serverName: is missing: write a name in the backend's certificate"),
        (
            "{serverName: '*.example.com', caRefs: [{name: ca}]}",
            "serverName: `*.example.com` is not the name of one server",
        ),
        ("{serverName: db.7, caRefs: [{name: ca}]}", "serverName: `db.7` is not a server name that can be requested"),
        ("{serverName: db.example.com}", "caRefs: must not be empty: write the name of a ConfigMap or Secret"),
        ("{serverName: db.example.com, caRefs: [{name: other}]}", "caRefs[0]: ConfigMap shop/other does not exist"),
        (
            "{serverName: db.example.com, caRefs: [{name: other}]}",
            "caRefs: none of the references has a readable CA certificate",
        ),
        (
            "{insecureSkipVerify: true, caRefs: [{name: ca}]}",
            "caRefs: has no effect with insecureSkipVerify, which accepts any certificate: remove one of the two",
        ),
        (
            "{serverName: db.example.com, caRefs: [{name: ca}], certificateRef: {name: other}}",
            "certificateRef: Secret shop/other does not exist",
        ),
        (
            "{serverName: db.example.com, caRefs: [{name: ca}], certificateRef: {name: other}}",
            "certificateRef: without it the backend gets no client certificate",
        ),
    ] {
        let mut world = encrypting(tls);
        store(&mut world, "ca", &[("ca.crt", &ca.pem())]);
        let (snapshot, verdicts) = first(&world);
        let field = format!("spec.backends[0].tls.{expected}");
        assert!(sentences(&verdicts, "pg").iter().any(|message| message.starts_with(&field)), "{field}: {verdicts:?}");
        assert!(snapshot.upstreams[&upstream("pg")].endpoints.is_empty(), "nothing is sent in the clear: {tls}");
    }
}

#[test]
fn skipping_verification_gets_a_warning() {
    let (snapshot, verdicts) = first(&encrypting("{insecureSkipVerify: true}"));
    let messages = sentences(&verdicts, "pg");
    assert!(
        messages.len() == 1 && messages[0].starts_with("spec.backends[0].tls.insecureSkipVerify: any certificate is")
    );
    assert!(!verdicts[&object("pg")].refuses());
    assert_eq!(backend_tls(&snapshot).terms.authorities, None);
}

#[test]
fn a_backend_with_newly_invalid_tls_keeps_the_last_good_one() {
    let ca = Ca::new();
    let tls = "{serverName: db.example.com, caRefs: [{name: ca}], certificateRef: {name: own}, startTls: Postgres}";
    let mut world = encrypting(tls);
    store(&mut world, "ca", &[("ca.crt", &ca.pem())]);
    let (before, verdicts) = first(&world);
    assert_eq!(sentences(&verdicts, "pg"), Vec::<String>::new());
    let (again, _) = then(&world, &before);
    assert!(Arc::ptr_eq(backend_tls(&before), backend_tls(&again)), "with its sessions");

    world.config_maps.clear();
    let (after, verdicts) = then(&world, &before);
    assert!(verdicts[&object("pg")].refuses() && after.configures_the_same(&before));

    let mut wrong = encrypting("{serverName: db.example.com}");
    wrong.secrets.clone_from(&world.secrets);
    let (after, verdicts) = then(&wrong, &before);
    assert!(sentences(&verdicts, "pg").iter().any(|message| message.contains("the previous endpoints stay in use")));
    assert_eq!(after.upstreams, before.upstreams, "and is not sent anything in the clear");
}

#[test]
fn passthrough_listeners_ask_for_no_client_certificate() {
    let ca = Ca::new();
    let mut world = declaring("mode: Passthrough, clientValidation: {caRefs: [{name: a}]}", "");
    store(&mut world, "a", &[("ca.crt", &ca.pem())]);
    let (_, verdicts) = first(&world);
    let messages = sentences(&verdicts, "pg");
    let field = "spec.listeners[0].tls.clientValidation: has no effect, since TLS of all connections is passed through";
    assert!(messages.iter().any(|message| message.starts_with(field)), "{messages:?}");
}

#[test]
fn config_maps_count_against_the_quota_of_references() {
    let mut world = validating("{name: a}");
    world.beyond_quota.insert(ObjectRef { kind: RefKind::ConfigMap, key: object("a") });
    let (_, verdicts) = first(&world);
    let problem = &verdicts[&object("pg")].problems[0];
    assert_eq!((problem.reason, problem.severity), (Reason::NotPermitted, Severity::Refused));
    assert!(problem.message.contains("Secrets and ConfigMaps with certificates"), "{problem}");
}

#[test]
fn no_fallback_removes_newly_required_encryption_or_validation() {
    let mut open = declaring("minVersion: TLS1.3", "");
    let (before, verdicts) = first(&open);
    assert_eq!(sentences(&verdicts, "pg"), Vec::<String>::new());
    let secrets = std::mem::take(&mut open.secrets);

    let mut world = validating("{name: gone}");
    world.secrets.clone_from(&secrets);
    let (after, verdicts) = then(&world, &before);
    assert!(after.listeners.is_empty(), "it was open to everybody: {:?}", sentences(&verdicts, "pg"));
    assert!(sentences(&verdicts, "pg").iter().any(|message| message.ends_with("; the listener is not served")));

    let mut world = encrypting("{serverName: db.example.com, caRefs: [{name: gone}]}");
    world.secrets.clone_from(&secrets);
    let (after, verdicts) = then(&world, &before);
    assert!(after.upstreams[&upstream("pg")].endpoints.is_empty(), "{:?}", sentences(&verdicts, "pg"));
    assert!(sentences(&verdicts, "pg").iter().any(|message| message.ends_with("; it has no endpoints")));
}

#[test]
fn a_revocation_list_that_is_not_text_is_refused() {
    let ca = Ca::new();
    let mut world = validating("{name: a}");
    store(&mut world, "a", &[("ca.crt", &ca.pem())]);
    let list = ByteString(ca.list().into_bytes().split_off(40));
    let map = Arc::make_mut(world.config_maps.get_mut(&object("a")).unwrap());
    map.binary_data = Some([("ca.crl".to_owned(), list)].into());
    let (snapshot, verdicts) = first(&world);
    assert!(sentences(&verdicts, "pg")[0].contains("ca.crl of ConfigMap shop/a is not PEM at line 1: "));
    assert!(snapshot.listeners.is_empty());
}
