//! The replicas: readiness, versions, leader and proxy ports.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::coordination::v1::Lease;

use crate::{
    api::Placement,
    kubectl::doctor::{
        document::{CheckName, CheckResult, count},
        facts::{DoctorFacts, InstallationFacts, ReplicaFacts},
        workload::WorkloadFacts,
    },
    model::{ListenerOutcome, ObjectKey},
    world::{Allocation, Allocations},
};

/// A Lease that was renewed longer ago than its duration has no leader.
const DEFAULT_LEASE_SECONDS: i32 = 15;
/// The maximum number of problems of a process in the results.
const MAX_PROBLEMS: usize = 10;
const NO_LEADER: &str = "no replica is the leader: see the log of the replicas";

pub fn replicas(facts: &InstallationFacts, _: &DoctorFacts) -> Vec<CheckResult> {
    let found = match &facts.replicas {
        Err(error) => return vec![CheckResult::error(CheckName::Replicas, format!("no replicas are known: {error}"))],
        Ok(found) => found,
    };
    let incomplete = facts.workloads.iter().filter_map(missing_replicas);
    let mut results: Vec<_> = incomplete.chain(found.iter().flat_map(problems)).collect();
    if results.is_empty() {
        results.push(all_ready(found));
    }
    results.extend(facts.other_pods.iter().take(MAX_PROBLEMS).map(not_a_replica));
    results
}

fn all_ready(found: &[ReplicaFacts]) -> CheckResult {
    if found.is_empty() {
        let text = "no replica was found: install the chart, or set --selector and --install-namespace";
        return CheckResult::error(CheckName::Replicas, text);
    }
    let nodes: BTreeSet<_> = found.iter().filter_map(|replica| replica.pod.node.as_deref()).collect();
    let text = format!("ready: {} on {}", count(found.len(), "replica"), count(nodes.len(), "node"));
    CheckResult::ok(CheckName::Replicas, text)
}

fn not_a_replica(pod: &ObjectKey) -> CheckResult {
    let text = "the pod has the labels of a replica, but is ignored: no ClusterRoleBinding with these labels names a \
                service account of its namespace; if it is a replica, set --install-namespace \
                to its namespace";
    CheckResult::warning(CheckName::Replicas, text).about(pod)
}

fn missing_replicas(workload: &WorkloadFacts) -> Option<CheckResult> {
    let WorkloadFacts { kind, key, desired, existing } = workload;
    if existing >= desired {
        return None;
    }
    let text = format!("{existing} of {} exist: see the Events of {kind} {key}", count(*desired, "replica"));
    Some(CheckResult::error(CheckName::Replicas, text))
}

fn problems(replica: &ReplicaFacts) -> Vec<CheckResult> {
    let pod = &replica.pod;
    let sentences = match &replica.pages {
        _ if pod.is_terminating => {
            return vec![CheckResult::warning(CheckName::Replicas, "the pod is terminating").about(&pod.key)];
        }
        _ if !pod.ready => vec!["the pod is not ready: see its events and log".into()],
        Err(error) => vec![error.to_string()],
        Ok(pages) => limited(&pages.picture.problems),
    };
    let results = sentences.into_iter().map(|sentence| CheckResult::error(CheckName::Replicas, sentence));
    results.map(|result| result.about(&pod.key)).collect()
}

/// The first problems of a process, and the number of further ones.
fn limited(problems: &[String]) -> Vec<String> {
    let more = problems.len().saturating_sub(MAX_PROBLEMS);
    let further = (more > 0).then(|| format!("{more} more problems: see its admin page"));
    problems.iter().take(MAX_PROBLEMS).cloned().chain(further).collect()
}

pub fn versions(facts: &InstallationFacts, _: &DoctorFacts) -> Vec<CheckResult> {
    let own = env!("CARGO_PKG_VERSION");
    let of = |replica: &ReplicaFacts| replica.metrics.as_ref()?.version.clone();
    let versions: BTreeSet<String> = facts.replicas().iter().filter_map(of).collect();
    let list = versions.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    vec![match versions.len() {
        0 => return Vec::new(),
        1 if versions.contains(own) => {
            CheckResult::ok(CheckName::Versions, format!("all replicas and this program have version {own}"))
        }
        1 => {
            let text = format!("the replicas have version {list}, and this program {own}: use the same version");
            CheckResult::warning(CheckName::Versions, text)
        }
        _ => {
            let text = format!("the replicas have versions {list}: wait for the end of the rollout");
            CheckResult::warning(CheckName::Versions, text)
        }
    }]
}

pub fn lease(facts: &InstallationFacts, all: &DoctorFacts) -> Vec<CheckResult> {
    let results = facts.leases.iter().map(|(key, lease)| {
        let result = match lease {
            Err(error) => CheckResult::warning(CheckName::Lease, format!("the Lease is not checked: {error}")),
            Ok(None) => CheckResult::error(
                CheckName::Lease,
                "the Lease does not exist, so no replica writes statuses and ports: see the log of the replicas",
            ),
            Ok(Some(lease)) => of_lease(lease, key, facts, all),
        };
        result.about(key)
    });
    results.collect()
}

