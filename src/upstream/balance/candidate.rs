use std::sync::Arc;

use crate::{
    model::{Proximity, StableId, Weight},
    upstream::endpoint::Endpoint,
};

/// An endpoint as an input of balancing. A balancer checks on creation whether it is usable.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub endpoint: Arc<Endpoint>,
    /// The input of the hash of sticky balancing.
    pub stable_id: StableId,
    pub weight: Weight,
    pub proximity: Proximity,
}
