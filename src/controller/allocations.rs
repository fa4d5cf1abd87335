//! Allocation of proxy ports to listeners. Pure.
//!
//! A port is freed only when it can get no more clients: its Service no longer has it, and its object is known to be
//! deleted or no longer declares it. Since kube-proxies and clouds lag, a cooldown follows before the port is allocated
//! to another listener.

pub mod store;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use crate::world::{Allocation, Allocations, managed_service::Targets, namespace_of};

/// The number of ports in cooldown that a namespace may have (or an eighth of all ports) before it gets no more ports
/// while ports are scarce: a namespace that changes its listeners all the time does not exhaust the range.
const MAX_COOLING_DOWN: usize = 16;
/// The time before a freed port may be allocated to another listener.
const COOLDOWN: SignedDuration = SignedDuration::from_mins(10);

/// The ports that a load balancer needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub uid: Arc<str>,
    pub object: Arc<str>,
    pub created: Timestamp,
    /// The declared ports. `None`: they cannot be read, so the load balancer keeps its ports.
    pub listeners: Option<BTreeSet<u16>>,
    /// Declared ports that get no proxy port if they have none yet.
    pub barred: BTreeSet<u16>,
}

/// The input of an allocation, apart from the present allocations.
#[derive(Clone, Debug)]
pub struct Claims<'a> {
    pub claims: &'a [Claim],
    /// The proxies' ports that Services send connections to.
    pub targets: &'a Targets,
    /// The ports that foreign Services send connections to.
    pub taken: &'a BTreeSet<u16>,
    /// The uids of load balancers that are known to be gone.
    pub gone: &'a BTreeSet<Arc<str>>,
    pub range: RangeInclusive<u16>,
}

/// The desired allocations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllocationPlan {
    pub allocations: Allocations,
    /// The listeners without a port, by uid.
    pub shortage: BTreeMap<Arc<str>, BTreeSet<u16>>,
}

/// Allocates ports. Deterministic, and idempotent: allocating again from the result changes nothing.
pub fn allocate(claims: &Claims, current: &Allocations, now: Timestamp) -> AllocationPlan {
    let mut allocator =
        Allocator { ports: current.corrected_by(claims.targets, &claims.range, seconds(now)).0, claims, now };
    allocator.free();
    allocator.expire_cooldowns();
    let shortage = allocator.fill();
    AllocationPlan { allocations: Allocations(allocator.ports), shortage }
}

struct Allocator<'a> {
    ports: BTreeMap<u16, Allocation>,
    claims: &'a Claims<'a>,
    now: Timestamp,
}

impl Allocator<'_> {
    /// Frees ports that are not needed any more.
    fn free(&mut self) {
        let by_uid: BTreeMap<&str, &Claim> = self.claims.claims.iter().map(|claim| (&*claim.uid, claim)).collect();
        let mut seen = BTreeSet::new();
        for (port, allocation) in self.ports.iter_mut().filter(|(_, allocation)| allocation.freed.is_none()) {
            let first = seen.insert((allocation.uid.clone(), allocation.port));
            let needed = match by_uid.get(&*allocation.uid) {
                Some(claim) => claim.listeners.as_ref().is_none_or(|ports| ports.contains(&allocation.port)),
                // An object that is not seen now may still exist.
                None => !allocation.uid.is_empty() && !self.claims.gone.contains(&allocation.uid),
            };
            let stays = first && needed || self.claims.targets.contains_key(port);
            if !stays {
                allocation.free(seconds(self.now));
            }
        }
    }

    /// Forgets the owners of ports whose cooldown is over.
    fn expire_cooldowns(&mut self) {
        let now = self.now;
        self.ports.retain(|port, allocation| {
            let Some(freed) = &mut allocation.freed else { return true };
            // A time in the future was written with a wrong clock.
            if *freed > now {
                *freed = seconds(now);
            }
            now.duration_since(*freed) < COOLDOWN || self.claims.targets.contains_key(port)
        });
    }

    /// The namespaces that get no more ports for now. Empty while at least half of the range is left.
    fn wasteful(&self) -> BTreeSet<Arc<str>> {
        let all = self.claims.range.len();
        if self.ports.len() * 2 <= all {
            return BTreeSet::new();
        }
        let mut cooling: BTreeMap<&str, usize> = BTreeMap::new();
        for allocation in self.ports.values().filter(|allocation| allocation.freed.is_some()) {
            *cooling.entry(allocation.namespace()).or_default() += 1;
        }
        cooling.retain(|_, count| *count > MAX_COOLING_DOWN.max(all / 8));
        cooling.into_keys().map(Arc::from).collect()
    }

    /// Allocates a port to each listener without one, those of the oldest object first: the previous port of the
    /// listener if it is still in cooldown, else the lowest free port.
    fn fill(&mut self) -> BTreeMap<Arc<str>, BTreeSet<u16>> {
        let owned: BTreeSet<(Arc<str>, u16)> = self
            .ports
            .values()
            .filter(|allocation| allocation.freed.is_none())
            .map(|allocation| (allocation.uid.clone(), allocation.port))
            .collect();
        let mut cooling = self.cooling();
        let mut claims: Vec<&Claim> = self.claims.claims.iter().collect();
        claims.sort_by_key(|claim| (claim.created, &claim.object, &claim.uid));
        let mut shortage = BTreeMap::<_, BTreeSet<_>>::new();
        let wasteful = self.wasteful();
        let mut free = self.claims.range.clone();
        for claim in claims {
            let is_wasteful = wasteful.contains(namespace_of(&claim.object));
            for listener in claim.listeners.iter().flatten().filter(|listener| !claim.barred.contains(listener)) {
                if owned.contains(&(claim.uid.clone(), *listener)) || self.reclaim(claim, *listener, &mut cooling) {
                    continue;
                }
                let is_free = |port: &u16| !self.ports.contains_key(port) && !self.claims.taken.contains(port);
                let port = if is_wasteful { None } else { free.find(is_free) };
                match port {
                    Some(port) => {
                        let (uid, object) = (claim.uid.clone(), claim.object.clone());
                        self.ports.insert(port, Allocation { uid, port: *listener, object, freed: None });
                    }
                    None => {
                        shortage.entry(claim.uid.clone()).or_default().insert(*listener);
                    }
                }
            }
        }
        shortage
    }

    /// The lowest port in cooldown of each listener, by uid and listener.
    fn cooling(&self) -> BTreeMap<(Arc<str>, u16), u16> {
        let cooling = self.ports.iter().rev().filter(|(_, allocation)| allocation.freed.is_some());
        cooling.map(|(port, allocation)| ((allocation.uid.clone(), allocation.port), *port)).collect()
    }

    fn reclaim(&mut self, claim: &Claim, listener: u16, cooling: &mut BTreeMap<(Arc<str>, u16), u16>) -> bool {
        let port = cooling.remove(&(claim.uid.clone(), listener));
        let Some(allocation) = port.and_then(|port| self.ports.get_mut(&port)) else { return false };
        allocation.object = claim.object.clone();
        allocation.freed = None;
        true
    }
}

/// Truncates a time to seconds, so that ports that are freed at about the same time are written together.
fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(any(test, feature = "fuzzing"))]
pub mod simulation;
#[cfg(test)]
mod tests;
