//! Bounds the bytes that relayed connections hold because their receivers are slow.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tracing::warn;

use crate::{log_limit::LogLimiter, model::ObjectKey};

/// The held bytes of all connections together from which reads are smallest.
const LIMIT: usize = 32 << 20;
/// One in this number of bytes of the limit is guaranteed to the load balancers, in equal parts.
const GUARANTEED_ONE_IN: usize = 4;
/// A load balancer that holds less than one in this number of bytes of the limit is not warned about.
const WARN_ONE_IN: usize = 16;
/// The minimum part of a load balancer, one in this number of bytes of the limit: 128 KiB, the largest read.
const MIN_PART_ONE_IN: usize = 256;
/// One TLS record: the largest read when half of the limit is held.
pub const RECORD_READ: usize = 16 << 10;
/// The largest read when the limit is held. Much smaller reads would take much more CPU.
const SMALL_READ: usize = 4 << 10;

/// The relay memory of a process: the bytes that connections have read and could not write. A slow receiver is no reason
/// to close a connection, so at the limit, each connection reads less at once and therefore holds less. Connections of
/// load balancers that hold less than their guaranteed part read up to 128 KiB.
#[derive(Debug)]
// All workers read and change it often: it shares no cache line with others.
#[repr(align(128))]
pub struct RelayMemory {
    limit: usize,
    /// The guaranteed bytes of each load balancer.
    guaranteed: AtomicUsize,
    held: AtomicUsize,
}

impl Default for RelayMemory {
    fn default() -> Self {
        Self::new(LIMIT)
    }
}

impl RelayMemory {
    fn new(limit: usize) -> Self {
        Self { limit, guaranteed: AtomicUsize::new(limit / GUARANTEED_ONE_IN), held: AtomicUsize::new(0) }
    }

    /// Divides the guaranteed part among this number of load balancers.
    pub fn divide(&self, load_balancers: usize) {
        let part = self.limit / GUARANTEED_ONE_IN / load_balancers.max(1);
        self.guaranteed.store(part.max(self.limit / MIN_PART_ONE_IN), Relaxed);
    }

    pub fn held(&self) -> usize {
        self.held.load(Relaxed)
    }
}

/// The relay memory of one load balancer.
#[derive(Debug)]
pub struct RelayShare {
    object: ObjectKey,
    memory: Arc<RelayMemory>,
    held: HeldCount,
    log: LogLimiter,
}

/// The held bytes of a load balancer. They share no cache line with the other fields, which each read uses.
#[derive(Debug, Default)]
#[repr(align(128))]
struct HeldCount(AtomicUsize);

impl RelayShare {
    pub fn new(object: ObjectKey, memory: Arc<RelayMemory>) -> Self {
        Self { object, memory, held: HeldCount::default(), log: LogLimiter::new() }
    }

    /// The held bytes of the load balancer.
    pub fn held(&self) -> usize {
        self.held.0.load(Relaxed)
    }

    /// The size of the largest read now.
    #[inline]
    pub fn max_read(&self) -> usize {
        let held = self.memory.held();
        if held < self.memory.limit / 2 { usize::MAX } else { self.max_read_while_scarce(held) }
    }

    fn max_read_while_scarce(&self, held: usize) -> usize {
        if self.held() < self.guaranteed() {
            usize::MAX
        } else if held < self.memory.limit {
            RECORD_READ
        } else {
            SMALL_READ
        }
    }

    fn guaranteed(&self) -> usize {
        self.memory.guaranteed.load(Relaxed)
    }

    #[cold]
    fn warn_of_limit(&self) {
        if self.log.allow() {
            warn!(
                load_balancer = %self.object,
                bytes = self.held(),
                guaranteed_bytes = self.guaranteed(),
                limit = self.memory.limit,
                "connections with slow receivers have reached the relay memory limit: those of this load balancer read \
                 at most 4 KiB at once (16 KiB from senders with TLS), which takes more CPU: look in /connections of the \
                 admin address for clients that do not read, and limit connections per source \
                 (listeners[].limits.maxConnectionsPerSource)"
            );
        }
    }
}

