use std::sync::Arc;

use super::{excess::Load, leveller::Counted};
use crate::upstream::endpoint::Endpoint;

/// Endpoints whose shares can be compared, sorted by their ids.
pub type Group = Vec<Sharer>;

/// An endpoint that gets connections.
#[derive(Clone, Debug)]
pub struct Sharer {
    pub endpoint: Arc<Endpoint>,
    pub weight: u64,
}

impl Sharer {
    pub fn counted(&self) -> Counted {
        let load = Load { open: self.endpoint.active(), weight: self.weight };
        Counted { id: self.endpoint.id(), load, connections: self.endpoint.connections() }
    }
}
