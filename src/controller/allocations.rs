//! Which listener gets which of the proxies' ports. Pure.
//!
//! A port is taken from a listener only when nobody can be sent to it any more: its Service no longer has it, and its
//! object is known to be gone or no longer declares it. Then it rests, since kube-proxies and clouds lag, and goes to
//! somebody else only after that.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use crate::world::{Allocation, Allocations, kept::Targets, namespace_of};

/// A namespace may have this many ports at rest, or an eighth of all, before it gets no more of what is scarce: who changes
/// its listeners all the time does not use up everybody's ports.
const MAY_REST: usize = 16;
/// How long a port that was freed is given to nobody else.
const REST: SignedDuration = SignedDuration::from_mins(10);

/// What a load balancer needs ports for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub uid: Arc<str>,
    pub object: Arc<str>,
    pub created: Timestamp,
    /// The declared ports. `None`: they cannot be read, so it keeps what it has.
    pub listeners: Option<BTreeSet<u16>>,
    /// Those of them that get no port if they have none yet.
    pub barred: BTreeSet<u16>,
}

/// What allocations are decided by, but for those that there are.
#[derive(Clone, Debug)]
pub struct Claims<'a> {
    pub claims: &'a [Claim],
    /// The proxies' ports that Services send connections to.
    pub targets: &'a Targets,
    /// Those that other Services send connections to.
    pub taken: &'a BTreeSet<u16>,
    /// The uids that are known to be no load balancer of ours any more.
    pub gone: &'a BTreeSet<Arc<str>>,
    pub range: RangeInclusive<u16>,
}

/// Who shall have which port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allotment {
    pub allocations: Allocations,
    /// The listeners, by uid, that there is no port for.
    pub shortage: BTreeMap<Arc<str>, BTreeSet<u16>>,
}

/// Decides anew who has which port. The same question has the same answer, and an answer asked about again is kept.
pub fn allot(claims: &Claims, current: &Allocations, now: Timestamp) -> Allotment {
    let mut book = Book { ports: current.believing(claims.targets, &claims.range, seconds(now)).0, claims, now };
    book.free();
    book.wake_the_rested();
    let shortage = book.fill();
    Allotment { allocations: Allocations(book.ports), shortage }
}

struct Book<'a> {
    ports: BTreeMap<u16, Allocation>,
    claims: &'a Claims<'a>,
    now: Timestamp,
}

impl Book<'_> {
    /// Lets go of what nobody needs.
    fn free(&mut self) {
        let by_uid: BTreeMap<&str, &Claim> = self.claims.claims.iter().map(|claim| (&*claim.uid, claim)).collect();
        let mut seen = BTreeSet::new();
        for (port, allocation) in self.ports.iter_mut().filter(|(_, allocation)| allocation.freed.is_none()) {
            let first = seen.insert((allocation.uid.clone(), allocation.port));
            let needed = match by_uid.get(&*allocation.uid) {
                Some(claim) => claim.listeners.as_ref().is_none_or(|ports| ports.contains(&allocation.port)),
                // Not to be seen now is not to be gone.
                None => !allocation.uid.is_empty() && !self.claims.gone.contains(&allocation.uid),
            };
            let stays = first && needed || self.claims.targets.contains_key(port);
            if !stays {
                allocation.free(seconds(self.now));
            }
        }
    }

    /// Forgets whom ports belonged to that have rested.
    fn wake_the_rested(&mut self) {
        let now = self.now;
        self.ports.retain(|port, allocation| {
            let Some(freed) = &mut allocation.freed else { return true };
            // By a clock that was wrong.
            if *freed > now {
                *freed = seconds(now);
            }
            now.duration_since(*freed) < REST || self.claims.targets.contains_key(port)
        });
    }

    /// The namespaces that get no more ports for now, where fewer than half of all are left.
    fn wasteful(&self) -> BTreeSet<Arc<str>> {
        let all = self.claims.range.len();
        if self.ports.len() * 2 <= all {
            return BTreeSet::new();
        }
        let mut resting: BTreeMap<&str, usize> = BTreeMap::new();
        for allocation in self.ports.values().filter(|allocation| allocation.freed.is_some()) {
            *resting.entry(allocation.namespace()).or_default() += 1;
        }
        resting.retain(|_, count| *count > MAY_REST.max(all / 8));
        resting.into_keys().map(Arc::from).collect()
    }

    /// Gives a port to each listener without one, the oldest object's first: that which it had before if it still rests,
    /// else the lowest that is nobody's.
    fn fill(&mut self) -> BTreeMap<Arc<str>, BTreeSet<u16>> {
        let owned: BTreeSet<(Arc<str>, u16)> = self
            .ports
            .values()
            .filter(|allocation| allocation.freed.is_none())
            .map(|allocation| (allocation.uid.clone(), allocation.port))
            .collect();
        let mut claims: Vec<&Claim> = self.claims.claims.iter().collect();
        claims.sort_by_key(|claim| (claim.created, &claim.object, &claim.uid));
        let mut shortage = BTreeMap::<_, BTreeSet<_>>::new();
        let wasteful = self.wasteful();
        let mut free = self.claims.range.clone();
        for claim in claims {
            let is_wasteful = wasteful.contains(namespace_of(&claim.object));
            for listener in claim.listeners.iter().flatten().filter(|listener| !claim.barred.contains(listener)) {
                if owned.contains(&(claim.uid.clone(), *listener)) || self.take_back(claim, *listener) {
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

    fn take_back(&mut self, claim: &Claim, listener: u16) -> bool {
        let rests = |allocation: &&mut Allocation| allocation.uid == claim.uid && allocation.port == listener;
        let Some(resting) = self.ports.values_mut().find(rests) else { return false };
        resting.object = claim.object.clone();
        resting.freed.take().is_some()
    }
}

/// Without a fraction: what is freed at about the same time is written at once.
fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(any(test, feature = "fuzzing"))]
pub mod simulation;
#[cfg(test)]
mod tests;
