//! Load balancers: conditions, certificates, Services and connections.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Service;

use crate::{
    api::{AddressType, Placement, TcpLoadBalancer},
    kubectl::{
        doctor::{
            document::{CheckName, CheckResult, count},
            facts::{AttemptOutcome, ConnectionAttempt, DoctorFacts, InstallationFacts, key},
        },
        replica::ReplicaPod,
    },
    world::managed_service,
};

/// Certificates that expire earlier are warnings, as in the condition CertificatesValid.
const SOON: SignedDuration = SignedDuration::from_hours(14 * 24);

/// The conditions of load balancers, in their own words.
pub fn load_balancers(facts: &InstallationFacts, _: &DoctorFacts) -> Vec<CheckResult> {
    let objects = match &facts.load_balancers {
        Err(error) => {
            let text = format!("the load balancers are not checked: {error}");
            return vec![CheckResult::warning(CheckName::LoadBalancers, text)];
        }
        Ok(objects) => objects,
    };
    let problems = objects.iter().filter_map(|object| {
        let result = condition(object, facts)?;
        Some(result.about(key(object)))
    });
    let problems: Vec<_> = problems.collect();
    if problems.is_empty() {
        let text = format!("ready: {}", count(objects.len(), "load balancer"));
        return vec![CheckResult::ok(CheckName::LoadBalancers, text)];
    }
    problems
}

fn condition(object: &TcpLoadBalancer, facts: &InstallationFacts) -> Option<CheckResult> {
    let conditions = object.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let placement = object.spec.placement.unwrap_or_default();
    let Some(ready) = conditions.iter().find(|condition| condition.type_ == "Ready") else {
        let class = object.spec.class();
        let is_served = facts.replicas().iter().any(|replica| replica.pod.serves(object));
        return Some(match placement {
            Placement::Sidecar => return None,
            _ if is_served => {
                let text = "the leader has not written a status yet: see its log";
                CheckResult::error(CheckName::LoadBalancers, text)
            }
            Placement::Gateway | Placement::Host => {
                let text = format!(
                    "no replica of class `{class}` and placement {placement:?} serves its namespace: correct \
                     spec.className or spec.placement, or change the release (chart: `class`, `host.enabled`, \
                     `watchNamespaces`)"
                );
                CheckResult::warning(CheckName::LoadBalancers, text)
            }
        });
    };
    let text = format!("{}: {}", ready.reason, ready.message);
    match ready.status.as_str() {
        "True" => None,
        "False" if !["Pending", "ServiceTerminating"].contains(&ready.reason.as_str()) => {
            Some(CheckResult::error(CheckName::LoadBalancers, text))
        }
        _ => Some(CheckResult::warning(CheckName::LoadBalancers, text)),
    }
}

/// The certificates that replicas present, judged by the clocks of the replicas.
pub fn certificates(facts: &InstallationFacts, all: &DoctorFacts) -> Vec<CheckResult> {
    let names: BTreeMap<&str, &TcpLoadBalancer> =
        facts.load_balancers().iter().filter_map(|object| Some((object.metadata.uid.as_deref()?, object))).collect();
    let mut found: BTreeMap<(String, &str), (Timestamp, Timestamp)> = BTreeMap::new();
    for (_, pages) in facts.accepting() {
        let clock = pages.date.unwrap_or_else(|| all.server_time());
        for (uid, served) in &pages.report.load_balancers {
            let Some(object) = names.get(&**uid) else { continue };
            for (source, expires) in served.certificates.iter().chain(&served.certificates_for_backends) {
                let entry = found.entry((key(object).to_string(), source)).or_insert((*expires, clock));
                if *expires < entry.0 {
                    *entry = (*expires, clock);
                }
            }
        }
    }
    let problems = found.iter().filter_map(|((object, source), (expires, clock))| {
        let result = if expires < clock {
            let text =
                format!("the certificate of {source} expired on {expires:.0}: replace it; it is still presented");
            CheckResult::error(CheckName::Certificates, text)
        } else if expires.duration_since(*clock) < SOON {
            let text = format!("the certificate of {source} is valid until {expires:.0}: replace it before then");
            CheckResult::warning(CheckName::Certificates, text)
        } else {
            return None;
        };
        Some(result.about(object))
    });
    let problems: Vec<_> = problems.collect();
    if problems.is_empty() && !found.is_empty() {
        let text = format!("valid for at least 14 days: {}", count(found.len(), "certificate"));
        return vec![CheckResult::ok(CheckName::Certificates, text)];
    }
    problems
}

/// The managed Services: existence, ports and addresses.
pub fn services(facts: &InstallationFacts, _: &DoctorFacts) -> Vec<CheckResult> {
    let services = match &facts.services {
        Err(error) => {
            return vec![CheckResult::warning(CheckName::Services, format!("the Services are not checked: {error}"))];
        }
        Ok(services) => services,
    };
    let (mut problems, mut checked) = (Vec::new(), 0);
    for object in facts.load_balancers() {
        let serving = facts.replicas().iter().map(|replica| &replica.pod).find(|pod| pod.serves(object));
        let Some(pod) = serving.filter(|pod| pod.settings.placement == Placement::Gateway) else { continue };
        // Without an allocated port, the condition Programmed has the reason.
        let listeners = object.status.iter().flat_map(|status| &status.listeners);
        let ports: BTreeMap<u16, u16> =
            listeners.filter_map(|listener| Some((listener.port, listener.bound_port?))).collect();
        if ports.is_empty() {
            continue;
        }
        checked += 1;
        problems.extend(of_service(object, pod, services, &ports).map(|result| result.about(key(object))));
    }
    if problems.is_empty() && checked > 0 {
        let text = format!("ports and addresses are those of the statuses: {}", count(checked, "managed Service"));
        return vec![CheckResult::ok(CheckName::Services, text)];
    }
    problems
}

