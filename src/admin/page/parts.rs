use std::{
    sync::{Arc, MutexGuard},
    time::Instant,
};

use super::{overview::Overview, query::PageQuery, replicas::ReplicaViews};
use crate::{
    admin::moment::{LiveListeners, Moment},
    model::ObjectKey,
    proxy::Monitor,
    state::ReadinessState,
    traffic::{RateHistory, TrafficCounts},
    upstream::Endpoint,
};

/// The number of points of a sparkline.
pub const HISTORY: usize = 60;

/// The rates of the times at which the page was requested.
pub struct PageRates {
    /// `None`: the sum of all.
    pub load_balancers: RateHistory<Option<ObjectKey>>,
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
        Self { load_balancers: RateHistory::new(HISTORY), endpoints: RateHistory::new(1) }
    }
}

impl<'a> PageParts<'a> {
    /// All load balancers, sorted by name. Adds an interval to the rates.
    pub fn overviews(&mut self) -> Vec<Overview<'a>> {
        let moment = self.moment;
        let verdicts = moment.configuration.verdicts.iter();
        let mut overviews: Vec<Overview> =
            verdicts.map(|verdict| Overview::of(verdict, moment, &self.listeners, &self.replicas)).collect();
        let mut all = TrafficCounts::default();
        overviews.iter().for_each(|overview| all += overview.counts);
        let counts = overviews.iter().map(|overview| (Some(overview.object.clone()), overview.counts));
        let now = Instant::now();
        self.rates.load_balancers.sample(now, counts.chain([(None, all)]));
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
            overview.rates = self.rates.load_balancers.latest(&Some(overview.object.clone()));
        }
        overviews
    }
}
