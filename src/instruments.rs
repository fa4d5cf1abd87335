//! Metrics of the control plane, and the leader's view of the replicas. The control plane updates them, and
//! [`metrics`](crate::metrics) and the admin page read them.

mod label_values;
mod watches;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use imbl::OrdMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use self::label_values::label_values;
pub use self::watches::{RunningWatch, WatchFailure, WatchInstruments};
use crate::{
    api::TcpLoadBalancerStatus,
    model::{ObjectKey, ReplicaReport, TrafficByReplica},
    shared::SharedObject,
};

/// Upper bounds for durations of calculations, in seconds.
const CALCULATION_BUCKETS: [f64; 10] = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];
/// Upper bounds for durations of DNS lookups, in seconds. Lookups have a time limit of 5 s.
const LOOKUP_BUCKETS: [f64; 8] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// The metrics of the control plane of this process.
#[derive(Debug)]
pub struct Instruments {
    pub translate_duration: Histogram,
    /// Of reconciliations by the leader.
    pub reconcile_duration: Histogram,
    pub name_lookups: Family<LookupLabels, Counter>,
    pub name_lookup_duration: Histogram,
    pub api_writes: Family<ApiWriteLabels, Counter>,
    pub watches: Arc<WatchInstruments>,
    /// 1 while this replica leads, otherwise 0.
    pub leader: Family<LeaseLabels, Gauge>,
    /// Reused translations that differed from a full one.
    pub mismatches: Counter,
    leader_view: Mutex<Option<Arc<LeaderView>>>,
    /// The channel of requests for traffic to the leader.
    traffic_requests: Mutex<Option<mpsc::Sender<TrafficRequest>>>,
    leader_name: Mutex<Option<Arc<str>>>,
    /// True if this replica takes part in an election.
    is_candidate: AtomicBool,
}

impl Default for Instruments {
    fn default() -> Self {
        Self {
            translate_duration: Histogram::new(CALCULATION_BUCKETS),
            reconcile_duration: Histogram::new(CALCULATION_BUCKETS),
            name_lookups: Family::default(),
            name_lookup_duration: Histogram::new(LOOKUP_BUCKETS),
            api_writes: Family::default(),
            watches: Arc::default(),
            leader: Family::default(),
            mismatches: Counter::default(),
            leader_view: Mutex::default(),
            traffic_requests: Mutex::default(),
            leader_name: Mutex::default(),
            is_candidate: AtomicBool::default(),
        }
    }
}

impl Instruments {
    pub fn count_lookup(&self, result: LookupResult, duration: Duration) {
        self.name_lookups.get_or_create(&LookupLabels { result }).inc();
        self.name_lookup_duration.observe(duration.as_secs_f64());
    }

    pub fn count_write(&self, resource: WriteTarget, result: WriteResult) {
        self.api_writes.get_or_create(&ApiWriteLabels { resource, result }).inc();
    }

    /// Adds the gauge of a replica that takes part in the election, with the value 0.
    pub fn stand_for_election(&self, lease: &str) {
        self.leader.get_or_create(&LeaseLabels::of(lease)).set(0);
        self.is_candidate.store(true, Relaxed);
    }

    /// Records that this replica leads, until the result is dropped.
    pub fn lead(self: &Arc<Self>, lease: &str) -> LeaderInstruments {
        let lease = LeaseLabels::of(lease);
        self.leader.get_or_create(&lease).set(1);
        LeaderInstruments { instruments: self.clone(), lease }
    }

    /// The view of the leader, if this replica leads.
    pub fn leader_view(&self) -> Option<Arc<LeaderView>> {
        self.locked_view().clone()
    }

    /// The traffic of the other replicas. `None`: this replica does not lead, or its control threads do not answer.
    pub async fn replica_traffic(&self) -> Option<Arc<TrafficByReplica>> {
        let requests = self.locked_requests().clone()?;
        let traffic = async {
            let (request, answer) = oneshot::channel();
            requests.send(request).await.ok()?;
            answer.await.ok()
        };
        timeout(TRAFFIC_TIMEOUT, traffic).await.ok()?
    }

