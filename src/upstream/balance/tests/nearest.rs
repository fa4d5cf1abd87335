use super::*;

/// Candidates at these proximities: `n` on this node, `z` in this zone, `f` elsewhere.
fn at(proximities: &str) -> Vec<Candidate> {
    let mut candidates = candidates(&vec![1; proximities.len()]);
    for (candidate, letter) in candidates.iter_mut().zip(proximities.chars()) {
        candidate.proximity = match letter {
            'n' => Proximity::SameNode,
            'z' => Proximity::SameZone,
            _ => Proximity::Remote,
        };
    }
    candidates
}

/// The letters of the picked endpoints, sorted.
fn gets(algorithm: Algorithm, proximities: &str, unusable: &[usize], picks: usize) -> String {
    let candidates = at(proximities);
    unusable.iter().for_each(|index| set_usable(&candidates[*index], false));
    let (balancer, turn) = (balancer(algorithm, &candidates), AtomicU64::new(0));
    let pick = |number| balancer.pick(client(number as u32), &TriedEndpoints::default(), &turn).unwrap();
    let mut letters: Vec<_> =
        (0..picks).map(|number| proximities.as_bytes()[index_of(&candidates, pick(number))] as char).collect();
    letters.sort_unstable();
    letters.dedup();
    letters.into_iter().collect()
}

#[test]
fn the_nearest_usable_endpoints_get_all_connections() {
    for algorithm in ALGORITHMS.into_iter().filter(|algorithm| *algorithm != Algorithm::Maglev) {
        for (proximities, unusable, expected) in [
            ("fff", &[][..], "f"),
            ("zff", &[], "z"),
            ("zzff", &[0], "z"),
            ("zzff", &[0, 1], "f"),
            ("nzff", &[], "n"),
            ("nzff", &[0], "z"),
            ("nzff", &[0, 1], "f"),
            ("nff", &[0], "f"),
        ] {
            assert_eq!(
                gets(algorithm, proximities, unusable, 50),
                expected,
                "{algorithm:?} {proximities} {unusable:?}"
            );
        }
    }
    assert_eq!(gets(Algorithm::Maglev, "zff", &[], 200), "fz", "who is sticky is so everywhere");
}

#[test]
fn a_retry_goes_to_a_remote_endpoint_once_all_near_ones_were_tried() {
    let candidates = at("zff");
    let (balancer, turn) = (balancer(Algorithm::RoundRobin, &candidates), AtomicU64::new(0));
    let mut tried = TriedEndpoints::default();
    let mut order = Vec::new();
    while let Some(endpoint) = balancer.pick(client(1), &tried, &turn) {
        order.push(index_of(&candidates, endpoint));
        tried.insert(endpoint);
    }
    assert_eq!((order.len(), order[0]), (3, 0), "{order:?}");
}

#[test]
fn overloaded_endpoints_get_no_more_while_remote_ones_have_room() {
    let candidates = at("nzff");
    let balancing = Balancing { overloaded_at: NonZeroU32::new(10), ..Balancing::default() };
    let (balancer, turn) = (Balancer::new(balancing, &candidates, None), AtomicU64::new(0));
    let pick = || ActiveConnection::begin(balancer.pick(client(1), &TriedEndpoints::default(), &turn).unwrap());
    let active = || candidates.iter().map(|candidate| candidate.endpoint.active()).collect::<Vec<_>>();
    let mut open = Vec::new();
    for (picks, expected) in
        [(10, [10, 0, 0, 0]), (5, [10, 5, 0, 0]), (5, [10, 10, 0, 0]), (10, [10, 10, 5, 5]), (10, [10; 4])]
    {
        open.extend((0..picks).map(|_| pick()));
        assert_eq!(active(), expected);
    }
    open.push(pick());
    assert_eq!(active(), [11, 10, 10, 10], "where all are overloaded, the nearest");
    open.drain(..2);
    open.push(pick());
    assert_eq!(active(), [10, 10, 10, 10], "what has room again");
}

#[test]
fn a_near_endpoint_with_room_precedes_a_remote_one() {
    let candidates = at("zzff");
    let _full: Vec<_> = (0..5).map(|_| ActiveConnection::begin(&candidates[0].endpoint)).collect();
    for algorithm in [Algorithm::RoundRobin, Algorithm::Random, Algorithm::PowerOfTwo] {
        let balancing = Balancing { algorithm, overloaded_at: NonZeroU32::new(5), ..Balancing::default() };
        let (balancer, turn) = (Balancer::new(balancing, &candidates, None), AtomicU64::new(0));
        for _ in 0..20 {
            let picked = balancer.pick(client(1), &TriedEndpoints::default(), &turn).unwrap();
            assert!(Arc::ptr_eq(picked, &candidates[1].endpoint), "{algorithm:?}: {picked:?}");
        }
    }
}
