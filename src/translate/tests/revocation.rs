//! Cost of revocation lists: many lists of one tenant must not delay others.

use std::time::Duration;

use rcgen::{
    CertificateRevocationListParams, CrlDistributionPoint, CrlIssuingDistributionPoint, DnValue, RevokedCertParams,
    date_time_ymd,
};
use rustls::pki_types::{CertificateDer, UnixTime};

use super::{
    authorities::{Ca, combining, store, validating, validation},
    *,
};
use crate::{cost::assert_grows_no_faster_than_n_log_n, model::AuthorityReview};

fn joined(texts: impl IntoIterator<Item = String>) -> String {
    texts.into_iter().collect()
}

/// Authorities with the same name and as many lists, all signed by the last authority; in one object or in two.
fn of_one_name(count: usize, is_one_object: bool) -> World {
    let all: Vec<_> = (0..count).map(|_| Ca::named("N")).collect();
    let last = all.last().unwrap();
    let lists = joined((0..count).map(|number| last.list_of(2000 + i32::try_from(number).unwrap())));
    let certificates = joined(all.iter().map(Ca::pem));
    if is_one_object {
        let mut world = validating("{name: a}");
        store(&mut world, "a", &[("ca.crt", &certificates), ("ca.crl", &lists)]);
        world
    } else {
        let mut world = validating("{name: a}, {name: b}");
        store(&mut world, "a", &[("ca.crt", &Ca::named("own").pem()), ("ca.crl", &lists)]);
        store(&mut world, "b", &[("ca.crt", &certificates)]);
        world
    }
}

/// Authorities with one list each, in one object or in two.
fn of_many_names(count: usize, is_one_object: bool) -> World {
    let all: Vec<_> = (0..count).map(|number| Ca::named(&format!("N{number}"))).collect();
    let (certificates, lists) = (joined(all.iter().map(Ca::pem)), joined(all.iter().map(Ca::list)));
    let mut world = validating(if is_one_object { "{name: a}" } else { "{name: a}, {name: b}" });
    if is_one_object {
        store(&mut world, "a", &[("ca.crt", &certificates), ("ca.crl", &lists)]);
    } else {
        store(&mut world, "a", &[("ca.crt", &Ca::named("own").pem()), ("ca.crl", &lists)]);
        store(&mut world, "b", &[("ca.crt", &certificates)]);
    }
    world
}

#[test]
fn the_cost_of_lists_grows_no_faster_than_their_number() {
    const COUNT: usize = 50;

    for make in [of_one_name as fn(usize, bool) -> World, of_many_names] {
        for is_one_object in [true, false] {
            let prepare = |count| (count, make(count, is_one_object));
            assert_grows_no_faster_than_n_log_n(COUNT, prepare, |(count, world)| {
                assert!(first(world).0.certificate_cache.signatures.len() <= *count);
            });
        }
    }
}

#[test]
fn too_many_lists_are_refused_before_any_signature_is_verified() {
    let ca = Ca::named("N");
    let mut world = validating("{name: a}");
    let lists = joined((0..257).map(|number| ca.list_of(2000 + number)));
    store(&mut world, "a", &[("ca.crt", &ca.pem()), ("ca.crl", &lists)]);
    let messages = sentences(&first(&world).1, "pg");
    assert!(
        messages[0].contains(
            "ca.crl of ConfigMap shop/a has 257 revocation lists: write at most 256, only the newest of each"
        ),
        "{messages:?}"
    );
}

#[test]
fn several_authorities_of_one_name_in_one_object_cannot_have_lists() {
    let messages = sentences(&first(&of_one_name(2, true)).1, "pg");
    assert!(
        messages[0].contains("caRefs[0]: several authorities have the name \"CN=N\" and different keys"),
        "{messages:?}"
    );
}

