use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, LazyLock, Mutex, OnceLock, PoisonError, Weak,
        mpsc::{self, Sender},
    },
    thread,
};

use arc_swap::ArcSwapOption;
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed};

use super::{Candidate, Endpoint, TriedEndpoints};
use crate::model::maglev_slots;

/// Picks the same endpoint for the same client in every process (Eisenbud et al., Maglev: A Fast and Reliable Software
/// Network Load Balancer, NSDI 2016, section 3.4).
///
/// The table holds all members, usable or not, so that a failure moves only the clients of the failed member. They move
/// to the usable member with the highest rendezvous score (Thaler and Ravishankar, A Name-Based Mapping Scheme for
/// Rendezvous, 1996), which spreads them, and return when their member recovers. Without a table, all clients are
/// placed by their scores.
#[derive(Debug)]
pub struct Maglev {
    table: Arc<Table>,
    /// In the order of the table's members.
    endpoints: Vec<Arc<Endpoint>>,
    /// Indices of the usable endpoints.
    usable: Vec<usize>,
    prefix_v6: u8,
}

impl Maglev {
    pub fn new(candidates: &[Candidate], prefix_v6: u8, with_table: bool, previous: Option<&Self>) -> Self {
        let mut candidates: Vec<(String, &Arc<Endpoint>, u32)> = candidates
            .iter()
            .map(|candidate| (candidate.stable_id.to_string(), &candidate.endpoint, candidate.weight.value()))
            .collect();
        candidates
            .sort_by(|(id, endpoint, _), (other_id, other, _)| (id, endpoint.key()).cmp(&(other_id, other.key())));
        let members = members(&candidates);
        let table = match previous {
            Some(previous) if previous.table.is_of(&members, with_table) => previous.table.clone(),
            _ if with_table => Table::shared(members, previous.map(|previous| &previous.table)),
            _ => Table::without_slots(members),
        };
        let endpoints: Vec<_> = candidates.iter().map(|(_, endpoint, _)| Arc::clone(endpoint)).collect();
        let usable = (0..endpoints.len()).filter(|index| endpoints[*index].usable()).collect();
        Self { table, endpoints, usable, prefix_v6 }
    }

    pub fn pick(&self, client: IpAddr, tried: &TriedEndpoints) -> Option<&Arc<Endpoint>> {
        let client = client_hash(client, self.prefix_v6);
        let untried = |index: usize| !tried.contains(&self.endpoints[index]);
        let chosen = self.table.member(client);
        let chosen = chosen.filter(|chosen| self.usable.binary_search(chosen).is_ok() && untried(*chosen));
        if let Some(chosen) = chosen {
            return Some(&self.endpoints[chosen]);
        }
        let others = self.usable.iter().copied().filter(|index| untried(*index));
        let scored = others.map(|index| (self.table.members[index].rendezvous_score(client), index));
        scored.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, index)| &self.endpoints[index])
    }

    #[cfg(test)]
    pub fn table(&self) -> Arc<Table> {
        self.table.clone()
    }
}

/// The properties of an endpoint that the table and the scores depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Member {
    hash: u64,
    weight: u32,
}

impl Member {
    /// The rendezvous score, weighted so that each member gets a number of clients in proportion to its weight
    /// (Schindelhauer and Schomaker, Weighted Distributed Hash Tables, 2005, the logarithmic method).
    fn rendezvous_score(&self, client: u64) -> f64 {
        let mut both = [0; 16];
        both[..8].copy_from_slice(&client.to_le_bytes());
        both[8..].copy_from_slice(&self.hash.to_le_bytes());
        // The 53 bits that a float holds, strictly between 0 and 1.
        let uniform = ((xxh3_64(&both) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        f64::from(self.weight) / -uniform.ln()
    }
}

/// Creates the members, from their stable ids, endpoints and weights. Members with the same stable id (a pod behind two
/// ports) are distinguished by the order of their keys.
fn members(sorted: &[(String, &Arc<Endpoint>, u32)]) -> Vec<Member> {
    let ids = sorted.chunk_by(|(id, ..), (other, ..)| id == other);
    let numbered = ids.flat_map(|same| (0..).zip(same));
    let member = |(number, (id, _, weight)): (u64, &(String, &Arc<Endpoint>, u32))| Member {
        hash: xxh3_64_with_seed(id.as_bytes(), number),
        weight: *weight,
    };
    numbered.map(member).collect()
}

/// The hash of the client's address: IPv4-mapped IPv6 addresses count as IPv4, and IPv6 addresses are cut to their
/// prefix.
fn client_hash(client: IpAddr, prefix_v6: u8) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(address) => xxh3_64(&address.octets()),
        IpAddr::V6(address) => xxh3_64(&cut(address, prefix_v6).octets()),
    }
}

