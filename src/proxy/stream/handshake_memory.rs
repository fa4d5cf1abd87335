//! Bounds the memory for unfinished handshakes: the bytes of ClientHellos and of TLS handshakes.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use thiserror::Error;
use tracing::warn;

use crate::{
    capacity::{PlaceKind, Places, Share, Terms},
    log_limit::LogLimiter,
    model::ObjectKey,
};

/// The bytes that are free for each client. Nearly all handshakes need less: a ClientHello has 200 to 2,000 bytes, and
/// a chain of certificates 1,000 to 4,000.
pub const FREE: usize = 8 << 10;
/// The bytes of a place.
const PLACE: usize = 1 << 10;
/// The places for all clients together, beyond [`FREE`]: 16 MiB.
const PLACES: usize = 16 << 10;
const TERMS: Terms = Terms { guaranteed_one_in: 4, to_come: 1, borrowed_to_left: usize::MAX };

/// The handshake memory of a process beyond [`FREE`] for each client. A quarter is guaranteed to the load balancers, in
/// equal parts, and they share the rest.
#[derive(Debug)]
pub struct HandshakeMemory {
    places: Arc<Places>,
    /// The number of places in use.
    in_use: AtomicUsize,
}

/// There is no memory for a handshake of more than [`FREE`] bytes.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("unfinished handshakes have reached their memory limit")]
pub struct MemoryFull;

impl From<MemoryFull> for io::Error {
    fn from(full: MemoryFull) -> Self {
        Self::other(full)
    }
}

impl Default for HandshakeMemory {
    fn default() -> Self {
        Self::new(PLACES)
    }
}

impl HandshakeMemory {
    fn new(places: usize) -> Self {
        Self { places: Arc::new(Places::new(places, TERMS)), in_use: AtomicUsize::new(0) }
    }

    /// The bytes in use.
    pub fn in_use(&self) -> usize {
        self.in_use.load(Relaxed) * PLACE
    }

    /// Divides the memory among these load balancers. `former` ones have no guaranteed part from now on.
    pub fn divide<'a>(
        &self,
        holders: impl Iterator<Item = &'a HandshakeShare> + Clone,
        former: impl Iterator<Item = &'a HandshakeShare>,
    ) {
        self.places.divide(self.places.total(), holders.map(|of| &of.share), former.map(|of| &of.share));
    }
}

/// The handshake memory of one load balancer.
#[derive(Debug)]
pub struct HandshakeShare {
    object: ObjectKey,
    memory: Arc<HandshakeMemory>,
    share: Share,
    log: LogLimiter,
}

impl HandshakeShare {
    /// The share of a load balancer without a guaranteed part.
    pub fn new(object: ObjectKey, memory: Arc<HandshakeMemory>) -> Self {
        let share = Share::new(memory.places.clone());
        Self { object, memory, share, log: LogLimiter::new() }
    }

    /// Raises the charge of a client to cover `bytes`. Up to [`FREE`] there is no charge.
    pub fn cover(self: &Arc<Self>, charge: &mut Option<Charge>, bytes: usize) -> Result<(), MemoryFull> {
        let needed = bytes.saturating_sub(FREE).div_ceil(PLACE);
        if needed == 0 {
            return Ok(());
        }
        let charge = charge.get_or_insert_with(|| Charge { of: self.clone(), guaranteed: 0, borrowed: 0 });
        while charge.places() < needed {
            if !charge.take() {
                self.warn_of_full_memory();
                return Err(MemoryFull);
            }
        }
        Ok(())
    }

    #[cold]
    fn warn_of_full_memory(&self) {
        if self.log.allow() {
            warn!(
                load_balancer = %self.object,
                bytes = self.share.in_use() * PLACE,
                guaranteed_bytes = self.share.guaranteed() * PLACE,
                for_each = FREE,
                "unfinished TLS handshakes have reached their memory limit: larger ones are closed; set \
                 `limits.maxConnectionsPerSource` or a shorter `timeouts.handshake` on its listeners"
            );
        }
    }
}