#[test]
fn what_was_read_or_verified_before_is_not_read_or_verified_again() {
    let world = of_many_names(3, false);
    let (start, verdicts) = first(&world);
    assert_eq!(sentences(&verdicts, "pg"), Vec::<String>::new());
    // A translation that needs no signature keeps the results.
    let (mut before, _) = then(&world, &start);
    let cache = Arc::make_mut(&mut before.certificate_cache);
    assert_eq!((cache.signatures.len(), cache.authorities.len(), cache.reviews.len()), (3, 2, 1));
    // Without the cached results there would be no problem.
    each_mut(&mut cache.signatures, |signed| *signed = false);
    // Only a new comparison reads them.
    cache.reviews.clear();
    let (_, verdicts) = then(&world, &before);
    assert!(sentences(&verdicts, "pg")[0].contains("that is not signed by the authority of this name"));

    // Failures are cached too.
    let world = of_one_name(2, true);
    let (mut before, _) = first(&world);
    let cache = Arc::make_mut(&mut before.certificate_cache);
    each_mut(&mut cache.authorities, |authority| *authority = Err("as before".into()));
    assert!(sentences(&then(&world, &before).1, "pg")[0].contains("caRefs[0]: as before; it is ignored"));
    // The result is cached until the text changes, and only while it is declared.
    let (other, _) = then(&of_one_name(2, true), &before);
    assert!(
        other.certificate_cache.authorities.values().all(|read| read.as_ref().is_err_and(|wrong| wrong != "as before"))
    );
    let (nothing, _) = then(&World::default(), &before);
    assert!(nothing.certificate_cache.authorities.is_empty());
}

#[test]
fn the_next_translation_does_not_compare_the_same_authorities_again() {
    let world = of_one_name(2, false);
    let (mut before, verdicts) = first(&world);
    let messages = sentences(&verdicts, "pg");
    let of_the_name = "caRefs: several authorities have the name \"CN=N\"";
    assert!(messages.iter().any(|message| message.contains(of_the_name)), "{messages:?}");
    let cache = Arc::make_mut(&mut before.certificate_cache);
    let other = Arc::new(AuthorityReview { refused: Some("as before".into()), ..AuthorityReview::default() });
    each_mut(&mut cache.reviews, |review| *review = other.clone());
    let messages = sentences(&then(&world, &before).1, "pg");
    assert!(messages.iter().any(|message| message.contains("caRefs: as before")), "{messages:?}");
}

#[test]
fn listeners_with_the_same_authorities_do_not_compare_them_again() {
    let prepare = |count: usize| {
        let listeners = combining(&vec!["a b"; 2 * count], &["a b"]);
        (count, World { config_maps: of_many_names(count, false).config_maps, ..listeners })
    };
    assert_grows_no_faster_than_n_log_n(40, prepare, |(count, world)| {
        assert_eq!(first(world).0.listeners.len(), 2 * *count);
    });
}

#[test]
fn a_list_that_a_newer_one_replaces_costs_nothing() {
    let ca = Ca::named("N");
    let mut world = validating("{name: a}");
    store(&mut world, "a", &[("ca.crt", &ca.pem()), ("ca.crl", &joined((2001..2027).map(|year| ca.list_of(year))))]);
    let (snapshot, _) = first(&world);
    assert_eq!(validation(&snapshot).authorities[0].revoked.len(), 1);
}

fn revoking(serials: &[u64]) -> impl FnOnce(&mut CertificateRevocationListParams) {
    let entries = serials.iter().map(|serial| RevokedCertParams {
        serial_number: (*serial).into(),
        revocation_time: date_time_ymd(2025, 1, 1),
        reason_code: None,
        invalidity_date: None,
    });
    let entries: Vec<_> = entries.collect();
    move |list| list.revoked_certs = entries
}

fn at(year: i32) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(date_time_ymd(year, 6, 1).unix_timestamp().try_into().unwrap()))
}

fn lets_in(snapshot: &Snapshot, client: &CertificateDer<'_>, year: i32) -> bool {
    validation(snapshot).verifier.verify_client_cert(client, &[], at(year)).is_ok()
}

/// A listener with these sources of certificates and lists.
fn of_sources(sources: &[(&str, &str)]) -> World {
    let names: Vec<_> = (0..sources.len()).map(|number| format!("{{name: s{number}}}")).collect();
    let mut world = validating(&names.join(", "));
    for (number, (certificates, lists)) in sources.iter().enumerate() {
        let texts = [("ca.crt", *certificates), ("ca.crl", *lists)];
        store(&mut world, &format!("s{number}"), if lists.is_empty() { &texts[..1] } else { &texts });
    }
    world
}

