use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

use super::TrafficCounts;

/// Sums of the counters of several replicas, which never decrease: a replica that appears adds nothing at first, and one
/// that restarts or cannot be read subtracts nothing.
#[derive(Debug)]
pub struct CounterSums<K> {
    /// The counters of replicas.
    before: HashMap<K, TrafficCounts>,
    sums: HashMap<K, TrafficCounts>,
}

impl<K> Default for CounterSums<K> {
    fn default() -> Self {
        Self { before: HashMap::new(), sums: HashMap::new() }
    }
}

impl<K: Clone + Eq + Hash> CounterSums<K> {
    /// Adds the increase of each counter to the sums with the keys that `sums_of` returns. Sums without a counter are
    /// forgotten.
    pub fn add<S: IntoIterator<Item = K>>(
        &mut self,
        counts: impl IntoIterator<Item = (K, TrafficCounts)>,
        sums_of: impl Fn(&K) -> S,
    ) {
        let mut known = HashSet::new();
        let mut current = HashMap::new();
        for (key, now) in counts {
            let increase = self.before.get(&key).map(|before| now.since(*before)).unwrap_or_default();
            for key in sums_of(&key) {
                *self.sums.entry(key.clone()).or_default() += increase;
                known.insert(key);
            }
            current.insert(key, now);
        }
        self.sums.retain(|key, _| known.contains(key));
        self.before = current;
    }

    /// All sums.
    pub fn all(&self) -> impl Iterator<Item = (K, TrafficCounts)> {
        self.sums.iter().map(|(key, counts)| (key.clone(), *counts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum `all` of the counters of these replicas after each step.
    fn sums(steps: &[&[(&'static str, u64)]]) -> Vec<u64> {
        let mut sums = CounterSums::default();
        let all = steps.iter().map(|step| {
            let counts = |connections| TrafficCounts { connections, ..TrafficCounts::default() };
            sums.add(step.iter().map(|(replica, connections)| (*replica, counts(*connections))), |_| ["all"]);
            sums.all().map(|(key, counts)| (key, counts.connections)).collect::<HashMap<_, _>>()["all"]
        });
        all.collect()
    }

    #[test]
    fn replicas_that_appear_restart_and_disappear_do_not_change_the_sum() {
        assert_eq!(sums(&[&[("a", 5)], &[("a", 7)], &[("a", 9), ("b", 1000)], &[("a", 9), ("b", 1003)]]), [0, 2, 4, 7]);
        assert_eq!(sums(&[&[("a", 5), ("b", 9)], &[("a", 6), ("b", 0)], &[("a", 7)]]), [0, 1, 2]);
    }
}
