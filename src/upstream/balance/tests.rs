mod maglev;
mod nearest;

use std::{
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU32,
    sync::{Arc, atomic::AtomicU64},
    thread,
    time::Duration,
};

use proptest::prelude::*;

use super::*;
use crate::{
    model::{Algorithm, Balancing, EndpointKey, Proximity, StableId, Weight},
    upstream::endpoint::{ActiveConnection, HealthStatus},
};

const ALGORITHMS: [Algorithm; 5] =
    [Algorithm::RoundRobin, Algorithm::LeastConnections, Algorithm::PowerOfTwo, Algorithm::Random, Algorithm::Maglev];

fn candidate(id: &str, weight: u32) -> Candidate {
    // The address differs each time, and must have no effect.
    let address = (Ipv4Addr::from_bits(fastrand::u32(..)), 5432).into();
    let key = EndpointKey { backend: "b".into(), address, uid: None };
    let weight = Weight::new(NonZeroU32::new(weight).unwrap());
    Candidate {
        endpoint: Arc::new(Endpoint::new(key, Arc::default(), Arc::default())),
        stable_id: StableId::Pod(id.into()),
        weight,
        proximity: Proximity::Remote,
    }
}

/// Candidates `a` to `z`, `26`, `27`, ... with these weights.
fn candidates(weights: &[u32]) -> Vec<Candidate> {
    let id = |index: usize| match (b'a'..=b'z').nth(index) {
        Some(letter) => char::from(letter).to_string(),
        None => index.to_string(),
    };
    weights.iter().enumerate().map(|(index, weight)| candidate(&id(index), *weight)).collect()
}

fn set_usable(candidate: &Candidate, usable: bool) {
    candidate.endpoint.set_status(HealthStatus { healthy: usable, pending_first_check: false, ejected_until: None });
}

fn balancer(algorithm: Algorithm, candidates: &[Candidate]) -> Balancer {
    Balancer::new(Balancing { algorithm, hash_prefix_v6: 64, ..Balancing::default() }, candidates, None)
}

fn client(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 + number).into()
}

/// The index of the chosen candidate.
fn index_of(candidates: &[Candidate], endpoint: &Arc<Endpoint>) -> usize {
    candidates.iter().position(|candidate| Arc::ptr_eq(&candidate.endpoint, endpoint)).unwrap()
}

/// The number of picks of each candidate, by different clients, without open connections.
fn counts(algorithm: Algorithm, candidates: &[Candidate], picks: u32) -> Vec<u32> {
    let (balancer, turn) = (balancer(algorithm, candidates), AtomicU64::new(0));
    let mut counts = vec![0; candidates.len()];
    for number in 0..picks {
        let chosen = balancer.pick(client(number), &TriedEndpoints::default(), &turn).unwrap();
        counts[index_of(candidates, chosen)] += 1;
    }
    counts
}

fn assert_near_weights(counts: &[u32], weights: &[u32], percent: f64) {
    let (picks, total) = (counts.iter().sum::<u32>(), weights.iter().sum::<u32>());
    for (count, weight) in counts.iter().zip(weights) {
        let expected = f64::from(picks) * f64::from(*weight) / f64::from(total);
        let off = (f64::from(*count) - expected).abs() / expected * 100.0;
        assert!(off <= percent, "{counts:?} for weights {weights:?}");
    }
}

#[test]
fn nothing_is_picked_from_nothing() {
    for algorithm in ALGORITHMS {
        let turn = AtomicU64::new(0);
        assert!(balancer(algorithm, &[]).pick(client(1), &TriedEndpoints::default(), &turn).is_none());
        let all_unusable = candidates(&[1, 2]);
        all_unusable.iter().for_each(|candidate| set_usable(candidate, false));
        assert!(balancer(algorithm, &all_unusable).pick(client(1), &TriedEndpoints::default(), &turn).is_none());
    }
}

#[test]
fn each_retry_gets_another_usable_endpoint_until_all_were_tried() {
    let candidates = candidates(&[1, 1000, 3, 7, 1]);
    set_usable(&candidates[3], false);
    for algorithm in ALGORITHMS {
        let (balancer, turn) = (balancer(algorithm, &candidates), AtomicU64::new(0));
        for number in 0..200 {
            let mut tried = TriedEndpoints::default();
            for _ in 0..4 {
                let chosen = balancer.pick(client(number), &tried, &turn).unwrap();
                assert!(chosen.usable() && !tried.contains(chosen));
                tried.insert(chosen);
            }
            assert!(balancer.pick(client(number), &tried, &turn).is_none(), "{algorithm:?}");
        }
    }
}

#[test]
fn retries_take_no_turns_of_the_round() {
    let candidates = candidates(&[1, 1]);
    let (balancer, turn) = (balancer(Algorithm::RoundRobin, &candidates), AtomicU64::new(0));
    let dead = &candidates[0].endpoint;
    let mut met_the_dead_one = 0;
    for number in 0..100 {
        let mut tried = TriedEndpoints::default();
        if Arc::ptr_eq(balancer.pick(client(number), &tried, &turn).unwrap(), dead) {
            met_the_dead_one += 1;
            tried.insert(dead);
            assert!(!Arc::ptr_eq(balancer.pick(client(number), &tried, &turn).unwrap(), dead));
        }
    }
    assert_eq!(met_the_dead_one, 50, "it is one of two");
}

