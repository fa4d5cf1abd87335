//! Drains that are not complete when they are due.

use std::time::Duration;

use crate::{
    kubectl::{
        doctor::{
            document::{CheckName, CheckResult, count, or_ok},
            facts::{DoctorFacts, InstallationFacts},
        },
        replica::ReplicaPod,
    },
    model::{DRAIN_TOLERANCE, DrainView},
};

/// Compares the due times of drains with the clocks of the replicas. Terminating replicas are checked too.
pub fn drains(facts: &InstallationFacts, all: &DoctorFacts) -> Vec<CheckResult> {
    let (mut results, mut known) = (Vec::new(), 0);
    for (pod, pages) in facts.readable() {
        known += 1;
        let clock = pages.date.unwrap_or_else(|| all.server_time());
        let of_namespace = pages.picture.draining.iter().filter(|drain| is_of_namespace(drain, facts));
        results.extend(of_namespace.filter_map(|drain| {
            // Negative before the deadline.
            let delay = Duration::try_from(clock.duration_since(drain.until?)).ok()?;
            (drain.active > 0 && delay > DRAIN_TOLERANCE).then(|| late(drain, delay, pod))
        }));
    }
    let ok = || format!("no drain is late in {}", count(known, "replica"));
    or_ok(results, CheckName::Drains, known, ok)
}

fn is_of_namespace(drain: &DrainView, facts: &InstallationFacts) -> bool {
    let namespace = drain.load_balancer.split_once('/').map(|(namespace, _)| namespace);
    facts.namespace.is_none() || namespace == facts.namespace.as_deref()
}

fn late(drain: &DrainView, delay: Duration, pod: &ReplicaPod) -> CheckResult {
    let DrainView { load_balancer, what, reason, active, .. } = drain;
    // Listeners are named NAMESPACE/NAME:PORT.
    let resource = if what.contains('/') { "listener" } else { "endpoint" };
    let text = format!(
        "the drain of {resource} {what} ({reason}) should have ended {} s ago, but replica {} still has {} open: raise \
         maxPerSecond of the drain, or see the log of the replica",
        delay.as_secs(),
        pod.key,
        count(*active, "connection")
    );
    CheckResult::warning(CheckName::Drains, text).about(load_balancer)
}
