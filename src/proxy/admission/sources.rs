use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use tracing::warn;

use super::{gcra::Gcra, refusal::Refusal};
use crate::{
    capacity::{Place, Places, Share, Terms},
    model::{Limits, ListenerKey},
    upstream::LogLimiter,
};

/// The entries that the sources of all listeners can have: a fixed number, however many addresses come.
///
/// Each listener has a table of its own, which is guaranteed an equal part of one half of the entries. The other half can
/// be borrowed, but a listener gets at most as many as it leaves for the others. So a flood of addresses at one listener
/// takes no entry that another one needs.
#[derive(Debug)]
pub struct Sources {
    start: Instant,
    places: Arc<Places>,
    shards: usize,
    tables: Mutex<Vec<Weak<SourceTable>>>,
}

/// Entries of all tables together: about 10 MB when all of them are used.
const ENTRIES: usize = 131_072;
/// Shards of a table.
const SHARDS: usize = 32;
const TERMS: Terms = Terms { guaranteed_one_in: 2, to_come: 0, borrowed_to_left: 1 };
/// The interval at which [`Sources::sweep`] is to be called.
pub const SWEEP: Duration = Duration::from_secs(10);

impl Sources {
    /// `start` is before any time the tables are asked about.
    pub fn new(start: Instant) -> Self {
        Self::with_shape(start, SHARDS, ENTRIES)
    }

    pub(super) fn with_shape(start: Instant, shards: usize, entries: usize) -> Self {
        Self { start, places: Arc::new(Places::new(entries, TERMS)), shards, tables: Mutex::default() }
    }

    pub(super) fn nanoseconds(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }

    /// A new table, which has its part of the entries from now on.
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

    /// Removes entries that say nothing any more, and gives the parts of listeners that are gone to the others.
    pub fn sweep(&self, now: Instant) {
        let now = self.nanoseconds(now);
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if tables.iter().any(|table| table.strong_count() == 0) {
            self.divide(&mut tables);
        }
        for table in tables.iter().filter_map(Weak::upgrade) {
            for shard in &table.shards {
                lock(shard).expire(&table.share, now);
            }
        }
    }
}

/// Open connections and rates of the sources of one listener.
///
/// A source with open connections is never forgotten, and one without only when it owes nothing, so that forgetting it
/// changes nothing. When there is no entry for another one, new sources share a bucket in each shard, as if they were one
/// source.
///
/// The table is divided into shards by a keyed hash, so that nobody can aim at one. Each has a mutex, held for a look-up
/// or two and, now and then, a sweep through it: nothing in there waits, and with more shards than workers two rarely
/// meet. Looking at count and rate under one lock is what makes a refusal charge neither.
#[derive(Debug)]
pub(super) struct SourceTable {
    listener: ListenerKey,
    share: Share,
    hash: RandomState,
    shards: Box<[Mutex<Shard>]>,
    log: LogLimiter,
}

impl SourceTable {
    /// How many sources have an entry of their own.
    pub fn entries(&self) -> usize {
        self.share.in_use()
    }

    #[cfg(test)]
    pub fn guaranteed(&self) -> usize {
        self.share.guaranteed()
    }

    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        let shard = |shard: &Mutex<Shard>| {
            let shard = lock(shard);
            size_of::<Mutex<Shard>>()
                + shard.entries.capacity() * size_of::<(Prefix, Entry)>()
                + shard.shared_open.capacity() * size_of::<(Prefix, u32)>()
        };
        self.shards.iter().map(shard).sum()
    }

    /// Admits a connection of `address`, if its source's limits and then `charge_listener` let it in.
    pub fn admit(
        self: &Arc<Self>,
        address: IpAddr,
        limits: &Limits,
        now: u64,
        charge_listener: impl FnOnce() -> Result<(), Refusal>,
    ) -> Result<Option<SourcePermit>, Refusal> {
        let prefix = Prefix::of(address);
        let counted = lock(self.shard(&prefix)).admit(&self.share, prefix, limits, now, charge_listener);
        if matches!(counted, Ok(Counted::Shared)) && self.log.allow() {
            warn!(
                listener = %self.listener, entries = self.entries(),
                "clients come from more addresses than the listener has entries for: further ones share a limit per source"
            );
        }
        let (counted, by_count) = (counted?, limits.max_connections_per_source.is_some());
        Ok(by_count.then(|| SourcePermit { table: Arc::clone(self), prefix, counted }))
    }

    fn shard(&self, prefix: &Prefix) -> &Mutex<Shard> {
        &self.shards[self.hash.hash_one(prefix) as usize % self.shards.len()]
    }
}

/// A place in the count of a source.
#[derive(Debug)]
#[must_use = "the place is given back when this is dropped"]
pub struct SourcePermit {
    table: Arc<SourceTable>,
    prefix: Prefix,
    counted: Counted,
}

