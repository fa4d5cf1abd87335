mod scene;

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use proptest::prelude::*;
use tokio::time::Instant;

use self::scene::{RebalanceSimulation, Setting};
use super::{
    excess::{Load, Tolerance, excesses},
    sustained::{SUSTAINED_AFTER, SustainedExcess},
    *,
};
use crate::model::{self, Algorithm};

fn loads(open: &[u32], weights: &[u64]) -> Vec<Load> {
    open.iter().zip(weights).map(|(&open, &weight)| Load { open, weight }).collect()
}

#[test]
fn connections_above_share_and_tolerance_are_excess() {
    let fewest = |percent| Tolerance { percent, by_chance: false };
    let chance = |percent| Tolerance { percent, by_chance: true };
    for (open, weights, coming_back, tolerance, expected) in [
        // A fourth endpoint joins three.
        (&[1667, 1667, 1666, 0][..], &[1, 1, 1, 1][..], 0, fewest(20), &[167, 167, 166, 0][..]),
        (&[1667, 1667, 1666, 0], &[1, 1, 1, 1], 0, fewest(100), &[0, 0, 0, 0]),
        // Closed connections count until they return.
        (&[1500, 1500, 1500, 0], &[1, 1, 1, 1], 500, fewest(20), &[0, 0, 0, 0]),
        (&[1500, 1500, 1500, 0], &[1, 1, 1, 1], 0, fewest(20), &[150, 150, 150, 0]),
        // Shares are proportional to weights.
        (&[100, 100], &[3, 1], 0, fewest(10), &[0, 45]),
        (&[150, 50], &[3, 1], 0, fewest(1), &[0, 0]),
        // One endpoint must have the odd connection.
        (&[1, 0, 0], &[1, 1, 1], 0, fewest(1), &[0, 0, 0]),
        (&[2, 0, 0], &[1, 1, 1], 0, fewest(1), &[1, 0, 0]),
        (&[5, 5, 0], &[1, 1, 1], 0, fewest(20), &[1, 1, 0]),
        // Random placement gives some endpoints a few more.
        (&[5, 5, 0], &[1, 1, 1], 0, chance(20), &[0, 0, 0]),
        (&[1667, 1667, 1666, 0], &[1, 1, 1, 1], 0, chance(20), &[167, 167, 166, 0]),
        (&[7], &[1], 0, fewest(1), &[0]),
        (&[], &[], 0, fewest(1), &[]),
        (&[u32::MAX, 0], &[u64::from(u32::MAX), 1], u64::from(u32::MAX), chance(1000), &[0, 0]),
    ] {
        assert_eq!(excesses(&loads(open, weights), coming_back, tolerance), expected, "{open:?} {tolerance:?}");
    }
}

#[test]
fn sticky_connections_are_not_rebalanced() {
    assert_eq!(Tolerance::of(Algorithm::Maglev, 20), None);
}

#[test]
fn an_excess_counts_once_it_is_sustained() {
    let (mut lasting, now) = (SustainedExcess::default(), Instant::now());
    let mut look = |millis, count| lasting.of(&[(7, count), (8, 0)], now + Duration::from_millis(millis))[0];
    assert_eq!(look(0, 5), 0);
    assert_eq!(look(2900, 5), 0);
    assert_eq!(look(3000, 4), 4);
    assert_eq!(look(3100, 0), 0);
    assert_eq!(look(3200, 9), 0, "that is another one");
}

#[test]
fn connections_that_return_continue_the_same_excess() {
    let (mut lasting, now) = (SustainedExcess::default(), Instant::now());
    let at = |millis| now + Duration::from_millis(millis);
    lasting.of(&[(7, 5)], at(0));
    assert_eq!(lasting.of(&[(7, 5)], at(3000)), [5]);
    lasting.closed(7, at(3000));
    assert_eq!(lasting.of(&[(7, 0)], at(3100)), [0]);
    assert_eq!(lasting.of(&[(7, 4)], at(4000)), [4]);
    assert_eq!(lasting.of(&[(7, 0)], at(6000)), [0]);
    assert_eq!(lasting.of(&[(7, 4)], at(6100)), [0]);
}

/// Rebalancing for least connections, with a tolerance of a fifth above the share.
fn rebalancing() -> RebalancePolicy {
    let max_closes_per_minute = NonZeroU32::new(60_000).unwrap();
    let rebalance = model::Rebalance {
        max_imbalance_percent: 20,
        max_closes_per_minute,
        min_age: Duration::ZERO,
        idle_only: false,
    };
    RebalancePolicy { rebalance, tolerance: Tolerance::of(Algorithm::LeastConnections, 20).unwrap() }
}

