use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{
    super::maglev::{Slots, Table, hold_builds},
    *,
};

/// The stable id of the endpoint of each client.
fn assignment(candidates: &[Candidate], clients: u32) -> Vec<String> {
    let (balancer, turn) = (balancer(Algorithm::Maglev, candidates), AtomicU64::new(0));
    let chosen = |number| {
        let endpoint = balancer.pick(client(number), &TriedEndpoints::default(), &turn).unwrap();
        candidates[index_of(candidates, endpoint)].stable_id.to_string()
    };
    (0..clients).map(chosen).collect()
}

fn moved(before: &[String], after: &[String]) -> usize {
    before.iter().zip(after).filter(|(before, after)| before != after).count()
}

#[test]
fn answers_are_the_same_in_every_version() {
    let ids = ["10.1.0.1:5432", "10.1.0.2:5432", "10.1.0.3:5432", "postgres-0", "postgres-1"];
    let candidates: Vec<_> = ids.iter().zip([1, 1, 2, 1, 3]).map(|(id, weight)| candidate(id, weight)).collect();
    let balancer = balancer(Algorithm::Maglev, &candidates);
    let clients =
        ["192.0.2.1", "192.0.2.2", "192.0.2.3", "10.0.0.1", "2001:db8::1", "2001:db8:0:1::1", "::1", "0.0.0.0"];
    let pick = |tried: &TriedEndpoints, client: &str| {
        index_of(&candidates, balancer.pick(client.parse().unwrap(), tried, &AtomicU64::new(0)).unwrap())
    };
    let first = clients.map(|client| pick(&TriedEndpoints::default(), client));
    let second = clients.map(|client| {
        let mut tried = TriedEndpoints::default();
        tried.insert(&candidates[pick(&tried, client)].endpoint);
        pick(&tried, client)
    });
    assert_eq!((first, second), ([0, 4, 1, 3, 4, 3, 1, 4], [4, 0, 0, 1, 3, 4, 2, 1]));
}

#[test]
fn does_not_depend_on_the_order_of_members() {
    let forward: Vec<_> = (0..10).map(|number| candidate(&format!("pod-{number}"), 1 + number % 3)).collect();
    let backward: Vec<_> = (0..10).rev().map(|number| candidate(&format!("pod-{number}"), 1 + number % 3)).collect();
    assert_eq!(assignment(&forward, 10_000), assignment(&backward, 10_000));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn moves_few_clients_when_a_member_comes_or_goes(
        ids in prop::collection::btree_set("[a-z0-9.:-]{1,20}", 10), leaver in 0..10_usize,
    ) {
        let all: Vec<_> = ids.iter().map(|id| candidate(id, 1)).collect();
        let mut fewer = all.clone();
        let leaver = fewer.remove(leaver).stable_id.to_string();
        let (with, without) = (assignment(&all, 100_000), assignment(&fewer, 100_000));
        let its_own = with.iter().filter(|id| **id == leaver).count();
        // The same two assignments show the effect of a member that leaves and of one that joins.
        let moved = moved(&with, &without);
        prop_assert!((9_000..=11_000).contains(&its_own), "{its_own} clients had the member");
        prop_assert!((its_own..=15_000).contains(&moved), "{moved} clients moved");
    }
}

#[test]
fn moves_only_the_clients_of_an_unusable_endpoint_spreads_them_and_returns_them() {
    let candidates: Vec<_> = (0..10).map(|number| candidate(&format!("pod-{number}"), 1)).collect();
    let before = assignment(&candidates, 100_000);
    set_usable(&candidates[3], false);
    let during = assignment(&candidates, 100_000);
    set_usable(&candidates[3], true);
    assert_eq!(assignment(&candidates, 100_000), before);

    let mut inherited = BTreeMap::new();
    for (before, during) in before.iter().zip(&during) {
        if **before == *"pod-3" {
            *inherited.entry(during.clone()).or_insert(0) += 1;
        } else {
            assert_eq!(before, during);
        }
    }
    assert_eq!(inherited.len(), 9);
    assert_near_weights(&inherited.into_values().collect::<Vec<_>>(), &[1; 9], 10.0);
}