fn of_service(
    object: &TcpLoadBalancer,
    pod: &ReplicaPod,
    services: &[Service],
    ports: &BTreeMap<u16, u16>,
) -> Option<CheckResult> {
    let name = managed_service::name(&key(object));
    let namespace = &*pod.key.namespace;
    let service = services.iter().find(|service| {
        service.metadata.name.as_deref() == Some(&name) && service.metadata.namespace.as_deref() == Some(namespace)
    });
    let Some(service) = service else {
        let text = format!("Service {namespace}/{name} does not exist: see the log of the leader");
        return Some(CheckResult::error(CheckName::Services, text));
    };
    let actual = managed_service::ports(service);
    if let Some((port, bound)) = ports.iter().find(|(port, bound)| actual.get(port) != Some(bound)) {
        let target = |target: &u16| format!("has the target port {target}");
        let leads = actual.get(port).map_or_else(|| "is missing".into(), target);
        let text = format!(
            "port {port} of Service {namespace}/{name} {leads}, but the proxy port is {bound}: see the log of the \
             leader"
        );
        return Some(CheckResult::error(CheckName::Services, text));
    }
    let addresses = addresses(service);
    let shown = object.status.iter().flat_map(|status| &status.addresses);
    let mut shown = shown.filter(|address| address.type_ == AddressType::IpAddress);
    let wrong = shown.find(|address| !addresses.contains(address.value.as_str()))?;
    let text = format!(
        "the status has the address {}, but Service {namespace}/{name} does not: see the log of the leader",
        wrong.value
    );
    Some(CheckResult::error(CheckName::Services, text))
}

/// The addresses in the cluster, and those that a cloud assigned.
fn addresses(service: &Service) -> BTreeSet<&str> {
    let internal = service.spec.iter().flat_map(|spec| spec.cluster_ips.iter().flatten());
    let balancer = service.status.iter().filter_map(|status| status.load_balancer.as_ref());
    let ingress = balancer.flat_map(|balancer| balancer.ingress.iter().flatten());
    internal.chain(ingress.filter_map(|ingress| ingress.ip.as_ref())).map(String::as_str).collect()
}

/// One real connection through each address.
pub fn reachability(facts: &InstallationFacts, _: &DoctorFacts) -> Vec<CheckResult> {
    let problems: Vec<_> =
        facts.attempts.iter().filter_map(|attempt| Some(of_attempt(attempt)?.about(&attempt.object))).collect();
    if !problems.is_empty() || facts.attempts.is_empty() {
        return problems;
    }
    let through = facts.attempts.iter().filter(|attempt| attempt.through_replica.is_some()).count();
    let how = match through {
        0 => String::new(),
        _ => format!(
            ", {through} of them only by port forwarding to a replica, which does not show whether an endpoint serves"
        ),
    };
    let text = format!("load balancers accept connections at {}{how}", addresses_count(facts.attempts.len()));
    vec![CheckResult::ok(CheckName::Reachability, text)]
}

fn addresses_count(number: usize) -> String {
    if number == 1 { "1 address".into() } else { format!("{number} addresses") }
}

fn of_attempt(attempt: &ConnectionAttempt) -> Option<CheckResult> {
    let ConnectionAttempt { address, is_internal, direct, through_replica, .. } = attempt;
    let closed = |place: &str| {
        format!(
            "a connection to {place} is accepted and closed at once: no endpoint is usable, or access lists refuse it; \
             the access log has the reason"
        )
    };
    let (text, is_error) = match (direct, through_replica) {
        (AttemptOutcome::Open, _) => return None,
        (AttemptOutcome::Closed, _) => (closed(address), true),
        (AttemptOutcome::Failed(_), Some((_, AttemptOutcome::Open))) if *is_internal => return None,
        (AttemptOutcome::Failed(error), Some((pod, AttemptOutcome::Open))) => {
            let text = format!(
                "{address} cannot be reached from here ({error}), but replica {pod} serves: check the network between \
                 this machine and the address"
            );
            (text, false)
        }
        (AttemptOutcome::Failed(_), Some((pod, AttemptOutcome::Closed))) => (closed(&format!("replica {pod}")), true),
        (AttemptOutcome::Failed(error), Some((pod, AttemptOutcome::Failed(other)))) => {
            let text = format!(
                "{address} cannot be reached ({error}), and neither can replica {pod} ({other}): see the log of the \
                 replica"
            );
            (text, true)
        }
        (AttemptOutcome::Failed(error), None) => {
            let text = format!(
                "{address} cannot be reached ({error}), and no replica has the port open: see `kubectl tcplb status`"
            );
            (text, true)
        }
    };
    let result = if is_error { CheckResult::error } else { CheckResult::warning };
    Some(result(CheckName::Reachability, text))
}