fn cut(address: Ipv6Addr, prefix: u8) -> Ipv6Addr {
    let hidden = 128_u32.saturating_sub(prefix.into());
    Ipv6Addr::from_bits(address.to_bits() & u128::MAX.checked_shl(hidden).unwrap_or(0))
}

/// The lookup table of a set of members.
///
/// Building one takes up to 0.1 s of CPU time, so a table that replaces another is built by a thread of its own. Until
/// it is ready, clients are looked up in the last built table, and clients of removed members are spread by their
/// scores.
#[derive(Debug)]
pub struct Table {
    members: Vec<Member>,
    /// An index into `members` for each slot; empty without members, or if clients are placed without a table.
    slots: OnceLock<Slots>,
    /// `None` once the slots are built.
    fallback: ArcSwapOption<Fallback>,
}

/// The last built table of the previous members.
#[derive(Debug)]
struct Fallback {
    table: Arc<Table>,
    /// The index among the new members of each member of `table`; `None` if it was removed.
    members: Vec<Option<usize>>,
}

/// All tables in use, by a hash of their members.
static TABLES: Mutex<Option<HashMap<u64, Weak<Table>>>> = Mutex::new(None);

/// Tables to be built by a thread of their own. A table that is no longer used when the thread reaches it is skipped,
/// so a burst of changes costs no more than its first and its last table.
static BUILDER: LazyLock<Sender<Weak<Table>>> = LazyLock::new(|| {
    let (sender, tables) = mpsc::channel::<Weak<Table>>();
    let build = move || {
        for table in tables {
            #[cfg(test)]
            let _held = hold_builds();
            if let Some(table) = table.upgrade() {
                table.build();
            }
        }
    };
    // Without the thread, the sender builds the tables.
    drop(thread::Builder::new().name("maglev".into()).spawn(build));
    sender
});

/// Keeps the thread from building tables until the returned guard is dropped.
#[cfg(test)]
pub fn hold_builds() -> std::sync::MutexGuard<'static, ()> {
    static BUILDS: Mutex<()> = Mutex::new(());
    BUILDS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Table {
    /// The table of these members, shared by all routes and load balancers with the same members.
    fn shared(members: Vec<Member>, previous: Option<&Arc<Self>>) -> Arc<Self> {
        let table = Self::find_or_insert(members, previous);
        let may_wait = previous.is_some() && table.fallback.load().is_some();
        if !may_wait || BUILDER.send(Arc::downgrade(&table)).is_err() {
            table.build();
        }
        table
    }

    fn find_or_insert(members: Vec<Member>, previous: Option<&Arc<Self>>) -> Arc<Self> {
        let hash = hash(&members);
        let existing = |tables: &Option<HashMap<u64, Weak<Self>>>| {
            let table = tables.as_ref()?.get(&hash).and_then(Weak::upgrade);
            table.filter(|table| table.members == members)
        };
        if let Some(table) = existing(&TABLES.lock().unwrap_or_else(PoisonError::into_inner)) {
            return table;
        }
        // Without the lock, which all load balancers share.
        let fallback = previous.and_then(|previous| Fallback::new(previous, &members));
        let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = existing(&tables) {
            return table;
        }
        let tables = tables.get_or_insert_default();
        let table = Arc::new(Self { members, slots: OnceLock::new(), fallback: ArcSwapOption::from_pointee(fallback) });
        // Whenever the map has doubled, so that removing costs no more than inserting.
        if tables.len() == tables.capacity() {
            tables.retain(|_, table| table.strong_count() > 0);
        }
        tables.insert(hash, Arc::downgrade(&table));
        table
    }

    /// A table without slots: clients are placed by their scores.
    fn without_slots(members: Vec<Member>) -> Arc<Self> {
        Arc::new(Self { members, slots: OnceLock::from(Slots::Wide(Vec::new())), fallback: ArcSwapOption::empty() })
    }

    fn is_of(&self, members: &[Member], with_slots: bool) -> bool {
        let has_slots = self.slots.get().is_none_or(|slots| slots.len() > 0);
        self.members == members && has_slots == (with_slots && !members.is_empty())
    }

    #[cfg(test)]
    pub fn is_built(&self) -> bool {
        self.slots.get().is_some()
    }

    #[cfg(test)]
    pub fn fallback_is_gone(&self) -> bool {
        self.fallback.load().is_none()
    }

    fn build(&self) {
        self.slots.get_or_init(|| Slots::of(slots(&self.members), self.members.len()));
        self.fallback.store(None);
    }

    /// The member of a client in the table; `None` if there is no table, or the member was removed.
    fn member(&self, client: u64) -> Option<usize> {
        if self.slots.get().is_none()
            && let Some(fallback) = &*self.fallback.load()
        {
            return fallback.members[fallback.table.member(client)?];
        }
        // The slots are read again, because the fallback is removed when they are set.
        let slots = self.slots.get()?;
        let slot = client.checked_rem(slots.len() as u64)?;
        Some(slots.member(slot as usize))
    }
}