/// Endpoints 0, 1, … with these open connections; the first one has had `connections` in total.
fn group(open: &[u32], connections: u64) -> Vec<EndpointLoad> {
    let endpoint = |(id, open): (u64, &u32)| EndpointLoad {
        id,
        load: Load { open: *open, weight: 1 },
        connections: if id == 0 { connections } else { 0 },
    };
    (0..).zip(open).map(endpoint).collect()
}

/// A rebalancer, and a time at which the first of two endpoints has a sustained excess of 38.
fn rebalancer(begun: Instant) -> (Rebalancer, Instant) {
    let mut rebalancer = Rebalancer::new(&rebalancing().rebalance, begun);
    assert_eq!(
        rebalancer.due(&rebalancing(), &[group(&[98, 2], 100)], begun),
        ConnectionCounts::new(),
        "it has not lasted"
    );
    (rebalancer, begun + SUSTAINED_AFTER)
}

#[test]
fn closed_connections_count_until_as_many_return() {
    let (mut rebalancer, now) = rebalancer(Instant::now());
    let due = |rebalancer: &mut Rebalancer, open: &[u32], connections, seconds| {
        let now = now + Duration::from_secs(seconds);
        rebalancer.due(&rebalancing(), &[group(open, connections)], now);
        rebalancer.too_many()
    };
    assert_eq!(due(&mut rebalancer, &[98, 2], 100, 0), 38);
    let closed = ConnectionCounts::from([(0, 38)]);
    assert_eq!(rebalancer.record(&closed, &closed, now), 38);
    assert_eq!(due(&mut rebalancer, &[60, 2], 100, 1), 0, "they are expected back");
    assert_eq!(due(&mut rebalancer, &[60, 22], 120, 2), 0, "20 of them are back, and so all of 100 are known of");
    // All are back, and 20 have left: the first may have 48 of 80.
    assert_eq!(due(&mut rebalancer, &[60, 20], 138, 2), 12);
}

#[test]
fn the_state_of_a_group_ends_when_an_endpoint_joins() {
    let (mut rebalancer, now) = rebalancer(Instant::now());
    rebalancer.due(&rebalancing(), &[group(&[98, 2], 100)], now);
    let closed = ConnectionCounts::from([(0, 38)]);
    rebalancer.record(&closed, &closed, now);
    rebalancer.due(&rebalancing(), &[group(&[60, 2], 100)], now);
    assert_eq!(rebalancer.too_many(), 0, "38 are expected back");
    rebalancer.due(&rebalancing(), &[group(&[60, 2, 0], 100)], now);
    assert_eq!(rebalancer.too_many(), 35, "nobody is");
}

#[test]
fn after_a_tick_without_closes_nothing_is_due_for_a_second() {
    let (mut rebalancer, now) = rebalancer(Instant::now());
    let groups = [group(&[98, 2], 100)];
    let due = rebalancer.due(&rebalancing(), &groups, now);
    assert!(!due.is_empty());
    rebalancer.record(&ConnectionCounts::from([(7, 1)]), &ConnectionCounts::new(), now);
    assert_eq!(rebalancer.due(&rebalancing(), &groups, now), due, "that was another's");
    rebalancer.record(&due, &ConnectionCounts::new(), now);
    assert_eq!(rebalancer.due(&rebalancing(), &groups, now + Duration::from_millis(999)), ConnectionCounts::new());
    assert_ne!(rebalancer.due(&rebalancing(), &groups, now + Duration::from_secs(1)), ConnectionCounts::new());
}

#[test]
fn pending_connections_are_no_reason_to_close_established_ones() {
    let (mut rebalancer, now) = rebalancer(Instant::now());
    let groups = [group(&[98, 2], 100)];
    let due = rebalancer.due(&rebalancing(), &groups, now);
    let confirmed =
        |reached| rebalancer.confirmed(&rebalancing(), &groups, &due, &BTreeMap::from([(0, reached), (1, 2)]));
    assert_eq!(confirmed(98), due);
    // Seven are established: the first may have five of these, a fifth above one half.
    assert_eq!(confirmed(5), ConnectionCounts::new());
    assert_eq!(confirmed(6), ConnectionCounts::from([(0, 1)]));
}

#[test]
fn short_connections_are_no_reason_to_close_long_lived_ones() {
    let mut looks_with_an_excess = 0;
    for seed in 0..100 {
        let setting = Setting {
            algorithm: Algorithm::RoundRobin,
            percent: 5,
            most_per_minute: 3000,
            min_age: Duration::ZERO,
            weights: vec![1; 4],
            replicas: 2,
        };
        let mut scene = RebalanceSimulation::new(seed, &setting, 4, 40);
        for _ in 0..300 {
            scene.come_and_go_at_once(100);
            looks_with_an_excess += usize::from(scene.has_excess());
            scene.step();
        }
        assert_eq!(scene.closed, 0, "with seed {seed}");
    }
    assert!(looks_with_an_excess > 100, "at {looks_with_an_excess} looks somebody had too many");
}

