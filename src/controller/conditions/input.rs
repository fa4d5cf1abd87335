use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;

use super::{
    super::{
        observed::{self, Observed},
        replicas::Replicas,
        services,
        settings::Settings,
    },
    reason::ConditionReason,
    sources::StatusSources,
};
use crate::{
    api::{Listener, Placement, TcpLoadBalancerSpec, TcpLoadBalancerStatus},
    model::{ObjectKey, ReplicaReport, Served},
    translate::{Problem, Reason, Severity, Verdict},
    world::{ObjectIdentity, managed_service::ManagedService},
};

/// The input for the status of one load balancer.
pub struct StatusInput<'a> {
    pub object: &'a ObjectKey,
    /// `None`: no readable declaration is known.
    pub spec: Option<&'a TcpLoadBalancerSpec>,
    pub identity: &'a ObjectIdentity,
    pub verdict: &'a Verdict,
    /// The previous status.
    pub status_before: Option<&'a TcpLoadBalancerStatus>,
    /// The managed Service of the load balancer.
    pub service: Option<ManagedService<'a>>,
    /// The reason why its Service or a port is not as desired.
    pub problem: Option<&'a observed::ProvisioningProblem>,
    /// The state of the load balancer in each replica, by pod name.
    pub replicas: Vec<(&'a Arc<str>, ReplicaView<'a>)>,
    pub all_replicas: &'a Replicas,
    /// The Service by which replicas are found is missing.
    pub replicas_are_unknown: bool,
    pub settings: &'a Settings,
    pub now: Timestamp,
}

/// The state of a load balancer in one replica.
#[derive(Clone, Copy)]
pub enum ReplicaView<'a> {
    /// The replica has not reported for a while.
    Silent,
    /// The replica does not have the load balancer yet.
    Unaware,
    Serves(&'a Served),
}

/// The subject of a problem.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    Declaration,
    References,
    Ports,
    Backends,
    Certificates,
    /// The process that found the problem: each replica reports its own.
    Replica,
}

