//! Times by key, ordered by time.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

/// The time at which something is due for each of some keys.
#[derive(Clone, Debug)]
pub struct DueTimes<K, T> {
    times: BTreeMap<K, T>,
    keys: BTreeMap<T, BTreeSet<K>>,
}

impl<K, T> Default for DueTimes<K, T> {
    fn default() -> Self {
        Self { times: BTreeMap::new(), keys: BTreeMap::new() }
    }
}

impl<K: Ord + Clone, T: Ord + Copy> DueTimes<K, T> {
    /// Sets the time of a key, or removes it.
    pub fn set(&mut self, key: &K, time: Option<T>) {
        let before = match time {
            Some(time) => self.times.insert(key.clone(), time),
            None => self.times.remove(key),
        };
        if let Some(keys) = before.and_then(|before| self.keys.get_mut(&before)) {
            keys.remove(key);
        }
        if let Some(before) = before.filter(|before| self.keys.get(before).is_some_and(BTreeSet::is_empty)) {
            self.keys.remove(&before);
        }
        if let Some(time) = time {
            self.keys.entry(time).or_default().insert(key.clone());
        }
    }

    /// The first time.
    pub fn first(&self) -> Option<T> {
        self.keys.first_key_value().map(|(time, _)| *time)
    }

    /// The first time after `since`.
    pub fn first_after(&self, since: T) -> Option<T> {
        self.keys.range((Bound::Excluded(since), Bound::Unbounded)).next().map(|(time, _)| *time)
    }

    /// The keys whose times are not after `now`.
    pub fn due(&self, now: T) -> impl Iterator<Item = &K> {
        self.keys.range(..=now).flat_map(|(_, keys)| keys)
    }

    /// The keys whose times are after `since` and not after `now`.
    pub fn due_after(&self, since: T, now: T) -> impl Iterator<Item = &K> {
        // A range must not end before it starts.
        let until = now.max(since);
        self.keys.range((Bound::Excluded(since), Bound::Included(until))).flat_map(|(_, keys)| keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_due_in_the_order_of_their_present_times() {
        let mut times = DueTimes::default();
        for (key, time) in [("a", 3), ("b", 1), ("c", 3), ("a", 2), ("d", 9)] {
            times.set(&key, Some(time));
        }
        times.set(&"d", None);
        times.set(&"e", None);
        assert_eq!(times.first(), Some(1));
        assert_eq!(times.due(2).collect::<Vec<_>>(), [&"b", &"a"]);
        assert_eq!((times.first_after(1), times.first_after(3)), (Some(2), None));
        assert_eq!(times.due_after(1, 3).collect::<Vec<_>>(), [&"a", &"c"]);
        assert_eq!(times.due_after(3, 1).count() + times.due_after(3, 3).count(), 0);
        for key in ["a", "b", "c"] {
            times.set(&key, None);
        }
        assert_eq!((times.first(), times.keys.len()), (None, 0));
    }
}
