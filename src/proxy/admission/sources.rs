use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use tracing::warn;

use super::{gcra::Gcra, refusal::Refusal};
use crate::{
    capacity::{PlaceKind, Places, Share, Terms},
    log_limit::LogLimiter,
    model::{Limits, ListenerKey, SourcePrefix},
};

/// The entries for the sources of all listeners: a fixed number, however many addresses connect.
///
/// Each listener has its own table, which is guaranteed an equal part of one half of the entries. The other half can be
/// borrowed, but a listener gets at most as many as it leaves for the others. A flood of addresses at one listener
/// takes no entry that another one needs.
#[derive(Debug)]
pub struct Sources {
    start: Instant,
    places: Arc<Places>,
    shards: usize,
    tables: Mutex<Vec<Weak<SourceTable>>>,
}

/// Entries of all tables together: about 10 MB when all are used.
const ENTRIES: usize = 131_072;
/// Shards of a table.
const SHARDS: usize = 32;
const TERMS: Terms = Terms { guaranteed_one_in: 2, to_come: 0, borrowed_to_left: 1 };
/// The interval between calls of [`Sources::sweep`].
pub const SWEEP: Duration = Duration::from_secs(10);

impl Sources {
    /// `start` must not be after any time passed to the tables.
    pub fn new(start: Instant) -> Self {
        Self::with_shape(start, SHARDS, ENTRIES)
    }

    pub(super) fn with_shape(start: Instant, shards: usize, entries: usize) -> Self {
        Self { start, places: Arc::new(Places::new(entries, TERMS)), shards, tables: Mutex::default() }
    }

    pub(super) fn nanoseconds(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Creates a table and reserves its part of the entries.
    pub(super) fn table(&self, listener: ListenerKey) -> Arc<SourceTable> {
        let table = Arc::new(SourceTable {
            listener,
            share: Share::new(Arc::clone(&self.places)),
            hash: RandomState::new(),
            shards: (0..self.shards).map(|_| Mutex::default()).collect(),
            log: LogLimiter::new(),
        });
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.push(Arc::downgrade(&table));
        self.divide(&mut tables);
        table
    }

    fn divide(&self, tables: &mut Vec<Weak<SourceTable>>) {
        tables.retain(|table| table.strong_count() > 0);
        let live: Vec<_> = tables.iter().filter_map(Weak::upgrade).collect();
        self.places.divide(self.places.total(), live.iter().map(|table| &table.share), std::iter::empty());
    }

    /// Removes expired entries, and divides the entries of removed listeners among the others.
    pub fn sweep(&self, now: Instant) {
        let now = self.nanoseconds(now);
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if tables.iter().any(|table| table.strong_count() == 0) {
            self.divide(&mut tables);
        }
        for table in tables.iter().filter_map(Weak::upgrade) {
            for shard in &table.shards {
                let mut shard = lock(shard);
                shard.advance(now);
                shard.expire(&table.share);
            }
        }
    }
}

/// Open connections and rates of the sources of one listener.
///
/// The entry of a source with open connections is never removed; without connections it is removed once its rate has
/// recovered, so that removal changes nothing. When no entry is left, new sources share a bucket in each shard, as if
/// they were one source.
///
/// The table is divided into shards by a keyed hash, so that an attacker cannot target one. Each shard has a mutex,
/// held for one or two look-ups and an occasional sweep: nothing waits under the lock, and with more shards than
/// workers two rarely contend. Because count and rate are checked under one lock, a refusal charges neither.
#[derive(Debug)]
pub(super) struct SourceTable {
    listener: ListenerKey,
    share: Share,
    hash: RandomState,
    shards: Box<[Mutex<SourceShard>]>,
    log: LogLimiter,
}

impl SourceTable {
    /// The number of sources with their own entry.
    pub fn entries(&self) -> usize {
        self.share.in_use()
    }

    #[cfg(test)]
    pub fn guaranteed(&self) -> usize {
        self.share.guaranteed()
    }

    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        let shard = |shard: &Mutex<SourceShard>| {
            let shard = lock(shard);
            size_of::<Mutex<SourceShard>>()
                + shard.entries.capacity() * size_of::<(SourcePrefix, SourceEntry)>()
                + shard.shared_open.capacity() * size_of::<(SourcePrefix, u32)>()
        };
        self.shards.iter().map(shard).sum()
    }

