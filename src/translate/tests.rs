//! Translations of whole worlds. Smaller parts have tests in their own modules.

mod authorities;
mod certificates;
mod checks;
mod cost;
mod golden;
mod invariants;
mod keeping;
mod locality;
mod loops;
mod manifests;
mod memo;
mod mistakes;
mod modes;
mod revocation;
mod slices;
mod speed;
mod sticky;
mod tenancy;
mod transitions;

use std::sync::Arc;

use jiff::Timestamp;

use super::*;
use crate::{
    model::{ListenerKey, ObjectKey},
    shared::{SharedObject, each_mut, first_mut},
};
use manifests::{load_balancer, world};

/// 2026-01-01.
const NOW: Timestamp = Timestamp::constant(1_767_225_600, 0);

/// The translation of a world by a process that has just started.
fn first(world: &World) -> (Snapshot, Verdicts) {
    translate(world, &Snapshot::default(), NOW)
}

fn then(world: &World, previous: &Snapshot) -> (Snapshot, Verdicts) {
    translate(world, previous, NOW)
}

fn object(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

fn listener(name: &str, port: u16) -> ListenerKey {
    ListenerKey { object: object(name), port }
}

fn upstream(name: &str) -> UpstreamKey {
    UpstreamKey { object: object(name) }
}

/// The problems of one load balancer, as users read them.
fn sentences(verdicts: &Verdicts, name: &str) -> Vec<String> {
    verdicts[&object(name)].problems.iter().map(ToString::to_string).collect()
}
