use std::{
    collections::BTreeMap,
    sync::{Arc, MutexGuard},
    time::Instant,
};

use super::{
    overview::Overview,
    query::PageQuery,
    rates::{PageRates, ReplicaCounter, TrafficSum},
    replicas::ReplicaViews,
};
use crate::{
    admin::moment::{LiveListeners, Moment},
    model::LoadBalancerTraffic,
    proxy::Monitor,
    state::ReadinessState,
    traffic::TrafficCounts,
    upstream::Endpoint,
};

/// The input of all parts of the page.
pub struct PageParts<'a> {
    pub monitor: &'a Monitor,
    pub state: &'a ReadinessState,
    pub query: PageQuery,
    pub moment: &'a Moment,
    pub listeners: LiveListeners<'a>,
    pub replicas: ReplicaViews,
    /// The open connections in each replica whose traffic is known.
    pub active: BTreeMap<Arc<str>, u64>,
    pub rates: MutexGuard<'a, PageRates>,
}

impl<'a> PageParts<'a> {
    /// All load balancers, sorted by name. Adds an interval to the rates.
    pub fn overviews(&mut self) -> Vec<Overview<'a>> {
        let moment = self.moment;
        let verdicts = moment.configuration.verdicts.iter();
        let mut overviews: Vec<Overview> =
            verdicts.map(|verdict| Overview::of(verdict, moment, &self.listeners, &self.replicas)).collect();
        let own = &self.replicas.own;
        let traffic = || {
            overviews.iter().flat_map(|overview| {
                let others = self.replicas.traffic_in_others(overview.verdict);
                others.chain([(own, &overview.own)]).map(|(replica, traffic)| (replica, overview.object, traffic))
            })
        };
        for (replica, _, traffic) in traffic() {
            *self.active.entry(replica.clone()).or_default() += traffic.active;
        }
        let counts = traffic().map(|(replica, object, traffic)| {
            (ReplicaCounter { replica: replica.clone(), load_balancer: object.clone() }, counts_of(traffic))
        });
        let (now, rates) = (Instant::now(), &mut *self.rates);
        rates.sums.add(counts, ReplicaCounter::sums);
        rates.traffic.sample(now, rates.sums.all());
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
            overview.rates = self.rates.traffic.latest(&TrafficSum::LoadBalancer(overview.object.clone()));
        }
        overviews
    }
}

fn counts_of(traffic: &LoadBalancerTraffic) -> TrafficCounts {
    let LoadBalancerTraffic { connections, bytes, failures, active: _ } = *traffic;
    TrafficCounts { connections, bytes, failures }
}
