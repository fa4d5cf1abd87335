use std::sync::Arc;

use super::shares::{LoadRatio, Shares};
use crate::upstream::endpoint::{Endpoint, TriedEndpoints};

/// Picks two random endpoints by weight, and of these the one with fewer connections for its weight (Mitzenmacher, The
/// Power of Two Choices in Randomized Load Balancing, 1996).
#[derive(Debug)]
pub struct PowerOfTwo {
    shares: Shares,
}

impl PowerOfTwo {
    pub fn new(shares: Shares) -> Self {
        Self { shares }
    }

    pub fn shares(&self) -> &Shares {
        &self.shares
    }

    pub fn pick(&self, tried: &TriedEndpoints) -> Option<&Arc<Endpoint>> {
        let endpoints = self.shares.endpoints();
        let untried = |index: usize| !tried.contains(&endpoints[index]);
        let first = self.shares.random(untried)?;
        let second = self.shares.random(|index| index != first && untried(index));
        let load = |index| LoadRatio::now(&self.shares, index);
        let better = second.filter(|second| load(*second).compare(load(first)).is_lt()).unwrap_or(first);
        Some(&endpoints[better])
    }
}
