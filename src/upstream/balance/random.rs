use std::sync::Arc;

use super::shares::Shares;
use crate::upstream::endpoint::{Endpoint, TriedEndpoints};

/// Picks a random endpoint by weight.
#[derive(Debug)]
pub struct Random {
    shares: Shares,
}

impl Random {
    pub fn new(shares: Shares) -> Self {
        Self { shares }
    }

    pub fn shares(&self) -> &Shares {
        &self.shares
    }

    pub fn pick(&self, tried: &TriedEndpoints) -> Option<&Arc<Endpoint>> {
        let endpoints = self.shares.endpoints();
        self.shares.random(|index| !tried.contains(&endpoints[index])).map(|index| &endpoints[index])
    }
}
