use proptest::prelude::*;

use super::{
    simulation::{AllocationInput, ClusterEvent, START, SimulatedCluster, claim},
    *,
};
use crate::world::managed_service::ServiceTarget;

fn at(minutes: i64) -> Timestamp {
    START + SignedDuration::from_mins(minutes)
}

fn allocation(uid: &str, port: u16, freed: Option<Timestamp>) -> Allocation {
    let object = if freed.is_some() { "shop".into() } else { format!("shop/{uid}").into() };
    Allocation { uid: uid.into(), port, object, freed }
}

fn stored<const N: usize>(ports: [(u16, Allocation); N]) -> Allocations {
    Allocations(BTreeMap::from(ports))
}

impl AllocationInput {
    fn of<const N: usize>(claims: [Claim; N]) -> Self {
        Self { claims: claims.into(), ..Self::default() }
    }

    fn gone(mut self, uid: &str) -> Self {
        self.gone.insert(uid.into());
        self
    }

    fn target(mut self, port: u16, uid: &str, listener: u16) -> Self {
        let target = ServiceTarget { uid: uid.into(), object: format!("shop/{uid}").into(), listener };
        self.targets.entry(port).or_default().insert(target);
        self
    }
}

#[test]
fn each_listener_has_a_port_and_the_oldest_objects_are_served_first() {
    let mut old = claim("z", &[2, 1]);
    old.created = at(-1);
    let input = AllocationInput::of([claim("a", &[1, 2, 3]), old]);
    let plan = input.allocate(&Allocations::default(), START);
    let expected = [("z", 1), ("z", 2), ("a", 1), ("a", 2)].map(|(uid, listener)| allocation(uid, listener, None));
    assert_eq!(plan.allocations.0.into_values().collect::<Vec<_>>(), expected);
    assert_eq!(plan.shortage, BTreeMap::from([("a".into(), BTreeSet::from([3]))]));
}

#[test]
fn a_port_in_cooldown_goes_only_to_its_former_listener() {
    let before = stored([(100, allocation("a", 1, None))]);
    let freed = AllocationInput::of([claim("b", &[1])]).gone("a").allocations(&before, START);
    assert_eq!(freed.0[&100], allocation("a", 1, Some(START)));
    assert_eq!(freed.port_of("b", 1), Some(101));

    let without_listener = AllocationInput::of([claim("a", &[])]).allocations(&before, START);
    let again = AllocationInput::of([claim("a", &[1])]).allocations(&without_listener, at(5));
    assert_eq!(again, before);

    let cooling = AllocationInput::default().allocations(&without_listener, at(9));
    assert_eq!(cooling, without_listener);
    assert_eq!(AllocationInput::default().allocations(&cooling, at(10)), Allocations::default());
}

#[test]
fn a_port_stays_while_its_object_is_unseen_or_its_service_has_it() {
    let before = stored([(100, allocation("a", 1, None))]);
    assert_eq!(AllocationInput::default().allocations(&before, at(60)), before, "not known to be gone");
    let with_service = AllocationInput::default().gone("a").target(100, "a", 1);
    assert_eq!(with_service.allocations(&before, at(60)), before);
    let without_listener = AllocationInput::of([claim("a", &[])]).target(100, "a", 1);
    assert_eq!(without_listener.allocations(&before, at(60)), before);
    let rested = stored([(100, allocation("a", 1, Some(START)))]);
    assert_eq!(with_service.allocations(&rested, at(60)), rested);
}

#[test]
fn an_unreadable_object_keeps_its_ports_and_a_barred_listener_gets_none() {
    let before = stored([(100, allocation("a", 1, None)), (101, allocation("b", 1, None))]);
    let unreadable = Claim { listeners: None, ..claim("a", &[]) };
    let limited = Claim { barred: BTreeSet::from([1, 2]), ..claim("b", &[1, 2]) };
    assert_eq!(
        AllocationInput::of([unreadable, limited]).allocate(&before, START),
        AllocationPlan { allocations: before, ..<_>::default() }
    );
}

#[test]
fn of_two_ports_of_one_listener_the_first_stays() {
    let before = stored([(102, allocation("a", 1, None)), (101, allocation("a", 1, None))]);
    let after = AllocationInput::of([claim("a", &[1])]).allocations(&before, START);
    assert_eq!(after.0[&101], allocation("a", 1, None));
    assert_eq!(after.0[&102], allocation("a", 1, Some(START)));
}