    /// The pod that holds the Lease, as it was last read. `None`: unknown, or there is none.
    pub fn leader_name(&self) -> Option<Arc<str>> {
        self.leader_name.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// True if this replica takes part in an election and knows of no leader.
    pub fn lacks_leader(&self) -> bool {
        self.is_candidate.load(Relaxed) && self.leader_name().is_none()
    }

    pub fn set_leader_name(&self, name: Option<&str>) {
        *self.leader_name.lock().unwrap_or_else(PoisonError::into_inner) = name.map(Into::into);
    }

    fn locked_view(&self) -> MutexGuard<'_, Option<Arc<LeaderView>>> {
        self.leader_view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn locked_requests(&self) -> MutexGuard<'_, Option<mpsc::Sender<TrafficRequest>>> {
        self.traffic_requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request for the traffic of the other replicas, to the leader.
pub type TrafficRequest = oneshot::Sender<Arc<TrafficByReplica>>;

/// The maximum number of waiting requests for the traffic of replicas.
const TRAFFIC_REQUESTS: usize = 16;
/// The time limit of such a request: the admin page appears without the other replicas when the control threads hang.
const TRAFFIC_TIMEOUT: Duration = Duration::from_secs(2);

/// Metrics that only the leader has.
#[derive(Debug)]
pub struct LeaderInstruments {
    instruments: Arc<Instruments>,
    lease: LeaseLabels,
}

impl LeaderInstruments {
    pub fn set_view(&self, view: LeaderView) {
        *self.instruments.locked_view() = Some(Arc::new(view));
    }

    /// Opens the channel of requests for the traffic of the other replicas. It replaces an earlier one.
    pub fn open_traffic_requests(&self) -> mpsc::Receiver<TrafficRequest> {
        let (sender, requests) = mpsc::channel(TRAFFIC_REQUESTS);
        *self.instruments.locked_requests() = Some(sender);
        requests
    }
}

impl Drop for LeaderInstruments {
    fn drop(&mut self) {
        self.instruments.leader.get_or_create(&self.lease).set(0);
        *self.instruments.locked_view() = None;
        *self.instruments.locked_requests() = None;
    }
}

/// The state of the cluster for the leader.
#[derive(Clone, Debug, Default)]
pub struct LeaderView {
    /// The desired statuses.
    pub statuses: OrdMap<ObjectKey, SharedObject<TcpLoadBalancerStatus>>,
    /// The use of the range of proxy ports. `None` without a range.
    pub ports: Option<PortCounts>,
    /// The name of the leader's own pod.
    pub own: Arc<str>,
    /// The ready replicas by the names of their pods, with their reports. `None`: a replica does not report.
    pub replicas: BTreeMap<Arc<str>, Option<Arc<ReplicaReport>>>,
    /// The pods of replicas that are not ready, without those that are terminating.
    pub unready: BTreeSet<Arc<str>>,
}

impl LeaderView {
    /// The conditions of a load balancer. Empty: they are not known.
    pub fn conditions_of(&self, object: &ObjectKey) -> &[Condition] {
        self.statuses.get(object).map_or(&[][..], |status| &status.conditions)
    }

    /// The number of ready replicas whose reports are known.
    pub fn replicas_reporting(&self) -> usize {
        self.replicas.values().flatten().count()
    }

    /// The number of ready replicas without a report.
    pub fn replicas_silent(&self) -> usize {
        self.replicas.len() - self.replicas_reporting()
    }
}

/// The number of proxy ports by their use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounts {
    pub allocated: usize,
    /// Freed ports that cannot be allocated yet.
    pub cooldown: usize,
    pub free: usize,
}

label_values! {
    /// The result of a DNS lookup.
    LookupResult {
        Found = "found",
        /// The name exists without addresses.
        Empty = "empty",
        Failed = "failed",
        Timeout = "timeout",
    }
}

label_values! {
    /// The objects that a controller writes.
    WriteTarget {
        Lease = "leases",
        /// The ConfigMap of port allocations.
        Allocations = "configmaps",
        Service = "services",
        Status = "tcploadbalancers/status",
        Event = "events",
    }
}

label_values! {
    /// The result of a write to the API server.
    WriteResult {
        Ok = "ok",
        /// Another writer was faster.
        Conflict = "conflict",
        Failed = "failed",
    }
}

impl WriteResult {
    /// The result of a write without conflicts.
    pub fn of<T, E>(result: &Result<T, E>) -> Self {
        if result.is_ok() { Self::Ok } else { Self::Failed }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LookupLabels {
    result: LookupResult,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ApiWriteLabels {
    resource: WriteTarget,
    result: WriteResult,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LeaseLabels {
    lease: String,
}

impl LeaseLabels {
    fn of(lease: &str) -> Self {
        Self { lease: lease.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn traffic_is_known_while_the_leader_answers() {
        let instruments = Arc::new(Instruments::default());
        assert_eq!(instruments.replica_traffic().await, None, "no leader");
        let term = instruments.lead("tcplb");
        let mut requests = term.open_traffic_requests();
        assert_eq!(instruments.replica_traffic().await, None, "the leader hangs");
        let traffic = Arc::new(TrafficByReplica::from([("pod".into(), Err("silent".into()))]));
        let answering = async {
            // The first one is of the request that was given up.
            for _ in 0..2 {
                let _ = requests.recv().await.unwrap().send(traffic.clone());
            }
        };
        let (answer, ()) = tokio::join!(instruments.replica_traffic(), answering);
        assert_eq!(answer.as_ref(), Some(&traffic));
        drop(requests);
        assert_eq!(instruments.replica_traffic().await, None, "the receiver of requests is gone");
        drop(term);
        assert_eq!(instruments.replica_traffic().await, None, "the term has ended");
    }

    #[test]
    fn metrics_of_the_leader_end_with_its_term() {
        let instruments = Arc::new(Instruments::default());
        instruments.stand_for_election("tcplb");
        let leader = |instruments: &Instruments| instruments.leader.get_or_create(&LeaseLabels::of("tcplb")).get();
        assert_eq!((leader(&instruments), instruments.leader_view().is_some()), (0, false));
        let term = instruments.lead("tcplb");
        term.set_view(LeaderView::default());
        assert_eq!((leader(&instruments), instruments.leader_view().is_some()), (1, true));
        drop(term);
        assert_eq!((leader(&instruments), instruments.leader_view().is_some()), (0, false));
    }

    #[test]
    fn only_a_candidate_lacks_a_leader() {
        let instruments = Instruments::default();
        assert!(!instruments.lacks_leader(), "there is no election");
        instruments.stand_for_election("tcplb");
        assert!(instruments.lacks_leader());
        instruments.set_leader_name(Some("tcplb-0"));
        assert!(!instruments.lacks_leader());
    }
}
