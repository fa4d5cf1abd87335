use std::{
    sync::{Arc, MutexGuard},
    time::Instant,
};

use super::{overview::Overview, query::PageQuery, replicas::ReplicaViews};
use crate::{
    admin::moment::{LiveListeners, Moment},
    model::{LoadBalancerTraffic, ObjectKey},
    proxy::Monitor,
    state::ReadinessState,
    traffic::{CounterSums, RateHistory, TrafficCounts},
    upstream::Endpoint,
};

/// The number of points of a sparkline.
pub const HISTORY: usize = 60;

/// A load balancer in a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TrafficKey {
    /// `None`: the sum of all.
    pub load_balancer: Option<ObjectKey>,
    /// `None`: the sum of all.
    pub replica: Option<Arc<str>>,
}

impl TrafficKey {
    /// The load balancer in all replicas.
    pub fn of(object: &ObjectKey) -> Self {
        Self { load_balancer: Some(object.clone()), replica: None }
    }

    /// The load balancer, or the sum of all, in one replica.
    pub fn in_replica(object: Option<&ObjectKey>, replica: &Arc<str>) -> Self {
        Self { load_balancer: object.cloned(), replica: Some(replica.clone()) }
    }

    /// The key, and those of the sums that contain it.
    fn with_sums(&self) -> [Self; 4] {
        let in_all_replicas = Self { replica: None, ..self.clone() };
        let of_replica = Self { load_balancer: None, ..self.clone() };
        [self.clone(), in_all_replicas, of_replica, Self::default()]
    }
}

/// The rates of the times at which the page was requested.
pub struct PageRates {
    sums: CounterSums<TrafficKey>,
    pub load_balancers: RateHistory<TrafficKey>,
    /// By the id of the endpoint.
    pub endpoints: RateHistory<u64>,
}

/// The input of all parts of the page.
pub struct PageParts<'a> {
    pub monitor: &'a Monitor,
    pub state: &'a ReadinessState,
    pub query: PageQuery,
    pub moment: &'a Moment,
    pub listeners: LiveListeners<'a>,
    pub replicas: ReplicaViews,
    pub rates: MutexGuard<'a, PageRates>,
}

impl Default for PageRates {
    fn default() -> Self {
        Self { sums: CounterSums::default(), load_balancers: RateHistory::new(HISTORY), endpoints: RateHistory::new(1) }
    }
}

impl<'a> PageParts<'a> {
    /// All load balancers, sorted by name. Adds an interval to the rates.
    pub fn overviews(&mut self) -> Vec<Overview<'a>> {
        let moment = self.moment;
        let verdicts = moment.configuration.verdicts.iter();
        let mut overviews: Vec<Overview> =
            verdicts.map(|verdict| Overview::of(verdict, moment, &self.listeners, &self.replicas)).collect();
        let own = &self.replicas.own;
        let counts = overviews.iter().flat_map(|overview| {
            let others = self.replicas.traffic_in_others(overview.verdict);
            others
                .chain([(own, &overview.own)])
                .map(|(replica, traffic)| (TrafficKey::in_replica(Some(overview.object), replica), counts_of(traffic)))
        });
        let (now, rates) = (Instant::now(), &mut *self.rates);
        rates.sums.add(counts, TrafficKey::with_sums);
        rates.load_balancers.sample(now, rates.sums.all());
        let endpoints = overviews.iter().filter_map(|overview| overview.upstream);
        let counts = endpoints.flat_map(|upstream| {
            let counts = |endpoint: &Arc<Endpoint>| {
                let connections = endpoint.connections();
                (endpoint.id(), TrafficCounts { connections, ..TrafficCounts::default() })
            };
            upstream.endpoints().iter().map(counts).collect::<Vec<_>>()
        });
        self.rates.endpoints.sample(now, counts);
        for overview in &mut overviews {
            overview.rates = self.rates.load_balancers.latest(&TrafficKey::of(overview.object));
        }
        overviews
    }
}

fn counts_of(traffic: &LoadBalancerTraffic) -> TrafficCounts {
    let LoadBalancerTraffic { connections, bytes, failures, active: _ } = *traffic;
    TrafficCounts { connections, bytes, failures }
}