#[test]
fn a_list_with_its_authority_s_name_written_in_another_way_is_refused() {
    let ca = Ca::named("Some  authority");
    let list = |name| ca.renamed(name).list_with(2026, revoking(&[7]));
    let printable = |name: &str| DnValue::PrintableString(name.try_into().unwrap());
    let utf8 = |name: &str| DnValue::Utf8String(name.into());
    for name in [printable("Some  authority"), utf8("some AUTHORITY"), utf8("Some authority"), utf8("quite another")] {
        let lists = list(name);
        let (snapshot, verdicts) = first(&of_sources(&[(&ca.pem(), &lists)]));
        let messages = sentences(&verdicts, "pg");
        assert!(
            messages[0].contains(
                "a revocation list of the authority \"CN=Some  authority\" with its name encoded differently"
            ),
            "{messages:?}"
        );
        assert!(messages[0].contains("ca.crl of ConfigMap shop/s0, at line 1,"), "{messages:?}");
        assert!(snapshot.listeners.is_empty());
    }
    let lists = list(printable("Some  authority"));
    let other = Ca::named("other");
    let messages = sentences(&first(&of_sources(&[(&ca.pem(), ""), (&other.pem(), &lists)])).1, "pg");
    assert!(
        messages[0].contains("caRefs: ConfigMap shop/s1 has a revocation list of the authority \"CN=Some  authority\""),
        "{messages:?}"
    );

    // The last good sources stay effective.
    let (before, _) = first(&of_sources(&[(&ca.pem(), &ca.list_with(2025, revoking(&[7])))]));
    let (after, _) = then(&of_sources(&[(&ca.pem(), &lists)]), &before);
    assert!(!lets_in(&after, &ca.issue(7), 2026) && lets_in(&after, &ca.issue(8), 2026));
}

#[test]
fn a_list_of_an_unconfigured_authority_gets_a_warning() {
    let ca = Ca::named("root");
    let intermediate = ca.intermediate("intermediate", 9);
    let (snapshot, verdicts) = first(&of_sources(&[(&ca.pem(), &intermediate.list())]));
    let messages = sentences(&verdicts, "pg");
    assert!(
        messages.len() == 1
            && messages[0]
                .contains("ConfigMap shop/s0 has a revocation list of \"CN=intermediate\", which is not among the"),
        "{messages:?}"
    );
    assert!(!verdicts[&object("pg")].refuses() && lets_in(&snapshot, &ca.issue(7), 2026));
}

#[test]
fn of_lists_of_one_time_the_number_decides_and_a_tie_is_refused() {
    let ca = Ca::named("root");
    let list = |number: u64, serials: &[u64]| {
        ca.list_with(2026, |list| {
            revoking(serials)(list);
            list.crl_number = number.into();
        })
    };
    let (old, new) = (list(255, &[]), list(256, &[7]));
    for lists in [old.clone() + &new, new.clone() + &old] {
        let (snapshot, verdicts) = first(&of_sources(&[(&ca.pem(), &lists)]));
        assert_eq!(sentences(&verdicts, "pg"), [""; 0]);
        assert!(!lets_in(&snapshot, &ca.issue(7), 2026) && lets_in(&snapshot, &ca.issue(8), 2026));
    }
    let other = list(256, &[]);
    let tie =
        "several revocation lists of \"CN=root\", issued at 2026-01-01T00:00:00Z, with the same number and different";
    let messages = sentences(&first(&of_sources(&[(&ca.pem(), &(new.clone() + &other))])).1, "pg");
    assert!(messages[0].contains(tie), "{messages:?}");
    let messages = sentences(&first(&of_sources(&[(&ca.pem(), &new), (&ca.pem(), &other)])).1, "pg");
    assert!(messages[0].contains(tie), "{messages:?}");
    assert_eq!(sentences(&first(&of_sources(&[(&ca.pem(), &new.repeat(2))])).1, "pg"), [""; 0]);
}