impl<'a> StatusInput<'a> {
    /// `None`: the object is unknown or not in an API server, or has another class or placement.
    pub fn new(
        object: &'a ObjectKey,
        sources: &'a StatusSources,
        settings: &'a Settings,
        now: Timestamp,
    ) -> Option<Self> {
        let StatusSources { observed: Observed { world, verdicts }, replicas: all_replicas, problems } = sources;
        let (declared, verdict) = (world.load_balancers.get(object)?, verdicts.get(object)?);
        let (spec, identity) = (declared.spec.as_deref(), declared.identity.as_ref()?);
        if spec.is_some_and(|spec| !settings.judges(spec.class(), spec.placement.unwrap_or_default())) {
            return None;
        }
        let view = |report: &'a Option<Arc<ReplicaReport>>| match report {
            None => ReplicaView::Silent,
            Some(report) => {
                let served = report.load_balancers.get(&*identity.uid);
                served.map_or(ReplicaView::Unaware, |served| ReplicaView::Serves(served))
            }
        };
        let replicas = all_replicas.iter().map(|(pod, replica)| (pod, view(&replica.report))).collect();
        Some(Self {
            object,
            spec,
            identity,
            verdict,
            status_before: declared.status.as_deref(),
            service: services::managed_service(world, settings, object),
            problem: problems.get(object),
            replicas,
            all_replicas,
            replicas_are_unknown: !world.services.contains_key(&settings.replicas),
            settings,
            now,
        })
    }

    pub fn placement(&self) -> Placement {
        self.spec.and_then(|spec| spec.placement).unwrap_or(self.settings.placement)
    }

    /// The declared listeners, each port once.
    pub fn listeners(&self) -> Vec<(usize, &'a Listener)> {
        let mut ports = BTreeSet::new();
        let declared = self.spec.map_or(&[][..], |spec| &spec.listeners).iter().enumerate();
        declared.filter(|(_, listener)| ports.insert(listener.port)).collect()
    }

    /// The ports that clients connect to. Without a readable declaration, the ports that replicas serve.
    pub fn ports(&self) -> Vec<u16> {
        match self.spec {
            Some(_) => self.listeners().into_iter().map(|(_, listener)| listener.port).collect(),
            None => {
                let ports: BTreeSet<u16> =
                    self.served().flat_map(|(_, served)| served.listeners.keys().copied()).collect();
                ports.into_iter().collect()
            }
        }
    }

    /// The state of the load balancer in the replicas that serve it.
    pub fn served(&self) -> impl Iterator<Item = (&'a Arc<str>, &'a Served)> {
        self.replicas.iter().filter_map(|(pod, view)| match view {
            ReplicaView::Serves(served) => Some((*pod, *served)),
            ReplicaView::Silent | ReplicaView::Unaware => None,
        })
    }

    /// True if every ready replica has acted on this generation.
    pub fn is_known_everywhere(&self) -> bool {
        let knows = |view: &ReplicaView| match view {
            ReplicaView::Serves(served) => served.generation >= self.identity.generation,
            ReplicaView::Silent | ReplicaView::Unaware => false,
        };
        !self.replicas.is_empty() && self.replicas.iter().all(|(_, view)| knows(view))
    }

    /// The values that replicas report, each with its pods as a suffix for a sentence. The suffix is empty if all
    /// replicas report the value.
    pub fn reported_by_pods<T: Ord + 'a>(
        &self,
        values: impl Fn(&'a Served) -> &'a BTreeSet<T>,
    ) -> impl Iterator<Item = (&'a T, String)> {
        let mut pods: BTreeMap<&T, Vec<&str>> = BTreeMap::new();
        for (pod, served) in self.served() {
            for one in values(served) {
                pods.entry(one).or_default().push(pod);
            }
        }
        pods.into_iter().map(|(one, pods)| (one, self.on_pods(&pods)))
    }

    /// A suffix for a sentence that names these pods; empty if no other pod serves the load balancer.
    pub fn on_pods(&self, pods: &[&str]) -> String {
        if pods.len() == self.served().count() {
            return String::new();
        }
        format!(" on pod{} {}", if pods.len() == 1 { "" } else { "s" }, pods.join(", "))
    }

    pub fn problems(&self, topic: Topic, severity: Severity) -> impl Iterator<Item = &'a Problem> {
        let problems = self.verdict.problems.iter();
        problems.filter(move |problem| problem.severity == severity && topic_of(problem) == topic)
    }
}

fn topic_of(problem: &Problem) -> Topic {
    match (problem.reason, problem.severity) {
        (Reason::Invalid | Reason::NotPermitted | Reason::PortConflict, _) => Topic::Declaration,
        (Reason::RefNotFound | Reason::NameNotResolved | Reason::Unknown | Reason::AuthorityExpired, _) => {
            Topic::References
        }
        (Reason::InvalidCertificateRef, Severity::Refused) => Topic::References,
        // The certificate is still presented.
        (Reason::InvalidCertificateRef, Severity::Warning) | (Reason::CertificateExpired, _) => Topic::Certificates,
        (Reason::NoEndpoints | Reason::EndpointsPending | Reason::EndpointsNotReady, _) => Topic::Backends,
        (Reason::Pending, _) => Topic::Ports,
        (Reason::UnknownPlace, _) => Topic::Replica,
    }
}

/// The reason of a condition for the reason of a problem.
pub fn name_of(reason: Reason) -> ConditionReason {
    match reason {
        // The place of a replica refuses nothing.
        Reason::Invalid | Reason::UnknownPlace => ConditionReason::Invalid,
        // An unresolved name is a warning.
        Reason::RefNotFound | Reason::NameNotResolved | Reason::Unknown => ConditionReason::RefNotFound,
        Reason::InvalidCertificateRef => ConditionReason::InvalidCertificateRef,
        Reason::CertificateExpired | Reason::AuthorityExpired => ConditionReason::CertificateExpired,
        Reason::PortConflict => ConditionReason::PortConflict,
        Reason::NoEndpoints | Reason::EndpointsPending | Reason::EndpointsNotReady => ConditionReason::NoEndpoints,
        Reason::NotPermitted => ConditionReason::NotPermitted,
        Reason::Pending => ConditionReason::Pending,
    }
}
