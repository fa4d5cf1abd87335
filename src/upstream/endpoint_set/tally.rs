//! Counts of usable and ejected members, by priority level and by subset.
//!
//! Decisions about one member need these counts. They are taken once for a review and adjusted with each decision, so
//! that a review costs as much as there are members, however many of them change.

use std::collections::{BTreeMap, HashMap};

use super::entry::EndpointEntry;
use crate::{model::Priority, upstream::backends::Backends};

/// The subsets of an upstream that must keep a usable member, by the names of the backends in them.
#[derive(Debug)]
pub(super) struct Parts {
    /// Numbers of the subsets that list a backend by name.
    by_backend: HashMap<std::sync::Arc<str>, Vec<usize>>,
    count: usize,
}

/// The number of the subset that has all backends.
const WHOLE: usize = 0;

impl Parts {
    pub fn new(subsets: &[Backends]) -> Self {
        let mut by_backend: HashMap<_, Vec<usize>> = HashMap::new();
        for (number, subset) in (WHOLE + 1..).zip(subsets) {
            // The whole is counted in any case.
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

    /// For each subset, whether it has a member like this.
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
    /// Usable members of each subset.
    usable: Vec<usize>,
    levels: BTreeMap<Priority, LevelCounts>,
}

/// The members of one priority.
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

    /// True if a level other than this one has a usable member.
    pub fn others_serve(&self, priority: Priority) -> bool {
        self.usable[WHOLE] > self.level(priority).usable
    }

    /// True if some subset has no usable member but this one.
    pub fn is_last(&self, entry: &EndpointEntry) -> bool {
        let own = usize::from(entry.usable());
        self.parts.of(entry.backend_name()).any(|number| self.usable[number] <= own)
    }

    /// True if some subset of this member has no usable one.
    pub fn is_needed(&self, entry: &EndpointEntry) -> bool {
        self.parts.of(entry.backend_name()).any(|number| self.usable[number] == 0)
    }

    /// Changes a member and the counts with it.
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
