use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

use super::counts::TrafficCounts;

/// Sums of the counters of several replicas, which never decrease: a replica that appears adds nothing at first, and one
/// that restarts or cannot be read subtracts nothing. `K` identifies a counter of a replica, `S` a sum.
#[derive(Debug)]
pub struct CounterSums<K, S> {
    /// The counters of replicas.
    before: HashMap<K, TrafficCounts>,
    sums: HashMap<S, TrafficCounts>,
}

impl<K, S> Default for CounterSums<K, S> {
    fn default() -> Self {
        Self { before: HashMap::new(), sums: HashMap::new() }
    }
}

impl<K: Eq + Hash, S: Clone + Eq + Hash> CounterSums<K, S> {
    /// Adds the increase of each counter to the sums that `sums_of` returns. Sums without a counter are forgotten.
    pub fn add<I: IntoIterator<Item = S>>(
        &mut self,
        counts: impl IntoIterator<Item = (K, TrafficCounts)>,
        sums_of: impl Fn(&K) -> I,
    ) {
        let mut known = HashSet::new();
        let mut current = HashMap::new();
        for (key, now) in counts {
            let increase = self.before.get(&key).map(|before| now.since(*before)).unwrap_or_default();
            for sum in sums_of(&key) {
                *self.sums.entry(sum.clone()).or_default() += increase;
                known.insert(sum);
            }
            current.insert(key, now);
        }
        self.sums.retain(|sum, _| known.contains(sum));
        self.before = current;
    }

    /// All sums.
    pub fn all(&self) -> impl Iterator<Item = (S, TrafficCounts)> {
        self.sums.iter().map(|(sum, counts)| (sum.clone(), *counts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(connections: u64) -> TrafficCounts {
        TrafficCounts { connections, ..TrafficCounts::default() }
    }

    /// The sum of the counters of these replicas after each step.
    fn sums(steps: &[&[(&'static str, u64)]]) -> Vec<u64> {
        let mut sums = CounterSums::default();
        let all = steps.iter().map(|step| {
            sums.add(step.iter().map(|(replica, connections)| (*replica, counts(*connections))), |_| [()]);
            sums.all().map(|((), counts)| counts.connections).sum()
        });
        all.collect()
    }

    #[test]
    fn replicas_that_appear_restart_and_disappear_do_not_change_the_sum() {
        assert_eq!(sums(&[&[("a", 5)], &[("a", 7)], &[("a", 9), ("b", 1000)], &[("a", 9), ("b", 1003)]]), [0, 2, 4, 7]);
        assert_eq!(sums(&[&[("a", 5), ("b", 9)], &[("a", 6), ("b", 0)], &[("a", 7)]]), [0, 1, 2]);
        assert_eq!(sums(&[&[("a", 5), ("b", 9)], &[("a", 6)], &[("a", 7), ("b", 99)]]), [0, 1, 2], "absent once");
    }

    #[test]
    fn sums_without_a_counter_are_forgotten() {
        let mut sums = CounterSums::default();
        sums.add([("a", counts(1)), ("b", counts(1))], |key| [*key]);
        sums.add([("b", counts(5))], |key| [*key]);
        assert_eq!(sums.all().collect::<Vec<_>>(), [("b", counts(4))]);
    }
}
