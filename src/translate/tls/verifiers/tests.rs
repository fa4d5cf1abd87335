use rustls::RootCertStore;

use super::*;
use crate::{cost::assert_grows_no_faster_than_n_log_n, model::ClientValidationMode};

fn authority(number: usize, size: usize) -> Arc<Authority> {
    Arc::new(Authority {
        source: format!("ConfigMap shop/{number}").into(),
        fingerprint: [0; 32],
        roots: RootCertStore::empty(),
        certificates: Vec::new(),
        revoked: vec![vec![0; size].into()],
        issuers: Vec::new(),
        expiries: Vec::new(),
        upcoming: Vec::new(),
    })
}

fn key(authorities: &[&Arc<Authority>]) -> VerifierKey {
    VerifierKey {
        namespace: "shop".into(),
        peer: VerifiedPeer::Client(ClientValidationMode::Required),
        authorities: authorities.iter().copied().cloned().collect(),
    }
}

#[test]
fn repeated_authorities_of_a_namespace_are_limited() {
    let (large, other) = (authority(0, MAX_REPEATED), authority(1, 1));
    let mut quota = VerifierQuota::default();
    quota.admit(&key(&[&large])).expect("the first copy");
    quota.admit(&key(&[&large])).expect("the same verifier");
    quota.admit(&key(&[&large, &other])).expect("the limit");
    let refused = quota.admit(&key(&[&other])).unwrap_err();
    assert!(
        refused.contains("of authorities in namespace shop would repeat more than 8 MiB of certificates"),
        "{refused}"
    );
    let of_backend = VerifierKey { peer: VerifiedPeer::Backend, ..key(&[&other]) };
    quota.admit(&of_backend).expect_err("another use needs another copy");
    quota.admit(&key(&[&authority(2, MAX_REPEATED)])).expect("the first copy of another authority");
    let elsewhere = |authorities: &[&Arc<Authority>]| VerifierKey { namespace: "lab".into(), ..key(authorities) };
    quota.admit(&elsewhere(&[&large])).expect("another namespace");

    // Verifiers in use count, and stay.
    let mut next = VerifierQuota::of([key(&[&large]), key(&[&large, &other])].iter());
    next.admit(&key(&[&large])).expect("in use");
    next.admit(&key(&[&large, &other])).expect("in use");
    next.admit(&key(&[&other])).expect_err("still beyond the limit");
}

#[test]
fn new_lists_are_admitted_beside_those_that_they_replace() {
    let uses = |list: &Arc<Authority>| {
        let client = key(&[list]);
        [VerifierKey { peer: VerifiedPeer::Backend, ..client.clone() }, client]
    };
    let [old, new, newest] = [0, 1, 2].map(|number| authority(number, MAX_REPEATED));
    let mut quota = VerifierQuota::of(uses(&old).iter());
    for key in uses(&new) {
        quota.admit(&key).expect("both uses are replaced");
    }
    quota.admit(&uses(&newest)[0]).expect("a first copy");
    quota.admit(&uses(&newest)[1]).expect_err("beyond the limit");
}

#[test]
fn lists_of_the_future_count_twice() {
    let mut future = Authority::clone(&authority(0, MAX_REPEATED / 2 + 1));
    future.upcoming = vec![(jiff::Timestamp::MAX, "soon".into())];
    let (future, other) = (Arc::new(future), authority(1, 1));
    let mut quota = VerifierQuota::default();
    quota.admit(&key(&[&future])).unwrap();
    quota.admit(&key(&[&future, &other])).unwrap_err();
}

#[test]
fn the_cost_of_many_combinations_grows_no_faster_than_their_number() {
    let keys = |count| (0..count).map(|number| key(&[&authority(number, 1)])).collect::<Vec<_>>();
    assert_grows_no_faster_than_n_log_n(1_000, keys, |keys| {
        let mut quota = VerifierQuota::of(keys.iter());
        keys.iter().for_each(|key| quota.admit(key).unwrap());
    });
}
