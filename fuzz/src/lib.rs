//! Properties of all code that reads bytes from outside. Each function takes one input and panics if it violates its
//! property.
//!
//! `fuzz_targets/` runs them under libFuzzer (`make fuzz`), `tests/corpus.rs` on the committed corpus.

mod access_log;
mod allocations;
mod client_hello;
mod documents;
mod manifests;
mod pem;
mod postgres_startup;
mod probe_response;
mod proxy_header;
mod stream;
mod takeover;

use std::{fmt::Write, time::Duration};

pub use access_log::access_log;
pub use allocations::allocations;
pub use client_hello::client_hello;
pub use documents::documents;
pub use manifests::manifests;
pub use pem::pem;
pub use postgres_startup::postgres_startup;
pub use probe_response::probe_response;
pub use proxy_header::proxy_header;
use rustix::time::{ClockId, clock_gettime};
pub use takeover::takeover;
use tcplb::{
    model::Snapshot,
    proxy::fuzzing::{is_visible, printable},
    translate::{Verdicts, translate},
    world::World,
};

/// Panics if an input violates it.
pub type Property = fn(&[u8]);

/// The name of each target, and its property.
pub const TARGETS: &[(&str, Property)] = &[
    ("access_log", access_log),
    ("allocations", allocations),
    ("client_hello", client_hello),
    ("documents", documents),
    ("manifests", manifests),
    ("pem", pem),
    ("postgres_startup", postgres_startup),
    ("probe_response", probe_response),
    ("proxy_header", proxy_header),
    ("takeover", takeover),
];

/// The maximum length of the message about one problem, in bytes.
const MAX_MESSAGE: usize = 8 * 1024;

/// The CPU time of this thread. Unlike wall-clock time, it does not depend on other load of the machine.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Translates a world, and checks the invariants of every world: the result is deterministic, a second translation
/// changes nothing, no two listeners share an address, and problems are short printable sentences.
fn checked_translation(world: &World, previous: &Snapshot, now: jiff::Timestamp) -> Snapshot {
    let (snapshot, verdicts) = translate(world, previous, now);
    let (again, verdicts_again) = translate(world, previous, now);
    assert!(snapshot.configures_the_same(&again), "two translations of one world differ");
    assert_eq!(printed(&verdicts), printed(&verdicts_again), "two translations of one world differ in their problems");
    let (stable, _) = translate(world, &snapshot, now);
    assert!(stable.configures_the_same(&snapshot), "translating the same world again changes the snapshot");
    assert_eq!(stable.generation, snapshot.generation, "an unchanged snapshot has a new generation");
    for (key, listener) in &snapshot.listeners {
        let others = snapshot.listeners.iter().filter(|(other, _)| *other != key);
        assert!(
            others.map(|(_, other)| other.bind).all(|bind| bind != listener.bind),
            "two listeners on {}",
            listener.bind
        );
        assert!(snapshot.upstreams.contains_key(&listener.upstream), "{key} has no upstream");
    }
    for text in verdicts.values().flat_map(|verdict| &verdict.problems).map(ToString::to_string) {
        check_message(&text);
    }
    snapshot
}

/// A message is short; its output is printable.
fn check_message(text: &str) {
    assert!(!text.is_empty() && text.len() <= MAX_MESSAGE, "a message of {} bytes", text.len());
    let shown = printable(text, MAX_MESSAGE);
    assert!(shown.chars().all(is_visible), "shown as {shown:?}");
}

fn printed(verdicts: &Verdicts) -> String {
    let mut text = String::new();
    for (key, verdict) in verdicts {
        writeln!(text, "{key}: {verdict:?}").expect("writing to memory does not fail");
    }
    text
}
