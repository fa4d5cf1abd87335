//! The checks: from facts to results. Pure.

mod cluster;
mod drains;
mod host;
mod listener_limits;
mod load_balancers;
mod replicas;

use super::{
    document::CheckResult,
    facts::{DoctorFacts, InstallationFacts},
};

/// A check of the replicas and load balancers of an installation.
type InstallationCheck = fn(&InstallationFacts, &DoctorFacts) -> Vec<CheckResult>;

const OF_INSTALLATION: [InstallationCheck; 14] = [
    replicas::replicas,
    replicas::versions,
    replicas::lease,
    replicas::proxy_ports,
    host::local_ports,
    host::connections,
    host::conntrack,
    host::clock,
    load_balancers::load_balancers,
    listener_limits::listener_limits,
    drains::drains,
    load_balancers::certificates,
    load_balancers::services,
    load_balancers::reachability,
];

/// The results of all checks. Without an API server there is only one.
pub fn results(facts: &DoctorFacts) -> Vec<CheckResult> {
    let mut results = vec![cluster::api(facts)];
    if facts.server.is_err() {
        return results;
    }
    results.extend([cluster::crd(facts)]);
    results.extend(cluster::permissions(facts));
    if let Some(installation) = &facts.installation {
        results.extend(OF_INSTALLATION.iter().flat_map(|check| check(installation, facts)));
    }
    results
}