#[test]
fn all_algorithms_honour_weights() {
    let weights = [1, 2, 3, 4, 10];
    for algorithm in ALGORITHMS {
        assert_near_weights(&counts(algorithm, &candidates(&weights), 100_000), &weights, 7.0);
    }
}

#[test]
fn the_largest_weights_do_not_overflow() {
    for algorithm in ALGORITHMS {
        let counts = counts(algorithm, &candidates(&[u32::MAX, u32::MAX - 1, 1]), 1000);
        assert!(counts[0] > 400 && counts[1] > 400, "{algorithm:?}: {counts:?}");
    }
}

#[test]
fn round_robin_gives_exact_shares_whatever_the_number_of_threads() {
    let weights = [3, 1, 5, 2, 2];
    let candidates = candidates(&weights);
    let (balancer, turn) = (balancer(Algorithm::RoundRobin, &candidates), AtomicU64::new(0));
    const THREADS: usize = 8;
    const PICKS: usize = 1300;
    let pick = |_| index_of(&candidates, balancer.pick(client(1), &TriedEndpoints::default(), &turn).unwrap());
    let picks = || (0..PICKS).map(pick).collect::<Vec<_>>();
    let mut counts = [0; 5];
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(picks)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).for_each(|index| counts[index] += 1);
    });
    assert_eq!(counts, weights.map(|weight| weight as usize * THREADS * PICKS / 13));
}

