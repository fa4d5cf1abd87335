//! Maglev tables are bounded, and all processes agree about them.

use super::*;
use crate::model::{MAX_MAGLEV_SLOTS, maglev_slots};

/// A load balancer with routes to backends of their own, with the given numbers of routes and of endpoints each.
fn routed(routes: usize, endpoints: usize) -> World {
    let route = |number: usize| format!("{{serverNames: [r{number}.example], backends: [b{number}]}}");
    let listener = |number: usize| {
        let routes: Vec<_> = (number * 16..routes.min(number * 16 + 16)).map(route).collect();
        format!(
            "{{name: l{number}, port: {}, tls: {{mode: Passthrough}}, routes: [{}]}}",
            1000 + number,
            routes.join(", ")
        )
    };
    let backend = |number: usize| {
        let address = |endpoint: usize| format!("'10.{number}.{}.{}:1'", endpoint / 250, endpoint % 250);
        let addresses: Vec<_> = (0..endpoints).map(address).collect();
        format!("{{name: b{number}, addresses: [{}]}}", addresses.join(", "))
    };
    let listeners: Vec<_> = (0..routes.div_ceil(16)).map(listener).collect();
    let backends: Vec<_> = (0..routes).map(backend).collect();
    load_balancer(
        "lb",
        &format!(
            "{{listeners: [{}], backends: [{}], loadBalancing: {{algorithm: Maglev}}}}",
            listeners.join(", "),
            backends.join(", ")
        ),
    )
}

#[test]
fn tables_that_are_too_large_together_give_way_to_rendezvous_hashing_with_a_warning() {
    let translated = |world: &World, previous: &Snapshot| {
        let (snapshot, verdicts) = then(world, previous);
        (snapshot.upstreams[&upstream("lb")].balancing.without_table, sentences(&verdicts, "lb"), snapshot)
    };
    let (without_table, problems, fits) = translated(&routed(16, 3), &Snapshot::default());
    assert_eq!((without_table, problems), (false, vec![]));
    let (without_table, problems, exceeds) = translated(&routed(17, 3), &fits);
    assert!(without_table);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].starts_with("spec.loadBalancing.algorithm: the Maglev tables of 17 different sets"),
        "{problems:?}"
    );
    assert_eq!(then(&routed(17, 3), &exceeds).0.generation, exceeds.generation, "an equal snapshot");
    let (without_table, problems, _) = translated(&routed(16, 3), &exceeds);
    assert_eq!((without_table, problems), (false, vec![]), "whatever was before");
}

#[test]
fn one_table_of_any_size_fits() {
    for members in [0, 1, 655, 656, 2621, 2622, 100_000] {
        assert!(u64::from(maglev_slots(members)) <= MAX_MAGLEV_SLOTS);
    }
}