#[test]
fn lost_allocations_are_restored_from_services() {
    let input = AllocationInput::of([claim("a", &[1]), claim("b", &[1])]).target(100, "b", 1).target(101, "old", 1);
    let after = input.allocations(&Allocations::default(), START);
    assert_eq!(after.port_of("b", 1), Some(100));
    assert_eq!(after.port_of("a", 1), Some(102), "where no Service sends anybody");
    assert_eq!(after.0[&101], allocation("old", 1, None), "it begins to rest when its Service is gone");
}

#[test]
fn a_restored_older_copy_does_not_reassign_ports_that_services_lead_to() {
    let input = AllocationInput::of([claim("a", &[1]), claim("b", &[1])]).target(100, "a", 1).target(101, "b", 1);
    let right = stored([(100, allocation("a", 1, None)), (101, allocation("b", 1, None))]);
    let swapped = stored([(100, allocation("b", 1, None)), (101, allocation("a", 1, None))]);
    assert_eq!(input.allocations(&swapped, START), right);
    assert_eq!(input.allocations(&Allocations::default(), START), right);

    // The port of the Service wins, even if the older copy has it as free, in cooldown after another owner, or
    // allocated to another listener.
    let input = AllocationInput::of([claim("a", &[1])]).target(102, "a", 1);
    for at_102 in [None, Some(allocation("gone", 1, Some(START))), Some(allocation("a", 2, None))] {
        let mut older = stored([(100, allocation("a", 1, None))]);
        older.0.extend(at_102.map(|allocation| (102, allocation)));
        let after = input.allocations(&older, START);
        assert_eq!(after.by_listener(), BTreeMap::from([(("a", 1), 102)]));
        assert_eq!(after.0[&100].freed, Some(START), "it rests: somebody may have come through it");
    }
}

#[test]
fn a_service_edited_by_hand_is_corrected_and_not_believed() {
    let right = stored([(100, allocation("a", 1, None))]);
    let input = AllocationInput::of([claim("a", &[1])]);
    assert_eq!(input.target(99, "a", 1).allocations(&right, START), right, "out of the range");
    let nameless = AllocationInput::of([claim("a", &[1])]).target(100, "", 1);
    assert_eq!(nameless.allocations(&right, START), right, "it does not say whose it is");
}

#[test]
fn between_two_services_the_stored_allocations_decide() {
    let input = AllocationInput::of([claim("a", &[1]), claim("b", &[1])]).target(100, "a", 1).target(101, "b", 1);
    let swapped = stored([(100, allocation("b", 1, None)), (101, allocation("a", 1, None))]);
    let both = input.target(100, "b", 1);
    assert_eq!(both.allocations(&swapped, START).0[&100].uid, "b".into());
}

#[test]
fn a_namespace_that_keeps_changing_listeners_leaves_ports_for_others() {
    let (claims, gone, targets) = (|port| [claim("a", &[port])], BTreeSet::new(), Targets::new());
    let allocate = |claims: &[Claim], current: &Allocations| {
        super::allocate(
            &Claims { claims, targets: &targets, taken: &BTreeSet::new(), gone: &gone, range: 1..=200 },
            current,
            START,
        )
    };
    let mut allocations = Allocations::default();
    for port in 1..=300 {
        allocations = allocate(&claims(port), &allocations).allocations;
    }
    assert_eq!(allocations.0.len(), 101, "more than half are scarce no more");
    let other = Claim { object: "other/b".into(), ..claim("b", &[1]) };
    let last = allocate(&[claim("a", &[301]), other], &allocations);
    assert_eq!(last.shortage.keys().map(|uid| &**uid).collect::<Vec<_>>(), ["a"]);
    assert!(last.allocations.port_of("b", 1).is_some());
}

#[test]
fn full_allocations_fit_into_a_config_map_and_shrink_as_ports_are_freed() {
    let [namespace, name] = ["n".repeat(63), "o".repeat(52)];
    let one = Allocation {
        uid: "u".repeat(36).into(),
        port: u16::MAX,
        object: format!("{namespace}/{name}").into(),
        freed: None,
    };
    let size =
        |allocations: &Allocations| allocations.write().iter().map(|(key, text)| key.len() + text.len()).sum::<usize>();
    let mut full = Allocations((0..Allocations::MOST).map(|port| (60_000 + port, one.clone())).collect());
    let before = size(&full);
    assert!(before < 1024 * 1024, "{before}");
    full.0.values_mut().for_each(|allocation| allocation.free(START));
    assert!(size(&full) < before);
}

#[test]
fn a_port_of_a_service_of_another_class_is_not_allocated() {
    let input = AllocationInput { taken: BTreeSet::from([100, 102]), ..AllocationInput::of([claim("a", &[1, 2, 3])]) };
    let plan = input.allocate(&Allocations::default(), START);
    assert_eq!(plan.allocations.0.keys().copied().collect::<Vec<_>>(), [101, 103]);
    assert_eq!(plan.shortage["a"], BTreeSet::from([3]));
}