#[test]
fn round_robin_takes_equals_in_their_order() {
    let candidates = candidates(&[7, 7, 7]);
    let (balancer, turn) = (balancer(Algorithm::RoundRobin, &candidates), AtomicU64::new(0));
    let order: Vec<_> = (0..6)
        .map(|_| index_of(&candidates, balancer.pick(client(1), &TriedEndpoints::default(), &turn).unwrap()))
        .collect();
    assert_eq!(order, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn round_robin_goes_on_where_it_was_when_the_balancer_is_replaced() {
    let candidates = candidates(&[1, 1, 1, 1]);
    let turn = AtomicU64::new(0);
    let mut counts = [0; 4];
    for _ in 0..400 {
        let balancer = balancer(Algorithm::RoundRobin, &candidates);
        counts[index_of(&candidates, balancer.pick(client(1), &TriedEndpoints::default(), &turn).unwrap())] += 1;
    }
    assert_eq!(counts, [100; 4]);
}

proptest! {
    #[test]
    fn round_robin_is_exact_in_each_round_and_smooth_within_it(weights in prop::collection::vec(1..100_u32, 1..20)) {
        let candidates = candidates(&weights);
        let (balancer, turn) = (balancer(Algorithm::RoundRobin, &candidates), AtomicU64::new(0));
        let total: u32 = weights.iter().sum();
        let mut counts = vec![0; weights.len()];
        for picks in 1..=total {
            let chosen = balancer.pick(client(1), &TriedEndpoints::default(), &turn).unwrap();
            counts[index_of(&candidates, chosen)] += 1;
            for (count, weight) in counts.iter().zip(&weights) {
                let ahead = f64::from(*count) - f64::from(picks * weight) / f64::from(total);
                prop_assert!(ahead.abs() < 4.0, "{ahead} after {picks} picks");
            }
        }
        prop_assert_eq!(counts, weights);
    }
}

#[test]
fn least_connections_picks_the_one_with_the_fewest_for_its_weight() {
    let candidates = candidates(&[1, 2, 4]);
    let balancer = balancer(Algorithm::LeastConnections, &candidates);
    let turn = AtomicU64::new(0);
    let open = |index: usize, count| -> Vec<_> {
        (0..count).map(|_| ActiveConnection::begin(&candidates[index].endpoint)).collect()
    };
    for (active, expected) in [([1, 1, 1], 2), ([1, 1, 3], 1), ([1, 3, 5], 0), ([0, 1, 1], 0), ([5, 10, 19], 2)] {
        let _open = [open(0, active[0]), open(1, active[1]), open(2, active[2])];
        for _ in 0..10 {
            let chosen = balancer.pick(client(1), &TriedEndpoints::default(), &turn).unwrap();
            assert_eq!(index_of(&candidates, chosen), expected, "{active:?}");
        }
    }
}

#[test]
fn least_connections_takes_equals_in_turn() {
    let candidates = candidates(&[2, 2, 2, 2]);
    let _busy = ActiveConnection::begin(&candidates[1].endpoint);
    assert_eq!(counts(Algorithm::LeastConnections, &candidates, 300), [100, 0, 100, 100]);
}

#[tokio::test(start_paused = true)]
async fn least_connections_among_many_is_planned_as_if_each_pick_compared_all() {
    let weights: Vec<u32> = (0..100).map(|index| [1, 1, 2, 5][index % 4]).collect();
    let candidates = candidates(&weights);
    let (balancer, turn) = (balancer(Algorithm::LeastConnections, &candidates), AtomicU64::new(0));
    let load = |index: usize| f64::from(candidates[index].endpoint.active()) / f64::from(weights[index]);
    let pick = |_| {
        let least = (0..candidates.len()).map(load).fold(f64::MAX, f64::min);
        let chosen = balancer.pick(client(1), &TriedEndpoints::default(), &turn).unwrap();
        let index = index_of(&candidates, chosen);
        assert!(load(index) <= least, "{} is not the least, {least}", load(index));
        (index, ActiveConnection::begin(chosen))
    };
    let mut open: Vec<_> = (0..1000).map(pick).collect();
    // Connections that end are noticed a moment later.
    open.retain(|(index, _)| *index != 7);
    tokio::time::advance(Duration::from_millis(101)).await;
    assert_eq!(pick(0).0, 7);
}

#[tokio::test(start_paused = true)]
async fn planned_picks_of_idle_endpoints_follow_the_weights() {
    let weights: Vec<u32> = (0..40).map(|index| if index < 20 { 9 } else { 1 }).collect();
    let candidates = candidates(&weights);
    for pause in [Duration::ZERO, Duration::from_millis(101)] {
        let (balancer, turn) = (balancer(Algorithm::LeastConnections, &candidates), AtomicU64::new(0));
        let mut light = 0;
        for _ in 0..20_000 {
            // Each connection ends before the next one begins.
            let chosen = balancer.pick(client(1), &TriedEndpoints::default(), &turn).unwrap();
            light += u32::from(index_of(&candidates, chosen) >= 20);
            tokio::time::advance(pause).await;
        }
        let percent = f64::from(light) / 200.0;
        assert!((8.0..12.0).contains(&percent), "{percent} % instead of 10 % with pauses of {pause:?}");
    }
}

/// The CPU time of one pick in seconds, the least of 12 runs.
fn cost_of_pick(algorithm: Algorithm, endpoints: usize) -> f64 {
    const PICKS: u32 = 5000;
    let candidates = candidates(&vec![1; endpoints]);
    let (balancer, turn) = (balancer(algorithm, &candidates), AtomicU64::new(0));
    let picks = || {
        let pick = || ActiveConnection::begin(balancer.pick(client(1), &TriedEndpoints::default(), &turn).unwrap());
        let started = crate::cost::cpu_time();
        drop((0..PICKS).map(|_| pick()).collect::<Vec<_>>());
        (crate::cost::cpu_time() - started).as_secs_f64() / f64::from(PICKS)
    };
    (0..12).map(|_| picks()).fold(f64::MAX, f64::min)
}

#[test]
fn a_pick_costs_the_same_for_any_number_of_endpoints() {
    // Building the table of Maglev takes long, and its picks are one look-up.
    for algorithm in ALGORITHMS.into_iter().filter(|algorithm| *algorithm != Algorithm::Maglev) {
        let (few, many) = (cost_of_pick(algorithm, 10), cost_of_pick(algorithm, 5000));
        assert!(many < few * 4.0, "{algorithm:?}: {:.0} ns among 10, {:.0} ns among 5,000", few * 1e9, many * 1e9);
    }
}

#[test]
fn counted_connections_level_out() {
    let weights = [1, 1, 2, 4];
    for (algorithm, percent) in [(Algorithm::LeastConnections, 1.0), (Algorithm::PowerOfTwo, 5.0)] {
        let candidates = candidates(&weights);
        let (balancer, turn) = (balancer(algorithm, &candidates), AtomicU64::new(0));
        let pick = |_| ActiveConnection::begin(balancer.pick(client(1), &TriedEndpoints::default(), &turn).unwrap());
        let open: Vec<_> = (0..4000).map(pick).collect();
        let active: Vec<_> = candidates.iter().map(|candidate| candidate.endpoint.active()).collect();
        assert_near_weights(&active, &weights, percent);
        drop(open);
        assert!(candidates.iter().all(|candidate| candidate.endpoint.active() == 0));
    }
}

#[test]
fn power_of_two_takes_the_better_one_of_two() {
    let candidates = candidates(&[1, 1]);
    let _busy = ActiveConnection::begin(&candidates[0].endpoint);
    assert_eq!(counts(Algorithm::PowerOfTwo, &candidates, 1000), [0, 1000]);
}

#[test]
fn power_of_two_never_takes_the_worst() {
    let candidates = candidates(&[1; 5]);
    let _busy: Vec<_> = (0..3).map(|_| ActiveConnection::begin(&candidates[2].endpoint)).collect();
    let counts = counts(Algorithm::PowerOfTwo, &candidates, 4000);
    assert_eq!(counts[2], 0);
    assert!(counts.iter().filter(|count| **count > 800).count() == 4, "{counts:?}");
}
