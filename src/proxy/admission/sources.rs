use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{Refusal, gcra::Gcra};
use crate::model::Limits;

/// What the sources of all listeners have open and owe: a table of fixed size, however many addresses come.
///
/// A source with open connections is never forgotten, and one without only when it owes nothing, so that forgetting it
/// changes nothing. When a shard has no room for another, its new ones share a bucket for each listener, as if they were
/// one source.
///
/// The table is divided into shards by a keyed hash, so that nobody can aim at one. Each has a mutex, held for a look-up
/// or two and, when the shard is full, a sweep through it: nothing in there waits, and with far more shards than workers
/// two rarely meet. Looking at count and rate under one lock is what makes a refusal charge neither.
#[derive(Debug)]
pub struct Sources {
    start: Instant,
    hash: RandomState,
    shards: Box<[Mutex<Shard>]>,
}

const SHARDS: usize = 256;
const SHARD_ENTRIES: usize = 256;

impl Sources {
    /// Room for 65,536 sources, about 5 MB when all of it is used. `start` is before any time the table is asked about.
    pub fn new(start: Instant) -> Self {
        Self::with_shape(start, SHARDS, SHARD_ENTRIES)
    }

    pub(super) fn with_shape(start: Instant, shards: usize, entries: usize) -> Self {
        let shards = (0..shards).map(|_| Mutex::new(Shard::new(entries))).collect();
        Self { start, hash: RandomState::new(), shards }
    }

    /// How many sources have an entry of their own.
    pub fn entries(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).entries.len()).sum()
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let shard = |shard: &Mutex<Shard>| {
            let shard = lock(shard);
            size_of::<Mutex<Shard>>()
                + shard.entries.capacity() * size_of::<(Key, Entry)>()
                + shard.shared.capacity() * size_of::<(u64, Entry)>()
                + shard.shared_open.capacity() * size_of::<(Key, u32)>()
        };
        self.shards.iter().map(shard).sum()
    }

    pub(super) fn nanoseconds(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Admits a connection of `address` to `listener`, if its source's limits and then `charge_listener` let it in.
    pub(super) fn admit(
        self: &Arc<Self>,
        listener: u64,
        address: IpAddr,
        limits: &Limits,
        now: u64,
        charge_listener: impl FnOnce() -> Result<(), Refusal>,
    ) -> Result<Option<SourcePermit>, Refusal> {
        let key = Key { listener, prefix: Prefix::of(address) };
        let place = lock(self.shard(&key)).admit(key, limits, now, charge_listener)?;
        let counted = limits.max_connections_per_source.is_some();
        Ok(counted.then(|| SourcePermit { sources: Arc::clone(self), key, place }))
    }

    fn shard(&self, key: &Key) -> &Mutex<Shard> {
        &self.shards[self.hash.hash_one(key) as usize % self.shards.len()]
    }
}

/// A place in the count of a source.
#[derive(Debug)]
#[must_use = "the place is given back when this is dropped"]
pub struct SourcePermit {
    sources: Arc<Sources>,
    key: Key,
    place: Place,
}

impl Drop for SourcePermit {
    fn drop(&mut self) {
        lock(self.sources.shard(&self.key)).release(self.key, self.place);
    }
}

/// Nothing under the lock can panic half-way, so that a poisoned shard is as good as another.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    listener: u64,
    prefix: Prefix,
}

/// What counts as one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Prefix {
    V4(u32),
    /// The first 64 bits: what a single customer has at least, and can take addresses from as it likes.
    V6(u64),
}

impl Prefix {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            IpAddr::V6(v6) => Self::V6((v6.to_bits() >> 64) as u64),
        }
    }
}

/// Where the connections of a source are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Own,
    Shared,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    open: u32,
    /// The state of the rate ([`Gcra`]).
    rate: u64,
}

impl Entry {
    /// Whether it is as good as none.
    fn is_fresh(self, now: u64) -> bool {
        self.open == 0 && self.rate <= now
    }
}

