//! What lists of revoked certificates cost: whoever writes many must not hold up others.

use super::{
    authorities::{Ca, store, validating, validation},
    *,
};
use crate::cost::assert_grows_no_faster_than_n_log_n;

fn joined(texts: impl IntoIterator<Item = String>) -> String {
    texts.into_iter().collect()
}

/// So many authorities of one name, and as many lists, which the last of them has signed; in one object or in two.
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

/// So many authorities with a list each, in one object or in two.
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
    let said = sentences(&first(&world).1, "pg");
    assert!(
        said[0]
            .contains("ca.crl of ConfigMap shop/a has 257 lists of revoked certificates: write at most 256, of each"),
        "{said:?}"
    );
}

#[test]
fn several_authorities_of_one_name_in_one_object_cannot_have_lists() {
    let said = sentences(&first(&of_one_name(2, true)).1, "pg");
    assert!(said[0].contains("caRefs[0]: several authorities have the name CN=N and different keys"), "{said:?}");
}

#[test]
fn what_was_read_or_verified_before_is_not_read_or_verified_again() {
    let world = of_many_names(3, false);
    let (mut before, verdicts) = first(&world);
    assert_eq!(sentences(&verdicts, "pg"), Vec::<String>::new());
    let cache = Arc::make_mut(&mut before.certificate_cache);
    assert_eq!((cache.signatures.len(), cache.authorities.len()), (3, 2));
    // If these results were not taken, all would be well again.
    cache.signatures.values_mut().for_each(|signed| *signed = false);
    let (_, verdicts) = then(&world, &before);
    assert!(sentences(&verdicts, "pg")[0].contains("whose signature is not that of the authority of this name"));

    // What is wrong is remembered too.
    let world = of_one_name(2, true);
    let (mut before, _) = first(&world);
    for wrong in Arc::make_mut(&mut before.certificate_cache).authorities.values_mut() {
        *wrong = Err("as before".into());
    }
    assert!(sentences(&then(&world, &before).1, "pg")[0].contains("caRefs[0]: as before; it is left out"));
    // Until it is another text, and no longer than it is declared.
    let (other, _) = then(&of_one_name(2, true), &before);
    assert!(
        other.certificate_cache.authorities.values().all(|read| read.as_ref().is_err_and(|wrong| wrong != "as before"))
    );
    let (nothing, _) = then(&World::default(), &before);
    assert!(nothing.certificate_cache.authorities.is_empty());
}

#[test]
fn a_list_that_a_newer_one_replaces_costs_nothing() {
    let ca = Ca::named("N");
    let mut world = validating("{name: a}");
    store(&mut world, "a", &[("ca.crt", &ca.pem()), ("ca.crl", &joined((2001..2030).map(|year| ca.list_of(year))))]);
    let (snapshot, _) = first(&world);
    assert_eq!(validation(&snapshot).authorities[0].revoked.len(), 1);
}
