//! Counts of usable and ejected endpoints, by priority level and by subset.
//!
//! Decisions about one endpoint need these counts. They are taken once for each review and adjusted with each decision,
//! so that the cost of a review depends on the number of endpoints, not on the number of changes.

use std::collections::{BTreeMap, HashMap};

use super::entry::EndpointEntry;
use crate::{model::Priority, upstream::backends::Backends};

/// The subsets of an upstream that must keep a usable endpoint, by the names of their backends.
#[derive(Debug)]
pub(super) struct Parts {
    /// Numbers of the subsets that list a backend by name.
    by_backend: HashMap<std::sync::Arc<str>, Vec<usize>>,
    count: usize,
}

/// The number of the subset of all backends.
const WHOLE: usize = 0;

impl Parts {
    pub fn new(subsets: &[Backends]) -> Self {
        let mut by_backend: HashMap<_, Vec<usize>> = HashMap::new();
        for (number, subset) in (WHOLE + 1..).zip(subsets) {
            // The subset of all backends is always counted.
            let Backends::Of(names) = subset else { continue };
            for name in &**names {
                let numbers = by_backend.entry(name.clone()).or_default();
                if numbers.last() != Some(&number) {
                    numbers.push(number);
                }
            }
        }
        Self { by_backend, count: subsets.len() + 1 }
    }

    /// The numbers of the subsets with this backend.
    pub fn of(&self, backend: &str) -> impl Iterator<Item = usize> {
        let named = self.by_backend.get(backend).map_or(&[][..], Vec::as_slice);
        [WHOLE].into_iter().chain(named.iter().copied())
    }

    /// For each subset, true if it contains one of these endpoints.
    pub fn with<'a>(&self, entries: impl Iterator<Item = &'a EndpointEntry>) -> Vec<bool> {
        let mut found = vec![false; self.count];
        for entry in entries {
            self.of(entry.backend_name()).for_each(|number| found[number] = true);
        }
        found
    }
}

#[derive(Debug)]
pub(super) struct Tally {
    parts: Parts,
    /// The usable endpoints of each subset.
    usable: Vec<usize>,
    levels: BTreeMap<Priority, LevelCounts>,
}

/// The counts of one priority level.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LevelCounts {
    pub entries: usize,
    pub ejected: usize,
    pub usable: usize,
}

impl Tally {
    pub fn new(parts: Parts, entries: &[EndpointEntry]) -> Self {
        let mut tally = Self { usable: vec![0; parts.count], parts, levels: BTreeMap::new() };
        entries.iter().for_each(|entry| tally.add(entry));
        tally
    }

    pub fn levels(&self) -> Vec<Priority> {
        self.levels.keys().copied().collect()
    }

    pub fn level(&self, priority: Priority) -> LevelCounts {
        self.levels.get(&priority).copied().unwrap_or_default()
    }

    /// True if another level has a usable endpoint.
    pub fn others_serve(&self, priority: Priority) -> bool {
        self.usable[WHOLE] > self.level(priority).usable
    }

    /// True if a subset has no usable endpoint but this one.
    pub fn is_last(&self, entry: &EndpointEntry) -> bool {
        let own = usize::from(entry.usable());
        self.parts.of(entry.backend_name()).any(|number| self.usable[number] <= own)
    }

    /// True if a subset of this endpoint has no usable one.
    pub fn is_needed(&self, entry: &EndpointEntry) -> bool {
        self.parts.of(entry.backend_name()).any(|number| self.usable[number] == 0)
    }

    /// Changes an endpoint and adjusts the counts.
    pub fn change(&mut self, entry: &mut EndpointEntry, change: impl FnOnce(&mut EndpointEntry)) {
        self.remove(entry);
        change(entry);
        self.add(entry);
    }

    fn add(&mut self, entry: &EndpointEntry) {
        let (usable, ejected) = (usize::from(entry.usable()), usize::from(entry.is_ejected()));
        let level = self.levels.entry(entry.priority()).or_default();
        level.entries += 1;
        level.ejected += ejected;
        level.usable += usable;
        self.parts.of(entry.backend_name()).for_each(|number| self.usable[number] += usable);
    }

    fn remove(&mut self, entry: &EndpointEntry) {
        let (usable, ejected) = (usize::from(entry.usable()), usize::from(entry.is_ejected()));
        let level = self.levels.entry(entry.priority()).or_default();
        level.entries -= 1;
        level.ejected -= ejected;
        level.usable -= usable;
        self.parts.of(entry.backend_name()).for_each(|number| self.usable[number] -= usable);
    }
}