/// The charged places of one client, given back on drop.
#[derive(Debug)]
pub struct Charge {
    of: Arc<HandshakeShare>,
    guaranteed: u16,
    borrowed: u16,
}

impl Charge {
    fn places(&self) -> usize {
        usize::from(self.guaranteed) + usize::from(self.borrowed)
    }

    /// Takes a place. Returns false if none is free.
    fn take(&mut self) -> bool {
        let count = match self.of.share.take() {
            Some(PlaceKind::Guaranteed) => &mut self.guaranteed,
            Some(PlaceKind::Borrowed) => &mut self.borrowed,
            None => return false,
        };
        *count += 1;
        self.of.memory.in_use.fetch_add(1, Relaxed);
        true
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let HandshakeShare { memory, share, .. } = &*self.of;
        memory.in_use.fetch_sub(self.places(), Relaxed);
        (0..self.guaranteed).for_each(|_| share.give_back(PlaceKind::Guaranteed));
        (0..self.borrowed).for_each(|_| share.give_back(PlaceKind::Borrowed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1 << 10;

    fn share(memory: &Arc<HandshakeMemory>) -> Arc<HandshakeShare> {
        Arc::new(HandshakeShare::new(ObjectKey::new("shop", "db"), memory.clone()))
    }

    #[test]
    fn large_handshakes_share_a_bounded_memory_and_small_ones_need_none() {
        let memory = Arc::new(HandshakeMemory::new(100));
        let share = share(&memory);
        let mut charges = [None, None, None];
        share.cover(&mut charges[0], FREE + 1).unwrap();
        assert_eq!(memory.in_use(), KIB);
        share.cover(&mut charges[0], FREE + 60 * KIB).unwrap();
        share.cover(&mut charges[0], FREE + 50 * KIB).unwrap();
        assert_eq!(memory.in_use(), 60 * KIB);
        assert_eq!(share.cover(&mut charges[1], FREE + 41 * KIB), Err(MemoryFull));
        share.cover(&mut charges[1], FREE + 40 * KIB).unwrap();
        share.cover(&mut charges[2], FREE).unwrap();
        assert_eq!(share.cover(&mut charges[2], FREE + 1), Err(MemoryFull));
        charges[0] = None;
        share.cover(&mut charges[2], FREE + 1).unwrap();
        drop(charges);
        assert_eq!((memory.in_use(), memory.places.lent()), (0, 0));
    }

    #[test]
    fn a_load_balancer_that_takes_all_it_can_leaves_others_their_guaranteed_memory() {
        let memory = Arc::new(HandshakeMemory::new(160));
        let [greedy, other] = [(); 2].map(|()| share(&memory));
        let divide = |holders: &[&Arc<HandshakeShare>], former: &[&Arc<HandshakeShare>]| {
            memory.divide(holders.iter().map(|of| &***of), former.iter().map(|of| &***of));
        };
        divide(&[&greedy, &other], &[]);
        let mut all = None;
        assert_eq!(greedy.cover(&mut all, FREE + 1000 * KIB), Err(MemoryFull));
        assert_eq!(memory.in_use(), (160 - 2 * 13) * KIB, "a quarter, divided by two load balancers and one to come");

        let mut small = None;
        other.cover(&mut small, FREE + 13 * KIB).unwrap();
        assert_eq!(other.cover(&mut small, FREE + 14 * KIB), Err(MemoryFull));
        divide(&[&other], &[&greedy]);
        drop((all, small));
        assert_eq!((memory.in_use(), memory.places.lent()), (0, 0));
    }

    #[test]
    fn the_cost_of_a_division_is_linear_in_the_number_of_load_balancers() {
        let shares = |count: usize| {
            let memory = Arc::new(HandshakeMemory::default());
            let shares: Vec<_> = (0..2 * count).map(|_| share(&memory)).collect();
            (memory, shares)
        };
        crate::cost::assert_grows_no_faster_than_n_log_n(1_000, shares, |(memory, shares)| {
            let (holders, former) = shares.split_at(shares.len() / 2);
            memory.divide(holders.iter().map(|of| &**of), former.iter().map(|of| &**of));
        });
    }
}
