//! Metrics of endpoints.

use std::{fmt, sync::Arc};

use super::{
    encoder::{Encoder, Labels, occurred},
    family::{
        CONNECT_FAILURES, EJECTED, EJECTIONS, ENDPOINT, ENDPOINT_ACTIVE, ENDPOINT_CONNECTIONS, HEALTHY, IN_SERVICE,
        LOAD_BALANCER, NEAR, PRECONNECT, PRECONNECTED, PROBES, SHARE, SWITCHES, UPSTREAM_ENDPOINTS, USABLE,
    },
};
use crate::{
    model::UpstreamKey,
    proxy::View,
    upstream::{Endpoint, PoolFigures, Upstream},
};

/// Writes the metrics of single endpoints.
pub fn encode(encoder: &mut Encoder<'_, '_>, endpoints: &[EndpointSample]) -> fmt::Result {
    encode_endpoint_states(encoder, endpoints)?;
    encode_endpoint_events(encoder, endpoints)
}

/// An endpoint with its state at one time.
pub struct EndpointSample {
    labels: Labels<'static>,
    endpoint: Arc<Endpoint>,
    healthy: bool,
    ejected: bool,
    pool: PoolFigures,
}

impl EndpointSample {
    pub fn all_of(key: &UpstreamKey, upstream: &Upstream) -> Vec<Self> {
        let load_balancer = Labels::of(LOAD_BALANCER, &key.object, []);
        upstream.endpoints().iter().map(|endpoint| Self::of(&load_balancer, endpoint)).collect()
    }

    fn of(load_balancer: &Labels<'_>, endpoint: &Arc<Endpoint>) -> Self {
        let (state, key) = (endpoint.state(), endpoint.key());
        Self {
            labels: load_balancer.followed_by(ENDPOINT, [&*key.backend, &key.address.to_string()]),
            endpoint: endpoint.clone(),
            healthy: state.healthy,
            ejected: state.ejected_until.is_some(),
            pool: endpoint.pool_figures(),
        }
    }

    fn labels(&self) -> Labels<'_> {
        self.labels.shared()
    }

    fn labels_and(&self, value: &'static str) -> Labels<'_> {
        self.labels.and(value)
    }
}

fn encode_endpoint_states(encoder: &mut Encoder<'_, '_>, endpoints: &[EndpointSample]) -> fmt::Result {
    encoder.gauges(&USABLE, endpoints.iter().map(|e| (e.labels(), i64::from(e.endpoint.usable()))))?;
    encoder.gauges(&IN_SERVICE, endpoints.iter().map(|e| (e.labels(), i64::from(e.endpoint.in_service()))))?;
    encoder.gauges(&HEALTHY, endpoints.iter().map(|e| (e.labels(), i64::from(e.healthy))))?;
    encoder.gauges(&SHARE, endpoints.iter().map(|e| (e.labels(), i64::from(e.endpoint.share()))))?;
    encoder.gauges(&NEAR, endpoints.iter().map(|e| (e.labels(), i64::from(e.endpoint.near()))))?;
    encoder.gauges(&EJECTED, endpoints.iter().map(|e| (e.labels(), i64::from(e.ejected))))?;
    encoder.gauges(&ENDPOINT_ACTIVE, endpoints.iter().map(|e| (e.labels(), i64::from(e.endpoint.active()))))
}

fn encode_endpoint_events(encoder: &mut Encoder<'_, '_>, endpoints: &[EndpointSample]) -> fmt::Result {
    encoder.counters(&ENDPOINT_CONNECTIONS, endpoints.iter().map(|e| (e.labels(), e.endpoint.connections())))?;
    encoder.counters(&CONNECT_FAILURES, endpoints.iter().map(|e| (e.labels(), e.endpoint.connect_failures())))?;
    encoder.counters(&EJECTIONS, endpoints.iter().map(|e| (e.labels(), e.endpoint.ejections())))?;
    let probes = |e: &EndpointSample| [("passed", e.endpoint.probes_passed()), ("failed", e.endpoint.probes_failed())];
    encoder.counters(
        &PROBES,
        endpoints.iter().flat_map(|e| occurred(probes(e)).map(|(result, count)| (e.labels_and(result), count))),
    )?;
    let pools = endpoints.iter().filter(|e| e.endpoint.has_pool());
    encoder.gauges(&PRECONNECTED, pools.map(|e| (e.labels(), e.pool.idle as i64)))?;
    let requests =
        |e: &EndpointSample| [("hit", e.pool.hits), ("miss", e.pool.misses), ("discarded", e.pool.discarded)];
    encoder.counters(
        &PRECONNECT,
        endpoints.iter().flat_map(|e| occurred(requests(e)).map(|(result, count)| (e.labels_and(result), count))),
    )
}

/// Writes the metrics of all endpoints of a load balancer together.
pub fn encode_upstreams(encoder: &mut Encoder<'_, '_>, view: &View) -> fmt::Result {
    encoder.gauges(
        &UPSTREAM_ENDPOINTS,
        view.upstreams.iter().flat_map(|(key, upstream)| {
            let usable = upstream.usable();
            [("usable", usable), ("unusable", upstream.endpoints().len().saturating_sub(usable))].map(
                |(state, count)| (Labels::of(UPSTREAM_ENDPOINTS.labels, &key.object, [state.into()]), count as i64),
            )
        }),
    )?;
    encoder.counters(
        &SWITCHES,
        view.upstreams
            .iter()
            .map(|(key, upstream)| (Labels::of(LOAD_BALANCER, &key.object, []), upstream.priority_changes())),
    )
}
