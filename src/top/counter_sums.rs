use std::collections::{HashMap, HashSet};

use super::row_key::RowKey;
use crate::traffic::TrafficCounts;

/// Sums of the counters of all replicas, which never decrease: a replica that appears adds nothing at first, and one
/// that restarts or cannot be read subtracts nothing.
#[derive(Debug, Default)]
pub struct CounterSums {
    /// The counters of replicas.
    before: HashMap<RowKey, TrafficCounts>,
    sums: HashMap<RowKey, TrafficCounts>,
}

impl CounterSums {
    /// Adds the increase of the counters of replicas to their sums.
    pub fn add(&mut self, counts: Vec<(RowKey, TrafficCounts)>) {
        let mut known = HashSet::new();
        for (key, now) in &counts {
            let before = self.before.get(key).copied().unwrap_or(*now);
            let increase = TrafficCounts {
                connections: now.connections.saturating_sub(before.connections),
                bytes: now.bytes.saturating_sub(before.bytes),
                failures: now.failures.saturating_sub(before.failures),
            };
            for key in [key.clone(), key.of_all_replicas()] {
                *self.sums.entry(key.clone()).or_default() += increase;
                known.insert(key);
            }
        }
        self.sums.retain(|key, _| known.contains(key));
        self.before = counts.into_iter().collect();
    }

    /// All sums.
    pub fn all(&self) -> impl Iterator<Item = (RowKey, TrafficCounts)> {
        self.sums.iter().map(|(key, counts)| (key.clone(), *counts))
    }
}
