//! Proximities of a load balancer's endpoints to this process.

use k8s_openapi::api::discovery::v1::Endpoint;

use crate::{
    api::{Prefer, TcpLoadBalancerSpec},
    model::Proximity,
    world::ProcessLocality,
};

/// The declared locality preference.
pub(super) fn preference(spec: &TcpLoadBalancerSpec) -> Option<Prefer> {
    let balancing = spec.load_balancing.as_ref()?;
    balancing.locality.as_ref().map(|locality| locality.prefer)
}

/// The rule for the proximity of the serving endpoints of a Service.
pub(super) struct ProximityRule<'a> {
    prefer: Prefer,
    here: &'a ProcessLocality,
    /// Zone hints count only if every endpoint has them: an endpoint without a hint would get no connections.
    all_have_zones: bool,
    all_have_nodes: bool,
}

impl<'a> ProximityRule<'a> {
    pub fn new<'e>(
        prefer: Prefer,
        here: &'a ProcessLocality,
        serving: impl Iterator<Item = &'e Endpoint> + Clone,
    ) -> Self {
        let all_have_zones = serving.clone().all(|endpoint| hinted_zones(endpoint).next().is_some());
        let all_have_nodes = serving.clone().all(|endpoint| hinted_nodes(endpoint).next().is_some());
        Self { prefer, here, all_have_zones, all_have_nodes }
    }

    pub fn of(&self, endpoint: &Endpoint) -> Proximity {
        let is_here = |theirs: Option<&str>, ours: Option<&str>| theirs.is_some() && theirs == ours;
        let (node, zone) = (self.here.node.as_deref(), self.here.zone.as_deref());
        let (same_node, same_zone) = match self.prefer {
            Prefer::SameNode => (is_here(endpoint.node_name.as_deref(), node), is_here(endpoint.zone.as_deref(), zone)),
            Prefer::SameZone => (false, is_here(endpoint.zone.as_deref(), zone)),
            Prefer::Hints => (
                self.all_have_nodes && hinted_nodes(endpoint).any(|hinted| is_here(Some(hinted), node)),
                self.all_have_zones && hinted_zones(endpoint).any(|hinted| is_here(Some(hinted), zone)),
            ),
        };
        match (same_node, same_zone) {
            (true, _) => Proximity::SameNode,
            (false, true) => Proximity::SameZone,
            (false, false) => Proximity::Remote,
        }
    }
}

fn hinted_zones(endpoint: &Endpoint) -> impl Iterator<Item = &str> {
    let zones = endpoint.hints.as_ref().and_then(|hints| hints.for_zones.as_deref());
    zones.unwrap_or_default().iter().map(|zone| zone.name.as_str())
}

fn hinted_nodes(endpoint: &Endpoint) -> impl Iterator<Item = &str> {
    let nodes = endpoint.hints.as_ref().and_then(|hints| hints.for_nodes.as_deref());
    nodes.unwrap_or_default().iter().map(|node| node.name.as_str())
}