impl Drop for SourcePermit {
    fn drop(&mut self) {
        lock(self.table.shard(&self.prefix)).release(&self.table.share, self.prefix, self.counted);
    }
}

/// Nothing under the lock can panic half-way, so that a poisoned shard is as good as another.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The addresses that count as one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Prefix {
    V4(u32),
    /// The first 64 bits: what a single customer has at least, and can take addresses from as it likes.
    V6(u64),
}

impl Prefix {
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            IpAddr::V6(v6) => Self::V6((v6.to_bits() >> 64) as u64),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::V4(bits) => Ipv4Addr::from_bits(bits).fmt(f),
            Self::V6(bits) => write!(f, "{}/64", Ipv6Addr::from_bits(u128::from(bits) << 64)),
        }
    }
}

/// Where the connections of a source are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    Own,
    Shared,
}

/// The usage of a source, or of those that share a bucket.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    open: u32,
    /// The state of the rate ([`Gcra`]).
    rate: u64,
}

impl Usage {
    /// Whether it is as good as none.
    fn is_fresh(self, now: u64) -> bool {
        self.open == 0 && self.rate <= now
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    usage: Usage,
    place: Place,
}

/// The place where the usage of a source is kept.
#[derive(Clone, Copy, Debug)]
enum Slot {
    Entry(Place),
    /// An entry that is to be made.
    New(Place),
    Shared,
}

#[derive(Debug)]
struct Shard {
    entries: HashMap<Prefix, Entry>,
    /// The usage that sources without entries of their own share.
    shared: Usage,
    /// Open connections of the sources that are counted in `shared`. A source stays there until it has none: it would
    /// have a second limit otherwise.
    shared_open: HashMap<Prefix, u32>,
    /// The latest time anyone came with.
    latest: u64,
    /// No entry becomes fresh before.
    sweep_at: u64,
    /// A new entry has this shard swept when it has as many.
    sweep_from: usize,
    /// The time from which it may be swept again.
    sweep_after: u64,
}

/// With fewer entries than this a shard is not swept for a new one.
const FEW: usize = 16;
/// Nanoseconds between two sweeps of a shard: so a flood of addresses, of which some expire all the time, does not have
/// every connection pay for one.
const SWEEP_PAUSE: u64 = 50_000_000;

impl Default for Shard {
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

impl Shard {
    fn admit(
        &mut self,
        share: &Share,
        prefix: Prefix,
        limits: &Limits,
        now: u64,
        charge_listener: impl FnOnce() -> Result<(), Refusal>,
    ) -> Result<Counted, Refusal> {
        self.latest = self.latest.max(now);
        let (slot, usage) = self.find(share, prefix);
        let admitted = self.charge(usage, limits, charge_listener);
        match (slot, &admitted) {
            (_, Ok(usage) | Err((Refusal::SourceRate, usage))) => self.store(prefix, slot, *usage),
            (Slot::New(place), Err(_)) => share.give_back(place),
            _ => {}
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

    /// Where a source is counted, and what is known of it.
    fn find(&mut self, share: &Share, prefix: Prefix) -> (Slot, Usage) {
        if let Some(entry) = self.entries.get(&prefix) {
            return (Slot::Entry(entry.place), entry.usage);
        }
        if self.shared_open.contains_key(&prefix) {
            return (Slot::Shared, self.shared);
        }
        match self.place(share) {
            // What the shared bucket owes may be this source's debt.
            Some(place) => (Slot::New(place), Usage { open: 0, rate: self.shared.rate }),
            None => (Slot::Shared, self.shared),
        }
    }

    /// A place for a new entry.
    fn place(&mut self, share: &Share) -> Option<Place> {
        // Twice as many as were left after the last sweep: so a sweep costs each new entry a bounded part of it.
        if self.entries.len() >= self.sweep_from {
            self.expire(share, self.latest);
        }
        share.take().or_else(|| {
            self.expire(share, self.latest);
            share.take()
        })
    }

    fn store(&mut self, prefix: Prefix, slot: Slot, usage: Usage) {
        match slot {
            Slot::Entry(place) | Slot::New(place) => {
                self.entries.insert(prefix, Entry { usage, place });
                if usage.open == 0 {
                    self.sweep_at = self.sweep_at.min(usage.rate);
                }
            }
            Slot::Shared => self.shared = usage,
        }
    }

    /// Removes entries that are as good as none.
    fn expire(&mut self, share: &Share, now: u64) {
        self.latest = self.latest.max(now);
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

    fn release(&mut self, share: &Share, prefix: Prefix, counted: Counted) {
        match counted {
            Counted::Own => {
                let Some(entry) = self.entries.get_mut(&prefix) else { return };
                entry.usage.open -= 1;
                let Entry { usage, place } = *entry;
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