    /// Admits a connection from `address` if the limits of its source and then `charge_listener` allow it.
    pub fn admit(
        self: &Arc<Self>,
        address: IpAddr,
        limits: &Limits,
        now: u64,
        charge_listener: impl FnOnce() -> Result<(), Refusal>,
    ) -> Result<Option<SourcePermit>, Refusal> {
        let prefix = SourcePrefix::of(address);
        let counted = {
            let mut shard = lock(self.shard(&prefix));
            shard.advance(now);
            shard.admit(&self.share, prefix, limits, charge_listener)
        };
        if matches!(counted, Ok(Counted::Shared)) && self.log.allow() {
            warn!(
                listener = %self.listener, entries = self.entries(),
                "too many client addresses for the source entries of the listener: further addresses share one limit \
                 per source"
            );
        }
        let (counted, by_count) = (counted?, limits.max_connections_per_source.is_some());
        Ok(by_count.then(|| SourcePermit { table: Arc::clone(self), prefix, counted }))
    }

    fn shard(&self, prefix: &SourcePrefix) -> &Mutex<SourceShard> {
        &self.shards[self.hash.hash_one(prefix) as usize % self.shards.len()]
    }
}

/// A place in the count of a source.
#[derive(Debug)]
#[must_use = "the place is given back when this is dropped"]
pub struct SourcePermit {
    table: Arc<SourceTable>,
    prefix: SourcePrefix,
    counted: Counted,
}

impl Drop for SourcePermit {
    fn drop(&mut self) {
        lock(self.table.shard(&self.prefix)).release(&self.table.share, self.prefix, self.counted);
    }
}

/// No code under the lock panics between two writes, so a poisoned shard is consistent.
fn lock(shard: &Mutex<SourceShard>) -> MutexGuard<'_, SourceShard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The entry or bucket that counts the connections of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    Own,
    Shared,
}

/// The usage of a source, or of all sources that share a bucket.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    open: u32,
    /// The state of the rate ([`Gcra`]).
    rate: u64,
}

impl Usage {
    /// True if the usage equals that of a new source.
    fn is_fresh(self, now: u64) -> bool {
        self.open == 0 && self.rate <= now
    }
}

#[derive(Clone, Copy, Debug)]
struct SourceEntry {
    usage: Usage,
    place: PlaceKind,
}

/// The place where the usage of a source is kept.
#[derive(Clone, Copy, Debug)]
enum Slot {
    Entry(PlaceKind),
    /// A new entry.
    New(PlaceKind),
    Shared,
}

#[derive(Debug)]
struct SourceShard {
    entries: HashMap<SourcePrefix, SourceEntry>,
    /// The usage shared by sources without their own entry.
    shared: Usage,
    /// Open connections of the sources that are counted in `shared`. A source stays there until it has no open
    /// connection; otherwise it would have a second limit.
    shared_open: HashMap<SourcePrefix, u32>,
    /// The latest time of any connection so far.
    latest: u64,
    /// The earliest time at which an entry can expire.
    sweep_at: u64,
    /// The number of entries at which a new one causes a sweep of this shard.
    sweep_from: usize,
    /// The earliest time of the next sweep.
    sweep_after: u64,
}

/// The smallest number of entries at which a new one causes a sweep.
const FEW: usize = 16;
/// The minimum time between two sweeps of a shard, in nanoseconds. Without it, a flood of addresses that expire all the
/// time would make every connection pay for a sweep.
const SWEEP_PAUSE: u64 = 50_000_000;

impl Default for SourceShard {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            shared: Usage::default(),
            shared_open: HashMap::new(),
            latest: 0,
            sweep_at: u64::MAX,
            sweep_from: FEW,
            sweep_after: 0,
        }
    }
}

impl SourceShard {
    /// Sets the time of the next operation. The times of several workers may arrive out of order.
    fn advance(&mut self, now: u64) {
        self.latest = self.latest.max(now);
    }

    fn admit(
        &mut self,
        share: &Share,
        prefix: SourcePrefix,
        limits: &Limits,
        charge_listener: impl FnOnce() -> Result<(), Refusal>,
    ) -> Result<Counted, Refusal> {
        let (slot, usage) = self.find(share, prefix);
        let admitted = self.charge(usage, limits, charge_listener);
        match (slot, &admitted) {
            (_, Ok(usage) | Err((Refusal::SourceRate, usage))) => self.store(prefix, slot, *usage),
            (Slot::New(place), Err(_)) => share.give_back(place),
            (Slot::Entry(_) | Slot::Shared, Err(_)) => {}
        }
        admitted.map_err(|(refusal, _)| refusal)?;
        if !matches!(slot, Slot::Shared) {
            return Ok(Counted::Own);
        }
        if limits.max_connections_per_source.is_some() {
            *self.shared_open.entry(prefix).or_default() += 1;
        }
        Ok(Counted::Shared)
    }