#[derive(Debug)]
struct Shard {
    capacity: usize,
    entries: HashMap<Key, Entry>,
    /// By listener, what sources without room for their own entries share.
    shared: HashMap<u64, Entry>,
    /// Open connections of the sources that are counted in `shared`. A source stays there until it has none: it would
    /// have a second limit otherwise.
    shared_open: HashMap<Key, u32>,
    /// The latest time anyone came with.
    latest: u64,
    /// No entry becomes fresh before.
    sweep_at: u64,
}

impl Shard {
    fn new(capacity: usize) -> Self {
        Self {
            capacity,
            entries: HashMap::new(),
            shared: HashMap::new(),
            shared_open: HashMap::new(),
            latest: 0,
            sweep_at: u64::MAX,
        }
    }

    fn admit(
        &mut self,
        key: Key,
        limits: &Limits,
        now: u64,
        charge_listener: impl FnOnce() -> Result<(), Refusal>,
    ) -> Result<Place, Refusal> {
        self.latest = self.latest.max(now);
        let (place, entry) = self.find(key);
        if limits.max_connections_per_source.is_some_and(|limit| entry.open >= limit.get()) {
            return Err(Refusal::SourceFull);
        }
        let rate = match limits.new_connections_per_source.map(|rate| Gcra::from(rate).decide(entry.rate, self.latest))
        {
            None => entry.rate,
            Some(Ok(charged)) => charged,
            Some(Err(rate)) => {
                self.store(key, place, Entry { rate, ..entry });
                return Err(Refusal::SourceRate);
            }
        };
        charge_listener()?;
        let counted = u32::from(limits.max_connections_per_source.is_some());
        self.store(key, place, Entry { open: entry.open + counted, rate });
        if counted == 1 && place == Place::Shared {
            *self.shared_open.entry(key).or_default() += 1;
        }
        Ok(place)
    }

    /// Where a source is counted, and what is known of it.
    fn find(&mut self, key: Key) -> (Place, Entry) {
        if let Some(entry) = self.entries.get(&key) {
            return (Place::Own, *entry);
        }
        let shared = self.shared.get(&key.listener).copied().unwrap_or_default();
        if self.shared_open.contains_key(&key) || !self.has_room() {
            return (Place::Shared, shared);
        }
        // What the shared bucket owes may be this source's debt.
        (Place::Own, Entry { open: 0, rate: shared.rate })
    }

    fn store(&mut self, key: Key, place: Place, entry: Entry) {
        match place {
            Place::Own => {
                self.entries.insert(key, entry);
                if entry.open == 0 {
                    self.sweep_at = self.sweep_at.min(entry.rate);
                }
            }
            Place::Shared => {
                self.shared.insert(key.listener, entry);
            }
        }
    }

    fn has_room(&mut self) -> bool {
        if self.entries.len() >= self.capacity && self.sweep_at <= self.latest {
            self.sweep();
        }
        self.entries.len() < self.capacity
    }

    fn sweep(&mut self) {
        let now = self.latest;
        self.entries.retain(|_, entry| !entry.is_fresh(now));
        self.shared.retain(|_, entry| !entry.is_fresh(now));
        let idle = self.entries.values().filter(|entry| entry.open == 0);
        self.sweep_at = idle.map(|entry| entry.rate).min().unwrap_or(u64::MAX);
    }

    fn release(&mut self, key: Key, place: Place) {
        match place {
            Place::Own => {
                let Some(entry) = self.entries.get_mut(&key) else { return };
                entry.open -= 1;
                if entry.open == 0 {
                    self.sweep_at = self.sweep_at.min(entry.rate);
                }
            }
            Place::Shared => {
                if let Some(shared) = self.shared.get_mut(&key.listener) {
                    shared.open -= 1;
                }
                if let Some(open) = self.shared_open.get_mut(&key) {
                    *open -= 1;
                    if *open == 0 {
                        self.shared_open.remove(&key);
                    }
                }
            }
        }
    }
}
