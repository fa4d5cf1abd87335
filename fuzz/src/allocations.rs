use std::collections::BTreeMap;

use arbitrary::{Arbitrary, Result, Unstructured};
use tcplb::{
    controller::fuzzing::{ClusterEvent, SimulatedCluster},
    world::Allocations,
};

/// Port allocations: with any events in a cluster, no port has two owners, none is lost, and each stays unused for its
/// cooldown ([`SimulatedCluster`] checks that after each event). The data of a ConfigMap is written back as it was read.
pub fn allocations(data: &[u8]) {
    // An input that ends early ends the events.
    let _ = check(&mut Unstructured::new(data));
}

fn check(u: &mut Unstructured) -> Result<()> {
    let stored = BTreeMap::<String, String>::arbitrary(u)?;
    let (read, problems) = Allocations::read(&stored);
    assert!(problems.len() <= stored.len());
    let written = read.write();
    let (again, problems) = Allocations::read(&written);
    assert_eq!((&again, problems), (&read, Vec::new()), "allocations are written differently from how they are read");

    let mut cluster = SimulatedCluster::default();
    while !u.is_empty() {
        let event = event(u)?;
        cluster.happens(&event);
    }
    Ok(())
}

fn event(u: &mut Unstructured) -> Result<ClusterEvent> {
    let object = |u: &mut Unstructured| u.int_in_range(0..=3u8);
    Ok(match u.int_in_range(0..=6u8)? {
        0 => {
            let count = u.int_in_range(0..=3)?;
            let listeners = (0..count).map(|_| u.int_in_range(1..=4u16)).collect::<Result<_>>()?;
            ClusterEvent::Declare(object(u)?, listeners)
        }
        1 => ClusterEvent::Unreadable(object(u)?),
        2 => ClusterEvent::Delete(object(u)?),
        3 => ClusterEvent::Overlook(object(u)?),
        4 => ClusterEvent::WriteServices,
        5 => ClusterEvent::RemoveServices,
        _ => ClusterEvent::Wait(u.int_in_range(0..=11u8)?),
    })
}
