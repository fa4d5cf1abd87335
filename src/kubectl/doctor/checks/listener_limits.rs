//! Listeners that refuse connections because of their own limits.

use std::collections::BTreeMap;

use crate::{
    api::{Limits, TcpLoadBalancer},
    kubectl::doctor::{
        document::{CheckName, CheckResult, count, or_ok},
        facts::{DoctorFacts, InstallationFacts, key},
    },
    model::ListenerView,
};

/// The percentage of refused connections up to which a limit of the rate is no problem, as in the alert
/// TcplbConnectionsRefused.
const FEW: u64 = 1;

/// Compares the refusals and open connections of each listener with its limits.
pub fn listener_limits(facts: &InstallationFacts, _: &DoctorFacts) -> Vec<CheckResult> {
    let objects: BTreeMap<String, &TcpLoadBalancer> =
        facts.load_balancers().iter().map(|object| (key(object).to_string(), object)).collect();
    // The number of replicas, by load balancer, port and limit.
    let mut refusing: BTreeMap<(&str, u16, ReachedLimit), usize> = BTreeMap::new();
    let mut known = 0;
    for (_, pages) in facts.accepting() {
        known += 1;
        for shown in &pages.picture.load_balancers {
            let Some(object) = objects.get(&shown.name) else { continue };
            for view in &shown.listeners {
                let mut listeners = object.spec.listeners.iter();
                let declared = listeners.find(|listener| listener.port == view.port);
                let Some(limits) = declared.and_then(|listener| listener.limits.as_ref()) else { continue };
                for limit in reached_limits(view, limits) {
                    *refusing.entry((&*shown.name, view.port, limit)).or_default() += 1;
                }
            }
        }
    }
    let problems = refusing.into_iter().map(|((object, port, limit), replicas)| {
        let (reason, remedy) = limit.reason_and_remedy();
        let replicas = count(replicas, "replica");
        let text = format!("listener {port} refuses connections ({reason}) in {replicas}: {remedy}");
        CheckResult::warning(CheckName::ListenerLimits, text).about(object)
    });
    let ok = || format!("no listener refuses connections because of its limits in {}", count(known, "replica"));
    or_ok(problems.collect(), CheckName::ListenerLimits, known, ok)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ReachedLimit {
    /// `limits.maxConnections`
    Connections,
    /// `limits.newConnections`
    Rate,
}

impl ReachedLimit {
    /// The close reason of refused connections, and the remedy.
    fn reason_and_remedy(self) -> (&'static str, &'static str) {
        match self {
            Self::Connections => {
                ("listener_full", "raise limits.maxConnections, or find out why connections stay open")
            }
            Self::Rate => ("listener_rate", "raise limits.newConnections, or find out why clients reconnect"),
        }
    }
}

/// The limits that a listener has reached. Counters of refusals never decrease: a limit of open connections has to be
/// reached now, and a limit of the rate has to concern more than a few of all connections.
fn reached_limits<L>(view: &ListenerView<L>, limits: &Limits) -> Vec<ReachedLimit> {
    let refused = |limit: ReachedLimit| view.failures.get(limit.reason_and_remedy().0).copied().unwrap_or_default();
    let is_full = limits.max_connections.is_some_and(|limit| view.active >= u64::from(limit));
    let refuses_many = refused(ReachedLimit::Rate).saturating_mul(100) > view.accepted.saturating_mul(FEW);
    let mut reached = Vec::new();
    if is_full && refused(ReachedLimit::Connections) > 0 {
        reached.push(ReachedLimit::Connections);
    }
    if limits.new_connections.is_some() && refuses_many {
        reached.push(ReachedLimit::Rate);
    }
    reached
}

#[cfg(test)]
mod tests {
    use serde::de::IgnoredAny;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_limit_is_reached_if_it_refuses_connections_now() {
        use ReachedLimit::{Connections, Rate};
        let limits = json!({"maxConnections": 10, "newConnections": {"count": 5, "per": "1s"}});
        for (limits, active, failures, expected) in [
            (&limits, 10, json!({"listener_full": 1}), vec![Connections]),
            (&limits, 9, json!({"listener_full": 1}), vec![]),
            (&limits, 10, json!({}), vec![]),
            (&limits, 0, json!({"listener_rate": 11}), vec![Rate]),
            (&limits, 0, json!({"listener_rate": 10}), vec![]),
            (&limits, 10, json!({"listener_full": 1, "listener_rate": 11}), vec![Connections, Rate]),
            (&json!({}), 10, json!({"listener_full": 1, "listener_rate": 11}), vec![]),
        ] {
            let view = json!({
                "port": 5432, "active": active, "accepted": 1000, "failures": failures, "applied": null,
            });
            let view: ListenerView<IgnoredAny> = serde_json::from_value(view).unwrap();
            let limits: Limits = serde_json::from_value(limits.clone()).unwrap();
            assert_eq!(reached_limits(&view, &limits), expected, "{limits:?} {view:?}");
        }
    }
}
