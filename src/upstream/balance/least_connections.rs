use std::{
    cmp::Ordering,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::shares::{LoadRatio, Shares, golden_part};
use crate::upstream::endpoint::{Endpoint, TriedEndpoints};

/// Picks the endpoint with the fewest connections for its weight. Equal endpoints take turns by weight.
#[derive(Debug)]
pub struct LeastConnections {
    shares: Shares,
}

impl LeastConnections {
    pub fn new(shares: Shares) -> Self {
        Self { shares }
    }

    pub fn shares(&self) -> &Shares {
        &self.shares
    }

    pub fn pick(&self, tried: &TriedEndpoints, turn: &AtomicU64) -> Option<&Arc<Endpoint>> {
        let endpoints = self.shares.endpoints();
        let untried = || (0..endpoints.len()).filter(|index| !tried.contains(&endpoints[*index]));

        let (mut least, mut index_of_least, mut tied_weight) = (None, 0, 0);
        for index in untried() {
            let load = LoadRatio::now(&self.shares, index);
            match least.map_or(Ordering::Less, |least| load.compare(least)) {
                Ordering::Less => (least, index_of_least, tied_weight) = (Some(load), index, self.shares.weight(index)),
                Ordering::Equal => tied_weight += self.shares.weight(index),
                Ordering::Greater => {}
            }
        }
        let least = least?;

        let turn = turn.fetch_add(1, Relaxed);
        let mut point = if self.shares.are_equal() { turn % tied_weight } else { golden_part(turn, tied_weight) };
        let chosen = untried().find(|index| {
            if LoadRatio::now(&self.shares, *index).compare(least).is_gt() {
                return false;
            }
            let weight = self.shares.weight(*index);
            let covers = point < weight;
            point = point.saturating_sub(weight);
            covers
        });
        // Counts change concurrently: no endpoint is found if all equal ones have got another connection.
        Some(&endpoints[chosen.unwrap_or(index_of_least)])
    }
}