/// The number of closes until one excess connection is gone: with random placement, connections may return to an
/// endpoint with an excess. `room` is the part of the weights that the other endpoints have.
fn closings(algorithm: Algorithm, room: f64) -> f64 {
    match algorithm {
        Algorithm::LeastConnections => 1.0,
        // Fails if both picked endpoints have an excess.
        Algorithm::PowerOfTwo => 1.0 / (1.0 - (1.0 - room) * (1.0 - room)),
        Algorithm::RoundRobin | Algorithm::Random | Algorithm::Maglev => 1.0 / room,
    }
}

prop_compose! {
    fn settings()(
        algorithm in prop::sample::select(vec![
            Algorithm::LeastConnections, Algorithm::PowerOfTwo, Algorithm::RoundRobin, Algorithm::Random,
        ]),
        percent in prop::sample::select(vec![5_u16, 10, 20, 50]),
        most_per_minute in prop::sample::select(vec![600_u32, 3000, 60_000]),
        min_age in prop::sample::select(vec![Duration::ZERO, Duration::from_secs(2)]),
        weights in prop::collection::vec(1..6_u64, 2..10),
        replicas in 1..5_usize,
    ) -> Setting {
        Setting { algorithm, percent, most_per_minute, min_age, weights, replicas }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, max_global_rejects: 2000, ..ProptestConfig::default() })]

    /// Part of the endpoints (at most half) have all connections when the others join. Afterwards clients come and go
    /// for 20 s, with a probability of this many tenths in each step.
    #[test]
    fn independent_replicas_close_an_excess_once_and_settle(
        seed: u64,
        setting in settings(),
        there in 0..4_usize,
        clients in 100..250_usize,
        churn in 0..4_u32,
    ) {
        let Setting { algorithm, percent, most_per_minute, ref weights, replicas, .. } = setting;
        let there = 1 + there % (weights.len() / 2);
        let clients = clients * replicas;
        let mut scene = RebalanceSimulation::new(seed, &setting, there, clients);
        let begun = scene.too_many();
        let all_begun: f64 = begun.iter().sum();
        let total = weights.iter().sum::<u64>() as f64;
        // Each replica rounds up, and tolerates a random deviation. Some of the connections that a replica closed and
        // waits for have returned to other replicas, which is a random number as well.
        let by_chance = Tolerance::of(algorithm, percent).unwrap().by_chance;
        let waited_for = if replicas > 1 { 3.0 * all_begun.sqrt() } else { 0.0 };
        let most = |endpoint: usize| {
            let share = clients as f64 * weights[endpoint] as f64 / total / replicas as f64;
            let beyond = share.sqrt() - share * f64::from(percent) / 100.0;
            replicas as f64 * (1.0 + if by_chance { beyond.max(0.0) } else { 0.0 }) + waited_for
        };
        prop_assume!((0..weights.len()).any(|endpoint| begun[endpoint] > 2.0 * most(endpoint)));

        let mut churned = 0;
        for _ in 0..200 {
            churned += scene.churn(churn);
            scene.step();
        }
        let mut steps = 200;
        while !scene.is_over() {
            scene.step();
            steps += 1;
            prop_assert!(steps < 3000, "it does not end: {} closed, {:?}", scene.closed, scene.too_many());
        }

        for (endpoint, too_many) in scene.too_many().into_iter().enumerate() {
            let most = most(endpoint);
            prop_assert!(too_many <= most, "{too_many} of {clients} are too many, {} were, {most} allowed", begun[endpoint]);
        }
        let room = weights[there..].iter().sum::<u64>() as f64 / total;
        let to_go = all_begun + f64::from(churned);
        // Five standard deviations of the number of connections to move.
        let closings = (to_go + 5.0 * to_go.sqrt()) * closings(algorithm, room);
        prop_assert!(scene.closed as f64 <= closings, "{} closed for {all_begun}, {closings} allowed", scene.closed);
        let moves = scene.moves().max().unwrap_or(0);
        let most_moves = if algorithm == Algorithm::LeastConnections { 2 } else { 4 };
        prop_assert!(moves <= most_moves, "a client was moved {moves} times");
        let fastest = scene.most_in_a_second() as f64;
        let allowed = f64::from(most_per_minute) / 60.0;
        prop_assert!(fastest <= allowed * 1.25 + 1.0, "{fastest} in a second, {allowed} allowed");
    }
}