#[test]
fn a_list_of_the_future_does_not_replace_the_current_one_before_its_time() {
    let ca = Ca::named("root");
    let (current, next) = (ca.list_with(2025, revoking(&[7])), ca.list_with(2028, revoking(&[8])));
    let (pem, both) = (ca.pem(), current.clone() + &next);
    for sources in [&[(&*pem, &*both)][..], &[(&*pem, &*next), (&*pem, &*current)]] {
        let (snapshot, verdicts) = first(&of_sources(sources));
        let messages = sentences(&verdicts, "pg");
        assert!(
            messages.len() == 1 && messages[0].contains("is issued at 2028-01-01T00:00:00Z, which is in the future"),
            "{messages:?}"
        );
        let is_let_in = |serial, year| lets_in(&snapshot, &ca.issue(serial), year);
        assert_eq!([7, 8, 9].map(|serial| is_let_in(serial, 2026)), [false, false, true]);
        assert_eq!([7, 8, 9].map(|serial| is_let_in(serial, 2028)), [true, false, true]);
    }
}

#[test]
fn a_revoked_authority_is_dropped() {
    let root = Ca::named("root");
    let (revoked, other) = (root.intermediate("revoked", 5), root.intermediate("other", 6));
    let (root_pem, revoked_pem, both) = (root.pem(), revoked.pem(), revoked.pem() + &other.pem());
    let list = root.list_with(2025, revoking(&[5]));
    let in_one = format!("{root_pem}{both}");
    for sources in [&[(&*in_one, &*list)][..], &[(&*both, ""), (&*root_pem, &*list)], &[(&*both, &*list)]] {
        let (snapshot, verdicts) = first(&of_sources(sources));
        let messages = sentences(&verdicts, "pg");
        assert!(
            messages.iter().any(|message| message
                .contains("the authority \"CN=revoked\" in ConfigMap shop/s0 is revoked by a list of \"CN=root\"")),
            "{messages:?}"
        );
        assert!(!verdicts[&object("pg")].refuses());
        assert!(!lets_in(&snapshot, &revoked.issue(1), 2026) && lets_in(&snapshot, &other.issue(1), 2026));
    }
    let (snapshot, _) = first(&of_sources(&[(&revoked_pem, &list)]));
    assert!(!lets_in(&snapshot, &revoked.issue(1), 2026), "also if there is no other");
}

#[test]
fn partial_lists_without_a_complete_one_get_a_warning() {
    let ca = Ca::named("root");
    let part = |uri: &str| {
        let distribution_point = CrlDistributionPoint { uris: vec![uri.to_owned()] };
        ca.list_with(2026, |list| {
            list.issuing_distribution_point = Some(CrlIssuingDistributionPoint { distribution_point, scope: None });
        })
    };
    let parts = part("http://crl.example/1") + &part("http://crl.example/2");
    let messages = sentences(&first(&of_sources(&[(&ca.pem(), &parts)])).1, "pg");
    assert!(
        messages.len() == 1 && messages[0].contains("there is no complete revocation list of \"CN=root\""),
        "{messages:?}"
    );
    let messages = sentences(&first(&of_sources(&[(&ca.pem(), &(parts + &ca.list_of(2025)))])).1, "pg");
    assert_eq!(messages, [""; 0]);
}

#[test]
fn lists_that_are_not_supported_are_refused_with_their_issuer_line_and_reason() {
    let ca = Ca::named("other");
    for (list, reason) in [
        (include_str!("lists/delta.pem"), "it is a delta list"),
        (include_str!("lists/indirect.pem"), "it covers certificates of several issuers (indirectCRL)"),
        (include_str!("lists/reason.pem"), "it covers only some reasons of revocation (onlySomeReasons)"),
        (include_str!("lists/useronly.pem"), "it covers only user certificates (onlyContainsUserCerts)"),
        (include_str!("lists/caonly.pem"), "it covers only CA certificates (onlyContainsCACerts)"),
        (include_str!("lists/unk.pem"), "it has the unknown critical extension 1.2.3.4.5"),
    ] {
        let text = format!("# A comment\n{list}");
        let messages = sentences(&first(&of_sources(&[(&ca.pem(), &text)])).1, "pg");
        let expected = format!(
            "ca.crl of ConfigMap shop/s0 has a revocation list of \"CN=root\" at line 2 that is not supported: {reason}"
        );
        assert!(messages[0].contains(&expected), "{expected}: {messages:?}");
    }
}
