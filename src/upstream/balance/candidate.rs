use std::sync::Arc;

use crate::{
    model::{Distance, Weight},
    upstream::endpoint::Endpoint,
};

/// An endpoint as balancing sees it. Whether it is usable is asked when a balancer is built.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub endpoint: Arc<Endpoint>,
    /// What sticky balancing hashes.
    pub stable_id: Arc<str>,
    pub weight: Weight,
    pub distance: Distance,
}