#[test]
fn clients_of_an_unusable_endpoint_are_spread_by_weight() {
    let weights = [5, 1, 2, 4];
    let candidates = candidates(&weights);
    let before = assignment(&candidates, 100_000);
    set_usable(&candidates[0], false);
    let mut inherited = BTreeMap::new();
    for (before, during) in before.iter().zip(assignment(&candidates, 100_000)) {
        if **before == *"a" {
            *inherited.entry(during).or_insert(0) += 1;
        }
    }
    assert_near_weights(&inherited.into_values().collect::<Vec<_>>(), &weights[1..], 5.0);
}

#[test]
fn a_client_is_its_canonical_address_up_to_the_prefix() {
    let candidates: Vec<_> = (0..50).map(|number| candidate(&format!("pod-{number}"), 1)).collect();
    let balancer = balancer(Algorithm::Maglev, &candidates);
    let pick = |client: &str| {
        index_of(
            &candidates,
            balancer.pick(client.parse().unwrap(), &TriedEndpoints::default(), &AtomicU64::new(0)).unwrap(),
        )
    };
    for number in 0..20 {
        let (v4, mapped) = (format!("192.0.2.{number}"), format!("::ffff:192.0.2.{number}"));
        assert_eq!(pick(&v4), pick(&mapped));
        let network = format!("2001:db8:0:{number:x}:");
        assert_eq!(pick(&format!("{network}:1")), pick(&format!("{network}ffff:ffff:ffff:ffff")));
    }
    let networks: BTreeSet<_> = (0..20).map(|n| pick(&format!("2001:db8:0:{n:x}::1"))).collect();
    assert!(networks.len() > 10, "other networks are other clients");
}

#[test]
fn members_with_the_same_id_share_its_place() {
    let same: Vec<_> = (0..3).map(|_| candidate("pod-0", 1)).collect();
    assert_near_weights(&counts(Algorithm::Maglev, &same, 30_000), &[1, 1, 1], 5.0);
}

#[test]
fn a_change_of_health_builds_no_new_table() {
    let candidates: Vec<_> = (0..1000).map(|number| candidate(&format!("10.0.0.{number}:80"), 1)).collect();
    let first = maglev(&candidates, None);
    set_usable(&candidates[0], false);
    let second = maglev(&candidates, Some(&first));
    let third = maglev(&candidates[1..], Some(&second));
    assert!(Arc::ptr_eq(&table_of(&first), &table_of(&second)));
    assert!(!Arc::ptr_eq(&table_of(&second), &table_of(&third)));
}

fn maglev(candidates: &[Candidate], previous: Option<&Balancer>) -> Balancer {
    let balancing = Balancing { algorithm: Algorithm::Maglev, hash_prefix_v6: 64, ..Balancing::default() };
    Balancer::new(balancing, candidates, previous)
}

fn table_of(balancer: &Balancer) -> Arc<Table> {
    let Balancer::Maglev(maglev) = balancer else { panic!("another algorithm") };
    maglev.table()
}

fn wait_until_built(balancer: &Balancer) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !(table_of(balancer).is_built() && table_of(balancer).fallback_is_gone()) {
        assert!(Instant::now() < deadline, "not built");
        thread::yield_now();
    }
}

fn picks(balancer: &Balancer, all: &[Candidate], clients: u32) -> Vec<String> {
    let chosen = |number| balancer.pick(client(number), &TriedEndpoints::default(), &AtomicU64::new(0)).unwrap();
    (0..clients).map(|number| all[index_of(all, chosen(number))].stable_id.to_string()).collect()
}

#[test]
fn the_last_built_table_is_used_until_the_next_one_is_built() {
    let all: Vec<_> = (0..12).map(|number| candidate(&format!("wait-{number}"), 1)).collect();
    // Holds the thread that builds tables.
    let builds = hold_builds();
    let first = maglev(&all[..11], None);
    let before = picks(&first, &all, 10_000);
    let second = maglev(&all[1..11], Some(&first));
    let third = maglev(&all[1..], Some(&second));
    let superseded = Arc::downgrade(&table_of(&second));
    drop(second);
    assert!(superseded.upgrade().is_none(), "a superseded table is not built");
    let during = picks(&third, &all, 10_000);
    assert!(!table_of(&third).is_built());
    let stayed = |now: &[String]| before.iter().zip(now).all(|(before, now)| before == now || **before == *"wait-0");
    assert!(stayed(&during), "only clients of the removed member have moved");
    assert!(during.iter().any(|id| **id == *"wait-11"), "a new member gets some of them");

    drop(builds);
    wait_until_built(&third);
    let fresh: Vec<_> = all[1..].to_vec();
    assert_eq!(picks(&third, &all, 10_000), assignment(&fresh, 10_000), "as in a process that has just started");
}

