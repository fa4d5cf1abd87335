use std::sync::Arc;

use super::{excess::Load, rebalancer::EndpointLoad};
use crate::upstream::endpoint::Endpoint;

/// Endpoints whose shares can be compared, sorted by their ids.
pub type Group = Vec<WeightedEndpoint>;

/// An endpoint and its weight in balancing.
#[derive(Clone, Debug)]
pub struct WeightedEndpoint {
    pub endpoint: Arc<Endpoint>,
    pub weight: u64,
}

impl WeightedEndpoint {
    pub fn load(&self) -> EndpointLoad {
        let load = Load { open: self.endpoint.active(), weight: self.weight };
        EndpointLoad { id: self.endpoint.id(), load, connections: self.endpoint.connections() }
    }
}