    /// The usage after a connection, or after its refusal.
    fn charge(
        &self,
        usage: Usage,
        limits: &Limits,
        charge_listener: impl FnOnce() -> Result<(), Refusal>,
    ) -> Result<Usage, (Refusal, Usage)> {
        let counts = limits.max_connections_per_source;
        if counts.is_some_and(|limit| usage.open >= limit.get()) {
            return Err((Refusal::SourceFull, usage));
        }
        let rate = match limits.new_connections_per_source.map(|rate| Gcra::from(rate).decide(usage.rate, self.latest))
        {
            None => usage.rate,
            Some(Ok(charged)) => charged,
            Some(Err(rate)) => return Err((Refusal::SourceRate, Usage { rate, ..usage })),
        };
        charge_listener().map_err(|refusal| (refusal, usage))?;
        Ok(Usage { open: usage.open + u32::from(counts.is_some()), rate })
    }

    /// Finds the entry or bucket that counts a source, and its usage.
    fn find(&mut self, share: &Share, prefix: SourcePrefix) -> (Slot, Usage) {
        if let Some(entry) = self.entries.get(&prefix) {
            return (Slot::Entry(entry.place), entry.usage);
        }
        if self.shared_open.contains_key(&prefix) {
            return (Slot::Shared, self.shared);
        }
        match self.place(share) {
            // The debt of the shared bucket may be this source's.
            Some(place) => (Slot::New(place), Usage { open: 0, rate: self.shared.rate }),
            None => (Slot::Shared, self.shared),
        }
    }

    /// Finds a place for a new entry.
    fn place(&mut self, share: &Share) -> Option<PlaceKind> {
        // Twice as many as were left after the last sweep, so that the cost of sweeps per new entry is bounded.
        if self.entries.len() >= self.sweep_from {
            self.expire(share);
        }
        share.take().or_else(|| {
            self.expire(share);
            share.take()
        })
    }

    fn store(&mut self, prefix: SourcePrefix, slot: Slot, usage: Usage) {
        match slot {
            Slot::Entry(place) | Slot::New(place) => {
                self.entries.insert(prefix, SourceEntry { usage, place });
                if usage.open == 0 {
                    self.sweep_at = self.sweep_at.min(usage.rate);
                }
            }
            Slot::Shared => self.shared = usage,
        }
    }

    /// Removes entries that equal those of new sources.
    fn expire(&mut self, share: &Share) {
        if self.sweep_at > self.latest || self.sweep_after > self.latest {
            return;
        }
        let now = self.latest;
        self.sweep_after = now.saturating_add(SWEEP_PAUSE);
        self.entries.retain(|_, entry| {
            let fresh = entry.usage.is_fresh(now);
            if fresh {
                share.give_back(entry.place);
            }
            !fresh
        });
        let idle = self.entries.values().filter(|entry| entry.usage.open == 0);
        self.sweep_at = idle.map(|entry| entry.usage.rate).min().unwrap_or(u64::MAX);
        self.sweep_from = FEW.max(2 * self.entries.len());
        if self.entries.capacity() > 4 * self.sweep_from {
            self.entries.shrink_to(self.sweep_from);
        }
    }

    fn release(&mut self, share: &Share, prefix: SourcePrefix, counted: Counted) {
        match counted {
            Counted::Own => {
                let Some(entry) = self.entries.get_mut(&prefix) else { return };
                entry.usage.open -= 1;
                let SourceEntry { usage, place } = *entry;
                if usage.is_fresh(self.latest) {
                    self.entries.remove(&prefix);
                    share.give_back(place);
                } else if usage.open == 0 {
                    self.sweep_at = self.sweep_at.min(usage.rate);
                }
            }
            Counted::Shared => {
                self.shared.open -= 1;
                if let Some(open) = self.shared_open.get_mut(&prefix) {
                    *open -= 1;
                    if *open == 0 {
                        self.shared_open.remove(&prefix);
                    }
                }
            }
        }
    }
}
