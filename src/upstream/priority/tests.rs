use std::time::Duration;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// The usable endpoints and all endpoints of each level.
type UsableCounts = [(usize, usize)];

/// Levels 0, 1, …, each with a backend of that name.
fn levels(counts: &UsableCounts) -> PriorityLevels {
    let level = |(number, &(usable, endpoints)): (usize, &(usize, usize))| {
        let backends = vec![number.to_string().into()];
        (Priority(number as u8), PriorityLevel { backends, endpoints, usable, ..PriorityLevel::default() })
    };
    counts.iter().enumerate().map(level).collect()
}

/// The active level after each step, `-` for none. A step has a duration in seconds.
fn served(failover: Failover, steps: &[(u64, &UsableCounts)]) -> String {
    let (mut serving, mut now) = (ActivePriority::default(), Instant::now());
    let step = |(seconds, counts): &(u64, &UsableCounts)| {
        now += *seconds as u32 * SECOND;
        let (level, _) = serving.settle(&levels(counts), &failover, now);
        level.map_or("-".to_owned(), |level| level.to_string())
    };
    steps.iter().map(step).collect()
}

fn failover(min_usable_percent: u8, failback: Failback) -> Failover {
    Failover { min_usable_percent, failback, failback_request: None }
}

#[test]
fn the_lowest_level_with_a_usable_endpoint_serves() {
    let steps: &[(u64, &UsableCounts)] = &[
        (0, &[(3, 3), (2, 2), (1, 1)]),
        (1, &[(1, 3), (2, 2), (1, 1)]),
        (1, &[(0, 3), (2, 2), (1, 1)]),
        (1, &[(0, 3), (0, 2), (1, 1)]),
        (1, &[(0, 3), (0, 2), (0, 1)]),
        (1, &[(0, 3), (0, 2), (1, 1)]),
        (1, &[(0, 3), (1, 2), (1, 1)]),
        (1, &[(1, 3), (0, 2), (0, 1)]),
    ];
    assert_eq!(served(Failover::default(), steps), "0012-210");
}

#[test]
fn a_level_below_its_minimum_is_replaced_unless_all_are() {
    let steps: &[(u64, &UsableCounts)] = &[
        (0, &[(3, 4), (4, 4)]),
        (1, &[(2, 4), (4, 4)]),
        (1, &[(1, 4), (4, 4)]),
        (1, &[(2, 4), (4, 4)]),
        (1, &[(1, 4), (2, 4)]),
        (1, &[(1, 4), (1, 4)]),
        (1, &[(0, 4), (1, 4)]),
        (1, &[(0, 0), (1, 4)]),
        (1, &[(4, 4), (1, 4)]),
    ];
    assert_eq!(served(failover(50, Failback::default()), steps), "001010110");
}

#[test]
fn failback_follows_once_a_level_could_serve_without_a_break() {
    let (down, up): (&UsableCounts, &UsableCounts) = (&[(0, 1), (1, 1)], &[(1, 1), (1, 1)]);
    let after = failover(0, Failback::After(10 * SECOND));
    for (steps, expected) in [
        (&[(0, up), (1, down), (1, up), (9, up), (1, up)][..], "01110"),
        (&[(0, up), (1, down), (1, up), (9, down), (1, up), (9, up), (1, up)], "0111110"),
        (&[(0, up), (1, down), (1, up), (9, &[(1, 1), (0, 1)])], "0110"),
        (&[(0, down), (1, up), (1, &[(0, 1), (0, 1)]), (1, up)], "11-1"),
    ] {
        assert_eq!(served(after, steps), expected);
    }
    let steps: &[(u64, &UsableCounts)] =
        &[(0, &[(0, 1), (0, 1), (1, 1)]), (1, &[(0, 1), (1, 1), (1, 1)]), (9, &[(1, 1); 3]), (9, &[(1, 1); 3])];
    assert_eq!(served(after, steps), "2222", "each group is waited for by itself");
}

#[test]
fn without_failback_the_active_level_stays_while_it_can_serve() {
    let steps: &[(u64, &UsableCounts)] =
        &[(0, &[(1, 1), (1, 1)]), (1, &[(0, 1), (1, 1)]), (9000, &[(1, 1), (1, 1)]), (1, &[(1, 1), (0, 1)])];
    assert_eq!(served(failover(0, Failback::Never), steps), "0110");
}

