//! The status of each load balancer, from verdicts, reports and Services. Pure.

mod accepted;
mod addresses;
mod backends;
mod certificates;
mod client_address;
mod deferral;
mod finding;
mod input;
mod programmed;
mod ready;
mod reason;
mod steady;
#[cfg(test)]
mod tests;
mod types;

use std::collections::BTreeMap;

use jiff::Timestamp;

use self::{
    finding::Finding,
    input::{ControllerState, StatusInput},
    reason::ConditionReason,
    types::{CERTIFICATES_VALID, RESOLVED_REFS},
};
pub use self::{
    reason::is_waiting,
    steady::steady,
    types::{ACCEPTED, BACKENDS_HEALTHY, CLIENT_ADDRESS_PRESERVED, PROGRAMMED, is_summary},
};
use super::{
    observed::{Observed, ProvisioningProblems},
    replicas::Replicas,
    services,
    settings::Settings,
};
use crate::{
    api::{Address, BackendStatus, ListenerStatus, Placement, Summary, TcpLoadBalancerStatus},
    model::ObjectKey,
    world::Declared,
};

/// The statuses of load balancers.
pub struct Statuses {
    pub statuses: BTreeMap<ObjectKey, TcpLoadBalancerStatus>,
    /// The time at which one of them has to report a fault that is pending now.
    pub report_at: Option<Timestamp>,
}

/// The status of each load balancer of the class, including those in sidecars, as if it were new: see [`fn@steady`].
/// `problems` has the reasons why ports and Services are not as desired.
pub fn statuses(
    observed: &Observed,
    replicas: &Replicas,
    problems: &ProvisioningProblems,
    settings: &Settings,
    now: Timestamp,
) -> Statuses {
    let state = ControllerState {
        managed: &services::managed(&observed.world, settings),
        problems,
        replicas,
        replicas_are_unknown: !observed.world.services.contains_key(&settings.replicas),
        settings,
        now,
    };
    let mut report_at = None;
    let status = |(object, declared): (&ObjectKey, &Declared)| {
        let input = StatusInput::new(object, declared, observed.verdicts.get(object)?, &state)?;
        let (status, deferred_until) = status(&input);
        report_at = report_at.into_iter().chain(deferred_until).min();
        Some((object.clone(), status))
    };
    let statuses = observed.world.load_balancers.iter().filter_map(status).collect();
    Statuses { statuses, report_at }
}

/// The status, and the time at which it has to report a fault that is pending now.
fn status(input: &StatusInput) -> (TcpLoadBalancerStatus, Option<Timestamp>) {
    let mut conditions = vec![(ACCEPTED, accepted::accepted(input)), (RESOLVED_REFS, accepted::resolved_refs(input))];
    let (mut addresses, mut listeners, mut backends) = (Vec::new(), Vec::new(), Vec::new());
    if input.placement() == Placement::Sidecar {
        conditions.push((PROGRAMMED, programmed::in_pods()));
    } else {
        addresses = addresses::addresses(input);
        backends = backends::backends(input);
        let found = programmed::listeners(input);
        conditions.push((PROGRAMMED, programmed::programmed(input, &found, &addresses)));
        conditions.push((BACKENDS_HEALTHY, backends::healthy(input, &backends)));
        conditions.extend(certificates::valid(input).map(|finding| (CERTIFICATES_VALID, finding)));
        conditions.push((CLIENT_ADDRESS_PRESERVED, client_address::preserved(input)));
        listeners = programmed::statuses(input, found);
    }
    let report_at = conditions.iter().filter_map(|(_, finding)| finding.report_at).min();
    let summary = summary(input, &conditions, &addresses, &listeners, &backends);
    conditions.splice(..0, ready::summarised(&conditions));
    let status = TcpLoadBalancerStatus {
        observed_generation: Some(input.identity.generation),
        summary: Some(summary),
        addresses,
        listeners,
        backends,
        conditions: conditions.into_iter().map(|(type_, finding)| finding.condition(type_, input)).collect(),
    };
    (status, report_at)
}

/// The columns that `kubectl get` prints.
fn summary(
    input: &StatusInput,
    conditions: &[(&'static str, Finding)],
    addresses: &[Address],
    listeners: &[ListenerStatus],
    backends: &[BackendStatus],
) -> Summary {
    let with_node_port = |port: u16| {
        let node_port = listeners.iter().find(|listener| listener.port == port).and_then(|listener| listener.node_port);
        node_port.map_or_else(|| port.to_string(), |node_port| format!("{port}:{node_port}"))
    };
    let ports = input.ports().into_iter().map(with_node_port).collect::<Vec<_>>().join(",");
    let sum = |count: fn(&BackendStatus) -> u32| backends.iter().map(count).sum::<u32>();
    let ready = format!("{}/{}", sum(|backend| backend.healthy), sum(|backend| backend.endpoints));
    let in_sidecars = input.placement() == Placement::Sidecar;
    let good = if in_sidecars { ConditionReason::ServedInPods } else { ConditionReason::Programmed };
    Summary {
        ports: (!ports.is_empty()).then_some(ports),
        address: addresses.first().map(|address| address.value.clone()),
        ready: (!in_sidecars).then_some(ready),
        status: Some(ready::first_fault(conditions).map_or(good, |(_, fault)| fault.reason).as_str().to_owned()),
    }
}