/// The member of each slot, in the narrowest type: a table of up to 256 members takes 64 KiB.
#[derive(Debug)]
pub enum Slots {
    Narrow(Box<[u8]>),
    Medium(Box<[u16]>),
    Wide(Vec<u32>),
}

impl Slots {
    /// Stores indices below `members`.
    pub fn of(slots: Vec<u32>, members: usize) -> Self {
        if members <= 1 << 8 {
            Self::Narrow(slots.into_iter().map(|index| index as u8).collect())
        } else if members <= 1 << 16 {
            Self::Medium(slots.into_iter().map(|index| index as u16).collect())
        } else {
            Self::Wide(slots)
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Narrow(slots) => slots.len(),
            Self::Medium(slots) => slots.len(),
            Self::Wide(slots) => slots.len(),
        }
    }

    pub fn member(&self, slot: usize) -> usize {
        match self {
            Self::Narrow(slots) => slots[slot].into(),
            Self::Medium(slots) => slots[slot].into(),
            Self::Wide(slots) => slots[slot] as usize,
        }
    }
}

impl Fallback {
    /// `None` if no member of the previous table is left: all its clients would be placed by scores, unlike those of
    /// processes that have just started.
    fn new(previous: &Arc<Table>, members: &[Member]) -> Option<Self> {
        let table = match &*previous.fallback.load() {
            Some(fallback) => fallback.table.clone(),
            None => previous.clone(),
        };
        table.slots.get()?;
        let indices: HashMap<u64, usize> = (0..).zip(members).map(|(index, member)| (member.hash, index)).collect();
        let members: Vec<_> = table.members.iter().map(|member| indices.get(&member.hash).copied()).collect();
        members.iter().any(Option::is_some).then_some(Self { table, members })
    }
}

/// Fills the slots: each member in turn takes its next preferred slot that is free.
///
/// The next turn is that of the member with the fewest slots for its weight, so shares are proportional to weights.
fn slots(members: &[Member]) -> Vec<u32> {
    const FREE: u32 = u32::MAX;
    let size = maglev_slots(members.len());
    let mut slots = vec![FREE; size as usize];
    let mut preferences: Vec<_> = members.iter().map(|member| Preferences::new(member.hash, size)).collect();
    let mut turns: BinaryHeap<_> =
        (0..).zip(members).map(|(index, member)| Reverse(Turn::first(index, member))).collect();
    for _ in 0..size {
        let Some(mut turn) = turns.peek_mut() else { break };
        let index = turn.0.index;
        let free = preferences[index as usize].find(|slot| slots[*slot as usize] == FREE);
        if let Some(slot) = free {
            slots[slot as usize] = index;
        }
        turn.0.advance();
    }
    slots
}

fn hash(members: &[Member]) -> u64 {
    let mut hasher = Xxh3::new();
    for member in members {
        hasher.update(&member.hash.to_le_bytes());
        hasher.update(&member.weight.to_le_bytes());
    }
    hasher.digest()
}

/// The order in which a member prefers the slots; each slot occurs once.
struct Preferences {
    next: u32,
    skip: u32,
    size: u32,
}

impl Preferences {
    fn new(hash: u64, size: u32) -> Self {
        let of_hash = |seed, below: u32| (xxh3_64_with_seed(&hash.to_le_bytes(), seed) % u64::from(below)) as u32;
        Self { next: of_hash(1, size), skip: of_hash(2, size - 1) + 1, size }
    }
}

impl Iterator for Preferences {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let slot = self.next;
        self.next += self.skip;
        if self.next >= self.size {
            self.next -= self.size;
        }
        Some(slot)
    }
}

/// The time at which a member takes its next slot. The earliest turn is first; of equal ones, that of the lowest index.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    time: u64,
    index: u32,
    pause: u64,
}

impl Turn {
    fn first(index: u32, member: &Member) -> Self {
        // At most 2^20 turns, so that times are below 2^62.
        let pause = (1 << 42) / u64::from(member.weight);
        Self { time: pause, index, pause }
    }

    fn advance(&mut self) {
        self.time += self.pause;
    }
}