#[test]
fn a_request_fails_back_once_and_expires() {
    let (down, up): (&UsableCounts, &UsableCounts) = (&[(0, 1), (1, 1)], &[(1, 1), (1, 1)]);
    for failback in [Failback::Never, Failback::After(3600 * SECOND)] {
        // A step has a duration in seconds, the endpoints, and the request.
        for (steps, expected) in [
            (&[(0, up, 0), (1, down, 0), (1, up, 0), (1, up, 1), (1, down, 1), (1, up, 1)][..], "011011"),
            // The level recovers while the request is valid, and after it.
            (&[(0, down, 0), (1, down, 1), (59, up, 1)], "110"),
            (&[(0, down, 0), (1, down, 1), (60, up, 1)], "111"),
            // A new process has no request to fulfil, and the removal of a request is none.
            (&[(0, down, 1), (1, up, 1), (1, up, 0), (1, up, 2)], "1110"),
        ] {
            let (mut serving, mut now) = (ActivePriority::default(), Instant::now());
            let mut served = String::new();
            for (seconds, counts, request) in steps {
                now += *seconds as u32 * SECOND;
                let failback_request = (*request > 0).then(|| Timestamp::constant(*request, 0));
                let failover = Failover { failback_request, ..failover(0, failback) };
                let (level, _) = serving.settle(&levels(counts), &failover, now);
                served += &level.unwrap().to_string();
            }
            assert_eq!(served, expected, "{failback:?} {steps:?}");
        }
    }
}

#[test]
fn a_terminating_level_serves_only_while_no_other_can() {
    let never = failover(50, Failback::Never);
    let (mut serving, now) = (ActivePriority::default(), Instant::now());
    for (first, second, expected) in [
        // For each level: usable, all, and terminating endpoints.
        ((2, 2, 0), (1, 1, 0), Some(0)),
        ((0, 0, 2), (1, 1, 0), Some(1)),
        ((0, 2, 2), (0, 1, 0), Some(0)),
        ((0, 0, 2), (1, 4, 0), Some(1)),
        ((0, 0, 2), (0, 0, 2), Some(0)),
        // Terminating endpoints do not count next to ready ones.
        ((1, 2, 5), (1, 1, 0), Some(0)),
        ((0, 0, 0), (0, 1, 0), None),
    ] {
        let mut levels = levels(&[(first.0, first.1), (second.0, second.1)]);
        levels.values_mut().zip([first.2, second.2]).for_each(|(level, terminate)| level.last_resort = terminate);
        let chosen = serving.settle(&levels, &never, now).0;
        assert_eq!(chosen, expected.map(Priority), "{first:?} {second:?}");
    }
}

#[test]
fn a_level_stays_active_when_its_number_changes() {
    let (mut serving, now) = (ActivePriority::default(), Instant::now());
    let never = failover(0, Failback::Never);
    serving.settle(&levels(&[(0, 1), (1, 1)]), &never, now);
    let mut swapped = levels(&[(1, 1), (1, 1)]);
    swapped.get_mut(&Priority(0)).unwrap().backends = vec!["1".into()];
    swapped.get_mut(&Priority(1)).unwrap().backends = vec!["0".into()];
    assert_eq!(serving.settle(&swapped, &never, now), (Some(Priority(0)), None));
}

#[test]
fn a_change_of_the_active_level_is_reported() {
    let (mut serving, now) = (ActivePriority::default(), Instant::now());
    let mut change = |counts: &UsableCounts| serving.settle(&levels(counts), &Failover::default(), now).1;
    let expected =
        |from: Option<u8>, to| Some(PriorityChange { from: from.map(Priority), to: Priority(to), first: Priority(0) });
    assert_eq!(change(&[(1, 1), (1, 1)]), expected(None, 0));
    assert_eq!(change(&[(1, 1), (0, 1)]), None);
    assert_eq!(change(&[(0, 1), (1, 1)]), expected(Some(0), 1));
    assert_eq!(change(&[(1, 1), (1, 1)]), expected(Some(1), 0));
    assert_eq!(change(&[(0, 1), (0, 1)]), None);
    assert_eq!(change(&[(0, 1), (1, 1)]), expected(Some(0), 1), "also after an outage of all");
}

