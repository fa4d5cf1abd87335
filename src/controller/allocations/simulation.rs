//! A simulated cluster with a sequence of events, for tests and `fuzz/`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use super::{AllocationPlan, COOLDOWN, Claim, Claims, allocate};
use crate::world::{
    Allocation, Allocations,
    managed_service::{ServiceTarget, Targets},
};

pub(super) const START: Timestamp = Timestamp::constant(1_800_000_000, 0);

pub(super) fn claim(uid: &str, listeners: &[u16]) -> Claim {
    Claim {
        uid: uid.into(),
        object: format!("shop/{uid}").into(),
        created: START,
        listeners: Some(listeners.iter().copied().collect()),
        barred: BTreeSet::new(),
    }
}

/// The state that allocations depend on; at first, claims only.
#[derive(Default)]
pub(super) struct AllocationInput {
    pub claims: Vec<Claim>,
    pub targets: Targets,
    pub taken: BTreeSet<u16>,
    pub gone: BTreeSet<Arc<str>>,
}

impl AllocationInput {
    pub fn allocate(&self, current: &Allocations, now: Timestamp) -> AllocationPlan {
        let Self { claims, targets, taken, gone } = self;
        allocate(&Claims { claims, targets, taken, gone, range: 100..=103 }, current, now)
    }

    pub fn allocations(&self, current: &Allocations, now: Timestamp) -> Allocations {
        self.allocate(current, now).allocations
    }
}

/// An event in a cluster.
#[derive(Clone, Debug)]
pub enum ClusterEvent {
    Declare(u8, BTreeSet<u16>),
    Unreadable(u8),
    /// The object is deleted, and the next object of this name has another uid.
    Delete(u8),
    /// The object is missing from the input of one allocation.
    Overlook(u8),
    /// The Services are updated to the allocations.
    WriteServices,
    RemoveServices,
    Wait(u8),
}

/// A simulated cluster that checks the invariants of allocations after each event.
pub struct SimulatedCluster {
    generation: [u32; 4],
    declared: [Option<Claim>; 4],
    input: AllocationInput,
    allocations: Allocations,
    now: Timestamp,
    /// The last owner of each port, and the end of its ownership.
    last: BTreeMap<u16, (Arc<str>, u16, Timestamp)>,
}

impl Default for SimulatedCluster {
    fn default() -> Self {
        Self {
            generation: [0; 4],
            declared: [const { None }; 4],
            input: AllocationInput::default(),
            allocations: Allocations::default(),
            now: START,
            last: BTreeMap::new(),
        }
    }
}

impl SimulatedCluster {
    fn uid(&self, object: u8) -> String {
        format!("{object}-{}", self.generation[usize::from(object)])
    }

    /// Applies an event, and allocates ports for the new state.
    ///
    /// # Panics
    /// If an allocation violates one of the invariants.
    pub fn happens(&mut self, event: &ClusterEvent) {
        let mut overlooked = None;
        match event {
            ClusterEvent::Declare(object, listeners) => {
                let listeners: Vec<u16> = listeners.iter().copied().collect();
                self.declared[usize::from(*object)] = Some(claim(&self.uid(*object), &listeners));
            }
            ClusterEvent::Unreadable(object) => {
                let unreadable = Claim { listeners: None, ..claim(&self.uid(*object), &[]) };
                self.declared[usize::from(*object)] = Some(unreadable);
            }
            ClusterEvent::Delete(object) => {
                self.input.gone.insert(self.uid(*object).into());
                self.generation[usize::from(*object)] += 1;
                self.declared[usize::from(*object)] = None;
            }
            ClusterEvent::Overlook(object) => overlooked = Some(*object),
            ClusterEvent::WriteServices => self.write_services(),
            ClusterEvent::RemoveServices => self.input.targets.clear(),
            ClusterEvent::Wait(minutes) => self.now += SignedDuration::from_mins((*minutes).into()),
        }
        let shown = self.declared.iter().enumerate().filter(|(object, _)| overlooked.map(usize::from) != Some(*object));
        self.input.claims = shown.filter_map(|(_, claim)| claim.clone()).collect();
        self.check();
    }

    fn write_services(&mut self) {
        let owned = self.allocations.0.iter().filter(|(_, allocation)| allocation.freed.is_none());
        let target = |(port, allocation): (&u16, &Allocation)| {
            let Allocation { uid, object, port: listener, .. } = allocation.clone();
            (*port, BTreeSet::from([ServiceTarget { uid, object, listener }]))
        };
        self.input.targets = owned.map(target).collect();
    }

    fn check(&mut self) {
        let AllocationPlan { allocations: after, shortage } = self.input.allocate(&self.allocations, self.now);
        assert_eq!(self.input.allocations(&after, self.now), after, "an answer is kept");
        let mut owners = BTreeSet::new();
        for (port, allocation) in after.0.iter().filter(|(_, allocation)| allocation.freed.is_none()) {
            assert!(owners.insert((allocation.uid.clone(), allocation.port)), "one port for each listener");
            if let Some((uid, listener, until)) = self.last.get(port) {
                let same = *uid == allocation.uid && *listener == allocation.port;
                assert!(same || self.now.duration_since(*until) >= COOLDOWN, "{port} has not rested");
            }
        }
        for (port, targets) in &self.input.targets {
            let now = &after.0[port];
            let is_right = |target: &ServiceTarget| now.uid == target.uid && now.port == target.listener;
            assert!(targets.iter().all(is_right), "a Service sends clients to somebody else");
        }
        for claim in &self.input.claims {
            for listener in claim.listeners.iter().flatten() {
                let short = shortage.get(&claim.uid).is_some_and(|short| short.contains(listener));
                let port = after.port_of(&claim.uid, *listener);
                assert!(port.is_some() != short, "a port, or it is told that there is none");
                if let Some(before) = self.allocations.port_of(&claim.uid, *listener) {
                    assert_eq!(port, Some(before), "nobody loses a port");
                }
            }
        }
        for (port, allocation) in &after.0 {
            self.last.insert(*port, (allocation.uid.clone(), allocation.port, self.now));
            if let Some(freed) = allocation.freed {
                self.last.insert(*port, (allocation.uid.clone(), allocation.port, freed));
            }
        }
        self.allocations = after;
    }
}