#[test]
fn a_change_of_members_builds_no_table_on_the_thread_that_makes_it() {
    let of = |extra: u32| -> Vec<_> {
        let ids = (0..3000).chain([10_000 + extra]);
        ids.map(|number| candidate(&format!("cheap-{number}"), 1)).collect()
    };
    let sets: Vec<_> = (0..4).map(of).collect();
    let builds = hold_builds();
    let mut balancer = maglev(&sets[0], None);
    for set in &sets[1..] {
        balancer = maglev(set, Some(&balancer));
        assert!(!table_of(&balancer).is_built());
    }
    drop(builds);
    wait_until_built(&balancer);
}

#[test]
fn a_table_that_shares_no_member_with_the_previous_one_is_built_at_once() {
    let all: Vec<_> = (0..6).map(|number| candidate(&format!("other-{number}"), 1)).collect();
    let _builds = hold_builds();
    let none = maglev(&[], None);
    let first = maglev(&all[..3], Some(&none));
    assert!(table_of(&first).is_built(), "there was none");
    let second = maglev(&all[3..], Some(&first));
    assert!(table_of(&second).is_built(), "all members are replaced");
}

fn without_table(candidates: &[Candidate], previous: Option<&Balancer>) -> Balancer {
    let balancing = Balancing { algorithm: Algorithm::Maglev, without_table: true, ..Balancing::default() };
    Balancer::new(balancing, candidates, previous)
}

#[test]
fn without_a_table_clients_are_spread_by_weight_and_have_the_same_endpoint_everywhere() {
    let weights = [5, 1, 2, 4];
    let all = candidates(&weights);
    let pick = |balancer: &Balancer, number| {
        let endpoint = balancer.pick(client(number), &TriedEndpoints::default(), &AtomicU64::new(0)).unwrap();
        all[index_of(&all, endpoint)].stable_id.to_string()
    };
    let backward: Vec<_> = all.iter().rev().cloned().collect();
    let (one, other) = (without_table(&all, None), without_table(&backward, None));
    let mut counts = BTreeMap::new();
    for number in 0..100_000 {
        let chosen = pick(&one, number);
        assert_eq!(chosen, pick(&other, number));
        *counts.entry(chosen).or_insert(0) += 1;
    }
    assert_near_weights(&counts.into_values().collect::<Vec<_>>(), &weights, 5.0);

    set_usable(&all[0], false);
    let during = without_table(&all, Some(&one));
    for number in 0..1000 {
        let before = pick(&one, number);
        assert!(*before == *"a" || before == pick(&during, number), "only clients of the unusable one move");
    }
}

#[test]
fn equal_members_share_a_table_and_it_goes_with_the_last_of_them() {
    let members = || -> Vec<_> { (0..20).map(|number| candidate(&format!("shared-{number}"), 1)).collect() };
    let [one, other] = [members(), members()].map(|members| balancer(Algorithm::Maglev, &members));
    assert!(Arc::ptr_eq(&table_of(&one), &table_of(&other)));
    let weak = Arc::downgrade(&table_of(&one));
    drop((one, other));
    assert!(weak.upgrade().is_none());
}

#[test]
fn a_table_costs_as_much_as_its_slots_however_many_members_there_are() {
    let of = |count: usize| -> Vec<_> { (0..count).map(|number| candidate(&format!("cost-{number}"), 1)).collect() };
    // Tables of the same size for all of these.
    crate::cost::assert_grows_no_faster_than_n_log_n(160, of, |members| {
        // Another member each time, so that no table is shared.
        members.push(candidate(&fastrand::u64(..).to_string(), 1));
        balancer(Algorithm::Maglev, members);
    });
}

#[test]
fn slots_hold_any_number_of_members_in_the_narrowest_type() {
    for (members, bytes) in [(1, 1), (256, 1), (257, 2), (65_536, 2), (65_537, 4)] {
        let slots = Slots::of((0..members).collect(), members as usize);
        let width = match &slots {
            Slots::Narrow(_) => 1,
            Slots::Medium(_) => 2,
            Slots::Wide(_) => 4,
        };
        assert_eq!(width, bytes, "{members} members");
        assert!((0..members as usize).all(|index| slots.member(index) == index), "{members} members");
    }
}
