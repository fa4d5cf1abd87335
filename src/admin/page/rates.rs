use std::sync::Arc;

use crate::{
    model::ObjectKey,
    traffic::{CounterSums, RateHistory},
};

/// The number of points of a sparkline.
pub const HISTORY: usize = 60;

/// The key of the counters of a load balancer in a replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReplicaCounter {
    pub replica: Arc<str>,
    pub load_balancer: ObjectKey,
}

/// The key of a sum of counters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TrafficSum {
    All,
    /// Of a load balancer in all replicas.
    LoadBalancer(ObjectKey),
    /// Of all load balancers in a replica.
    Replica(Arc<str>),
}

impl ReplicaCounter {
    /// The sums that contain the counter.
    pub fn sums(&self) -> [TrafficSum; 3] {
        let Self { replica, load_balancer } = self.clone();
        [TrafficSum::All, TrafficSum::LoadBalancer(load_balancer), TrafficSum::Replica(replica)]
    }
}

/// The rates of the times at which the page was requested.
pub struct PageRates {
    pub sums: CounterSums<ReplicaCounter, TrafficSum>,
    pub traffic: RateHistory<TrafficSum>,
    /// By the id of the endpoint.
    pub endpoints: RateHistory<u64>,
}

impl Default for PageRates {
    fn default() -> Self {
        Self { sums: CounterSums::default(), traffic: RateHistory::new(HISTORY), endpoints: RateHistory::new(1) }
    }
}
