//! Limits of the hosts of replicas, as replicas see them.

use std::collections::BTreeSet;

use crate::{
    api::Placement,
    kubectl::doctor::{
        document::{CheckName, CheckResult, count, or_ok},
        facts::{DoctorFacts, InstallationFacts},
    },
    model::{HostLimits, ListenerOutcome, ReplicaReport},
};

/// The used percentage of a limit from which it is a warning.
const MUCH: u64 = 80;
/// The used percentage of a limit from which it is an error.
const ALMOST_ALL: u64 = 95;
/// The difference of two clocks, in seconds, from which it is a warning. Answers take time, and their times have no
/// fractions.
const CLOCK_DIFFERS: i64 = 5;
/// The difference of two clocks, in seconds, from which it is an error.
const CLOCK_WRONG: i64 = 60;

/// Checks that the kernel assigns no port of a listener to an outgoing connection.
pub fn local_ports(facts: &InstallationFacts, _: &DoctorFacts) -> Vec<CheckResult> {
    let (mut results, mut known) = (Vec::new(), 0);
    for (pod, pages) in facts.readable() {
        let Some(host) = &pages.picture.host else { continue };
        let Some((first, last)) = host.local_ports else { continue };
        known += 1;
        let assigned = |port: &u16| (first..=last).contains(port) && !is_reserved(host, *port);
        let overlap = match pod.settings.placement {
            Placement::Host => {
                open_ports(&pages.report).into_iter().find(assigned).map(|port| format!("the open port {port}"))
            }
            Placement::Gateway | Placement::Sidecar => {
                let ports = &pod.settings.ports;
                let overlaps = ports.clone().any(|port| assigned(&port));
                overlaps.then(|| format!("the proxy ports {}-{}", ports.start(), ports.end()))
            }
        };
        if let Some(overlap) = overlap {
            let text = format!(
                "{overlap} can be taken by outgoing connections, because net.ipv4.ip_local_port_range is {first}-{last}: \
                 use other ports, change the range, or reserve all such ports in net.ipv4.ip_local_reserved_ports"
            );
            results.push(CheckResult::warning(CheckName::LocalPorts, text).about(&pod.key));
        }
    }
    let ok = || {
        format!(
            "the ports of listeners are outside of the local port range, or reserved, in {}",
            count(known, "replica")
        )
    };
    or_ok(results, CheckName::LocalPorts, known, ok)
}

fn is_reserved(host: &HostLimits, port: u16) -> bool {
    host.reserved_ports.iter().any(|(first, last)| (*first..=*last).contains(&port))
}

fn open_ports(report: &ReplicaReport) -> BTreeSet<u16> {
    let outcomes = report.load_balancers.values().flat_map(|served| served.listeners.values());
    let bound = outcomes.filter_map(|outcome| match outcome {
        ListenerOutcome::Bound(port) => Some(*port),
        ListenerOutcome::Failed(_) => None,
    });
    bound.collect()
}

/// Compares the open connections with the number that file descriptors allow.
pub fn connections(facts: &InstallationFacts, _: &DoctorFacts) -> Vec<CheckResult> {
    let (mut results, mut known) = (Vec::new(), 0);
    // A terminating replica gets no new connections.
    for replica in facts.replicas().iter().filter(|replica| !replica.pod.is_terminating) {
        let Some(metrics) = &replica.metrics else { continue };
        let Some(limit) = metrics.connections_limit else { continue };
        known += 1;
        let active = metrics.connections_active;
        let text = format!(
            "{active} of the {limit} connections that file descriptors allow are open: raise the hard limit of file \
             descriptors, or add replicas"
        );
        results
            .extend(of_limit(CheckName::Connections, active, limit, text).map(|result| result.about(&replica.pod.key)));
    }
    let ok = || format!("file descriptors allow more connections in {}", count(known, "replica"));
    or_ok(results, CheckName::Connections, known, ok)
}

pub fn conntrack(facts: &InstallationFacts, _: &DoctorFacts) -> Vec<CheckResult> {
    let (mut results, mut known) = (Vec::new(), 0);
    for (pod, pages) in facts.readable() {
        let Some(host) = &pages.picture.host else { continue };
        let (Some(entries), Some(max)) = (host.conntrack_entries, host.conntrack_max) else { continue };
        known += 1;
        let text = format!(
            "{entries} of {max} entries of the connection tracking table are used; the kernel drops new connections \
             when it is full: raise net.netfilter.nf_conntrack_max"
        );
        results.extend(of_limit(CheckName::Conntrack, entries, max, text).map(|result| result.about(&pod.key)));
    }
    if known == 0 && facts.readable().next().is_some() {
        let text = "the connection tracking table is not visible in the pods: watch it on the nodes";
        return vec![CheckResult::ok(CheckName::Conntrack, text)];
    }
    let ok = || format!("the connection tracking table has free entries in {}", count(known, "replica"));
    or_ok(results, CheckName::Conntrack, known, ok)
}

fn of_limit(check: CheckName, used: u64, limit: u64, text: String) -> Option<CheckResult> {
    let percent = used.saturating_mul(100) / limit.max(1);
    match percent {
        ALMOST_ALL.. => Some(CheckResult::error(check, text)),
        MUCH.. => Some(CheckResult::warning(check, text)),
        _ => None,
    }
}

/// Compares the clocks of replicas with that of the API server.
pub fn clock(facts: &InstallationFacts, all: &DoctorFacts) -> Vec<CheckResult> {
    let server = all.server.as_ref().ok().and_then(|server| server.clock_offset);
    let Some(server) = server else { return Vec::new() };
    let (mut results, mut known) = (Vec::new(), 0);
    for replica in facts.replicas() {
        let Some(offset) = replica.clock_offset else { continue };
        known += 1;
        let seconds = (offset - server).as_secs();
        let direction = if seconds < 0 { "behind" } else { "ahead of" };
        let text = format!(
            "the clock of its node is {} s {direction} that of the API server, so certificates seem to expire or become \
             valid at other times: synchronise the clocks",
            seconds.abs()
        );
        match seconds.abs() {
            CLOCK_WRONG.. => results.push(CheckResult::error(CheckName::Clock, text).about(&replica.pod.key)),
            CLOCK_DIFFERS.. => results.push(CheckResult::warning(CheckName::Clock, text).about(&replica.pod.key)),
            _ => {}
        }
    }
    let ok = || format!("the clocks of {} and the API server agree within {CLOCK_DIFFERS} s", count(known, "replica"));
    or_ok(results, CheckName::Clock, known, ok)
}