#[test]
fn unreadable_entries_are_freed_and_a_wrong_clock_does_not_hold_ports() {
    let blank = Allocation { uid: "".into(), port: 0, object: "".into(), freed: None };
    let before = stored([(100, blank.clone()), (101, allocation("a", 1, Some(at(1_000_000))))]);
    let after = AllocationInput::default().allocations(&before, START);
    assert_eq!(after.0[&100], Allocation { freed: Some(START), ..blank });
    assert_eq!(after.0[&101].freed, Some(START));
}

#[test]
fn of_two_services_of_one_listener_the_one_with_the_higher_port_counts() {
    let input = AllocationInput::default().target(100, "a", 1).target(101, "a", 1);
    for before in [stored([]), stored([(100, allocation("b", 1, None))]), stored([(103, allocation("a", 1, None))])] {
        let after = input.allocations(&before, START);
        assert_eq!(after.0[&101], allocation("a", 1, None));
        assert_eq!(after.0.values().filter(|allocation| allocation.freed.is_none()).count(), 1, "{after:?}");
    }
}

#[test]
fn the_cost_of_an_allocation_is_that_of_sorting_its_listeners() {
    let claimed = |count: usize| (0..count).map(|number| claim(&number.to_string(), &[1])).collect::<Vec<_>>();
    let run = |(claims, targets): &mut (Vec<Claim>, Targets)| {
        let (taken, gone) = (BTreeSet::new(), BTreeSet::new());
        let input = Claims { claims, targets, taken: &taken, gone: &gone, range: 1..=u16::MAX };
        let plan = allocate(&input, &Allocations::default(), START);
        assert_eq!((plan.allocations.0.len(), plan.shortage.len()), (claims.len(), 0));
    };
    // New listeners, and those whose allocations are lost while their Services remain.
    let are_new = |count: usize| (claimed(count), Targets::new());
    let are_lost = |count: usize| {
        let claims = claimed(count);
        let target =
            |claim: &Claim| ServiceTarget { uid: claim.uid.clone(), object: claim.object.clone(), listener: 1 };
        let targets: Targets =
            (1..).zip(&claims).map(|(port, claim)| (port, BTreeSet::from([target(claim)]))).collect();
        (claims, targets)
    };
    crate::cost::assert_grows_no_faster_than_n_log_n(1_000, are_new, run);
    crate::cost::assert_grows_no_faster_than_n_log_n(1_000, are_lost, run);
}

#[test]
fn a_port_outside_of_the_range_stays_with_its_owner() {
    let before = stored([(9, allocation("a", 1, None))]);
    assert_eq!(AllocationInput::of([claim("a", &[1])]).allocations(&before, START), before);
}

fn event() -> impl Strategy<Value = ClusterEvent> {
    let object = 0..4u8;
    let listeners = proptest::collection::btree_set(1..5u16, 0..4);
    prop_oneof![
        3 => (object.clone(), listeners).prop_map(|(object, listeners)| ClusterEvent::Declare(object, listeners)),
        1 => object.clone().prop_map(ClusterEvent::Unreadable),
        2 => object.clone().prop_map(ClusterEvent::Delete),
        1 => object.prop_map(ClusterEvent::Overlook),
        2 => Just(ClusterEvent::WriteServices),
        1 => Just(ClusterEvent::RemoveServices),
        3 => (0..12u8).prop_map(ClusterEvent::Wait),
    ]
}

proptest! {
    #[test]
    fn no_port_has_two_owners_none_is_lost_and_all_have_a_cooldown(events in proptest::collection::vec(event(), 1..60)) {
        let mut cluster = SimulatedCluster::default();
        for event in &events {
            cluster.happens(event);
        }
    }

    #[test]
    fn allocating_again_changes_nothing_whatever_was_written_by_hand(
        ports in proptest::collection::btree_map(95..110u16, ("[ab]?", 0..4u16, proptest::option::of(0..30i64)), 0..12),
    ) {
        let by_hand = ports.into_iter().map(|(port, (uid, listener, freed))| (port, allocation(&uid, listener, freed.map(at))));
        let input = AllocationInput::of([claim("a", &[1, 2]), claim("b", &[1])]).gone("");
        let after = input.allocate(&Allocations(by_hand.collect()), at(15));
        prop_assert_eq!(&input.allocations(&after.allocations, at(15)), &after.allocations);
    }
}