/// The held bytes of one connection, given back on drop.
#[derive(Debug)]
pub struct HeldBytes<'a> {
    share: &'a RelayShare,
    bytes: usize,
}

impl<'a> HeldBytes<'a> {
    pub fn none_of(share: &'a RelayShare) -> Self {
        Self { share, bytes: 0 }
    }

    /// The relay memory of the connection's load balancer.
    pub fn share(&self) -> &'a RelayShare {
        self.share
    }

    /// Changes the number of held bytes.
    #[inline]
    pub fn set(&mut self, bytes: usize) {
        if bytes != self.bytes {
            self.change(bytes);
        }
    }

    fn change(&mut self, bytes: usize) {
        let RelayShare { memory, held, .. } = self.share;
        if bytes < self.bytes {
            let less = self.bytes - bytes;
            held.0.fetch_sub(less, Relaxed);
            memory.held.fetch_sub(less, Relaxed);
        } else {
            let more = bytes - self.bytes;
            let own = held.0.fetch_add(more, Relaxed) + more;
            let all = memory.held.fetch_add(more, Relaxed) + more;
            if all >= memory.limit && own >= memory.limit / WARN_ONE_IN && own >= self.share.guaranteed() {
                self.share.warn_of_limit();
            }
        }
        self.bytes = bytes;
    }
}

impl Drop for HeldBytes<'_> {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Removes the first bytes, and frees the memory if less than half of it is still used.
pub fn discard_front(bytes: &mut Vec<u8>, count: usize) {
    bytes.drain(..count);
    if bytes.capacity() > 2 * bytes.len() {
        bytes.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares<const N: usize>(memory: &Arc<RelayMemory>) -> [RelayShare; N] {
        [(); N].map(|()| RelayShare::new(ObjectKey::new("shop", "db"), memory.clone()))
    }

    #[test]
    fn reads_are_smaller_while_connections_hold_much() {
        let memory = Arc::new(RelayMemory::new(100));
        let [share] = shares(&memory);
        let [mut one, mut other] = [HeldBytes::none_of(&share), HeldBytes::none_of(&share)];
        one.set(49);
        assert_eq!((memory.held(), share.max_read()), (49, usize::MAX));
        other.set(1);
        assert_eq!((memory.held(), share.max_read()), (50, RECORD_READ));
        one.set(200);
        assert_eq!((memory.held(), share.max_read()), (201, SMALL_READ));
        one.set(30);
        other.set(0);
        assert_eq!((memory.held(), share.max_read()), (30, usize::MAX));
        drop((one, other));
        assert_eq!((memory.held(), share.held()), (0, 0));
    }

    #[test]
    fn a_load_balancer_within_its_part_reads_as_much_as_without_a_limit() {
        let memory = Arc::new(RelayMemory::new(120));
        let [greedy, other] = shares(&memory);
        memory.divide(3);
        let [mut of_greedy, mut of_other] = [HeldBytes::none_of(&greedy), HeldBytes::none_of(&other)];
        of_greedy.set(1000);
        assert_eq!((greedy.max_read(), other.max_read()), (SMALL_READ, usize::MAX));
        of_other.set(9);
        assert_eq!(other.max_read(), usize::MAX);
        of_other.set(10);
        assert_eq!(other.max_read(), SMALL_READ, "a quarter of 120, divided by three");
        memory.divide(2);
        assert_eq!(other.max_read(), usize::MAX);

        let memory = Arc::<RelayMemory>::default();
        memory.divide(2_000);
        assert_eq!(shares::<1>(&memory)[0].guaranteed(), 128 << 10, "one full-size read");
    }

    #[test]
    fn sent_bytes_take_no_memory() {
        let mut bytes = vec![b'x'; 1000];
        discard_front(&mut bytes, 100);
        assert_eq!((bytes.len(), bytes.capacity()), (900, 1000));
        discard_front(&mut bytes, 890);
        assert_eq!((bytes.len(), bytes.capacity()), (10, 10));
        discard_front(&mut bytes, 10);
        assert_eq!(bytes.capacity(), 0);
    }
}