fn of_lease(lease: &Lease, key: &ObjectKey, facts: &InstallationFacts, all: &DoctorFacts) -> CheckResult {
    let spec = lease.spec.clone().unwrap_or_default();
    let holder = spec.holder_identity.unwrap_or_default();
    let duration = i64::from(spec.lease_duration_seconds.unwrap_or(DEFAULT_LEASE_SECONDS));
    let age = spec.renew_time.map(|renewed| all.server_time().duration_since(renewed.0).as_secs());
    let is_replica = facts
        .replicas()
        .iter()
        .any(|replica| *replica.pod.key.name == *holder && replica.pod.key.namespace == key.namespace);
    match age {
        _ if holder.is_empty() || has_no_leader(key, facts) => CheckResult::error(CheckName::Lease, NO_LEADER),
        // Twice, because the clocks of the API server and of the leader may differ.
        Some(age) if age > 2 * duration => {
            let text = format!(
                "the leader {holder} last renewed the Lease {age} s ago, but it is valid for {duration} s only: see the \
                 log of the replicas"
            );
            CheckResult::error(CheckName::Lease, text)
        }
        _ if !is_replica => {
            let text = format!(
                "the leader {holder} is not one of the replicas found: wait until the Lease expires, or correct --selector"
            );
            CheckResult::warning(CheckName::Lease, text)
        }
        _ => CheckResult::ok(CheckName::Lease, format!("{holder} is the leader")),
    }
}

/// True if all replicas with this Lease report that they do not lead. They know it earlier than the Lease shows it.
fn has_no_leader(lease: &ObjectKey, facts: &InstallationFacts) -> bool {
    let candidates = facts.replicas().iter().filter(|replica| {
        let pod = &replica.pod;
        pod.key.sibling(&pod.settings.lease) == *lease
    });
    let leads = |replica: &ReplicaFacts| Some(replica.pages.as_ref().ok()?.picture.process.as_ref()?.leads);
    let mut candidates = candidates.map(leads).peekable();
    candidates.peek().is_some() && candidates.all(|leads| leads == Some(false))
}

/// Compares the allocated ports with the ports that each replica has open, except for terminating replicas.
pub fn proxy_ports(facts: &InstallationFacts, _: &DoctorFacts) -> Vec<CheckResult> {
    let results = facts.allocations.iter().flat_map(|(key, allocations)| match allocations {
        Err(error) => {
            let text = format!("the allocated ports are not checked: {error}");
            vec![CheckResult::warning(CheckName::ProxyPorts, text).about(key)]
        }
        Ok(None) => {
            let text = "the ConfigMap of ports does not exist: the leader creates it with the first load balancer";
            vec![CheckResult::ok(CheckName::ProxyPorts, text).about(key)]
        }
        Ok(Some(allocations)) => of_allocations(key, allocations, facts),
    });
    results.collect()
}

fn of_allocations(key: &ObjectKey, allocations: &Allocations, facts: &InstallationFacts) -> Vec<CheckResult> {
    let known: BTreeMap<_, _> =
        facts.load_balancers().iter().filter_map(|object| Some((object.metadata.uid.as_deref()?, object))).collect();
    // The allocations of removed load balancers are released soon.
    let used: Vec<(u16, &Allocation)> = allocations
        .0
        .iter()
        .filter(|(_, allocation)| allocation.freed.is_none() && known.contains_key(&*allocation.uid))
        .map(|(port, allocation)| (*port, allocation))
        .collect();
    let mut results = Vec::new();
    let mut replicas = 0;
    for (pod, pages) in facts.accepting() {
        if pod.settings.placement != Placement::Gateway || pod.key.sibling(&pod.settings.allocations) != *key {
            continue;
        }
        replicas += 1;
        for (port, allocation) in &used {
            let served = pages.report.load_balancers.get(&allocation.uid);
            let listener = served.and_then(|served| served.listeners.get(&allocation.port));
            let problem = match listener {
                Some(ListenerOutcome::Bound(bound)) if bound == port => continue,
                Some(ListenerOutcome::Bound(bound)) => format!("port {bound} is open instead"),
                Some(ListenerOutcome::Failed(sentence)) => sentence.clone(),
                None => "the replica does not serve the listener".into(),
            };
            let text = format!("proxy port {port} of {}:{} is not open: {problem}", allocation.object, allocation.port);
            results.push(CheckResult::error(CheckName::ProxyPorts, text).about(&pod.key));
        }
    }
    if results.is_empty() {
        let text = format!("open in {}: {}", count(replicas, "replica"), count(used.len(), "allocated port"));
        results.push(CheckResult::ok(CheckName::ProxyPorts, text).about(key));
    }
    results
}