#[test]
fn after_an_outage_of_all_levels_the_last_active_one_is_waited_for() {
    let (all, none): (&UsableCounts, &UsableCounts) = (&[(1, 1), (1, 1)], &[(0, 1), (0, 1)]);
    let (main, spare): (&UsableCounts, &UsableCounts) = (&[(1, 1), (0, 1)], &[(0, 1), (1, 1)]);
    let served = |failback, steps: &[(u64, &UsableCounts)]| {
        let (mut serving, mut now, failover) = (ActivePriority::default(), Instant::now(), failover(0, failback));
        let step = |(seconds, counts): &(u64, &UsableCounts)| {
            now += *seconds as u32 * SECOND;
            let mut levels = levels(counts);
            levels.values_mut().for_each(|level| level.seen_within = 5 * SECOND);
            let (level, _) = serving.settle(&levels, &failover, now);
            let waits = level.is_none() && *counts != none;
            assert_eq!(
                serving.due(&failover).is_some_and(|due| due > now),
                waits
                    || level.is_some_and(|level| {
                        failover.failback == Failback::After(60 * SECOND) && level == Priority(1) && counts[0].0 == 1
                    })
            );
            level.map_or("-".to_owned(), |level| level.to_string())
        };
        steps.iter().map(step).collect::<String>()
    };
    let after = Failback::After(60 * SECOND);
    for (failback, steps, expected) in [
        (Failback::Never, &[(0, all), (1, none), (1, spare), (4, spare), (0, all)][..], "0---0"),
        (Failback::Never, &[(0, all), (1, none), (1, spare), (4, spare), (1, spare), (0, all)], "0---11"),
        (Failback::Never, &[(0, all), (1, none), (1, spare), (4, none), (1, spare), (4, spare), (1, spare)], "0-----1"),
        (Failback::Never, &[(0, spare), (1, none), (1, main), (4, main), (0, all)], "1---1"),
        (Failback::Never, &[(0, spare), (1, none), (1, main), (5, main), (0, all)], "1--00"),
        (after, &[(0, all), (1, none), (1, spare), (4, all)], "0--0"),
        (after, &[(0, all), (1, none), (1, spare), (5, spare), (1, all)], "0--11"),
        (Failback::default(), &[(0, all), (1, none), (1, spare), (0, all)], "0-10"),
    ] {
        assert_eq!(served(failback, steps), expected, "{failback:?} {steps:?}");
    }
}

#[test]
fn pending_first_checks_do_not_cause_a_failover() {
    let never = failover(50, Failback::Never);
    // For the first level, of four endpoints: usable and pending ones; and whether the second level can serve.
    for (steps, expected) in [
        (&[(0, 4, true), (1, 3, true), (1, 1, true), (2, 0, true)][..], "---0"),
        (&[(0, 4, true), (1, 3, true), (1, 1, true), (1, 0, true)], "---1"),
        (&[(0, 2, true), (0, 1, true)], "-1"),
        // Once a level serves, pending checks have no effect.
        (&[(0, 4, true), (0, 0, true), (0, 4, true), (1, 3, true)], "-111"),
        (&[(2, 0, true), (1, 3, true)], "01"),
        // All serving endpoints are replaced.
        (&[(2, 0, true), (0, 4, true), (1, 3, true), (2, 0, true)], "0--0"),
        (&[(2, 0, true), (0, 4, true), (0, 0, true)], "0-1"),
        (&[(0, 4, false), (0, 1, false), (1, 0, false)], "--0"),
    ] {
        let mut serving = ActivePriority::default();
        let step = |&(usable, pending, second): &(usize, usize, bool)| {
            let mut levels = levels(&[(usable, 4), (usize::from(second), 1)]);
            levels.get_mut(&Priority(0)).unwrap().pending = pending;
            let (level, _) = serving.settle(&levels, &never, Instant::now());
            level.map_or("-".to_owned(), |level| level.to_string())
        };
        assert_eq!(steps.iter().map(step).collect::<String>(), expected, "{steps:?}");
    }
}

fn counts() -> impl Strategy<Value = Vec<(usize, usize)>> {
    prop::collection::vec((0..5_usize, 0..5_usize).prop_map(|(one, other)| (one.min(other), one.max(other))), 1..5)
}

fn policy() -> impl Strategy<Value = Failover> {
    let failback = prop_oneof![
        Just(Failback::Never),
        (0..20_u64).prop_map(|seconds| Failback::After(Duration::from_secs(seconds)))
    ];
    (0..=100_u8, failback).prop_map(|(percent, failback)| failover(percent, failback))
}

proptest! {
    #[test]
    fn the_active_level_is_right_after_any_events(
        failover in policy(),
        steps in prop::collection::vec((0..15_u32, counts()), 1..40),
    ) {
        let (mut serving, mut now, mut before) = (ActivePriority::default(), Instant::now(), None);
        for (seconds, counts) in steps {
            now += seconds * SECOND;
            let levels = levels(&counts);
            let (chosen, _) = serving.settle(&levels, &failover, now);
            let any = levels.values().any(|level| level.usable > 0);
            prop_assert_eq!(chosen.is_some(), any, "one serves if any can");
            if let Some(chosen) = chosen {
                prop_assert!(levels[&chosen].usable > 0);
                let able = levels.values().any(|level| level.can_serve(&failover));
                prop_assert_eq!(levels[&chosen].can_serve(&failover), able, "one that can, if any can");
                prop_assert!(Some(chosen) == before || best(&levels, &failover) == Some(chosen), "a new one is the best");
                let waits = best(&levels, &failover) != Some(chosen);
                prop_assert!(failover.failback != Failback::default() || !waits);
                prop_assert_eq!(serving.due(&failover).is_some(), waits && failover.failback != Failback::Never);
                prop_assert!(serving.due(&failover).is_none_or(|due| due > now));
            }
            before = chosen.or(before);
        }
    }
}
