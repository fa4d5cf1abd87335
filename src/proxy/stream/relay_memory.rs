//! Bounds the bytes that relayed connections hold because their receivers are slow.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tracing::warn;

use crate::log_limit::LogLimiter;

/// The held bytes of all connections together from which reads are smallest.
const LIMIT: usize = 32 << 20;
/// One TLS record: the largest read when half of the limit is held.
pub const RECORD_READ: usize = 16 << 10;
/// The largest read when the limit is held. Much smaller reads would take much more CPU.
const SMALL_READ: usize = 4 << 10;

/// The relay memory of this process.
pub static RELAY_MEMORY: RelayMemory = RelayMemory::new(LIMIT);

/// Counts the bytes that connections have read and could not write. A slow receiver is no reason to close a connection,
/// so at the limit, each connection reads less at once and therefore holds less.
#[derive(Debug)]
// All workers read and change it often: it shares no cache line with others.
#[repr(align(128))]
pub struct RelayMemory {
    limit: usize,
    held: AtomicUsize,
    log: LogLimiter,
}

impl RelayMemory {
    const fn new(limit: usize) -> Self {
        Self { limit, held: AtomicUsize::new(0), log: LogLimiter::new() }
    }

    pub fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// The size of the largest read now.
    pub fn max_read(&self) -> usize {
        match self.held() {
            held if held >= self.limit => SMALL_READ,
            held if held >= self.limit / 2 => RECORD_READ,
            _ => usize::MAX,
        }
    }

    #[cold]
    fn warn_of_limit(&self) {
        if self.log.allow() {
            warn!(
                limit = self.limit,
                "connections with slow receivers have reached the relay memory limit: all connections read at most \
                 4 KiB at once, which takes more CPU; find clients that do not read in the admin page /connections, \
                 and limit connections per source (listeners[].limits.maxConnectionsPerSource)"
            );
        }
    }
}

/// The held bytes of one connection, given back on drop.
#[derive(Debug)]
pub struct HeldBytes {
    memory: &'static RelayMemory,
    bytes: usize,
}

impl HeldBytes {
    pub fn none_of(memory: &'static RelayMemory) -> Self {
        Self { memory, bytes: 0 }
    }

    /// Changes the number of held bytes.
    #[inline]
    pub fn set(&mut self, bytes: usize) {
        if bytes != self.bytes {
            self.change(bytes);
        }
    }

    fn change(&mut self, bytes: usize) {
        let RelayMemory { limit, held, .. } = self.memory;
        if bytes < self.bytes {
            held.fetch_sub(self.bytes - bytes, Relaxed);
        } else {
            let more = bytes - self.bytes;
            let before = held.fetch_add(more, Relaxed);
            if before < *limit && before + more >= *limit {
                self.memory.warn_of_limit();
            }
        }
        self.bytes = bytes;
    }
}

impl Drop for HeldBytes {
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

    #[test]
    fn reads_are_smaller_while_connections_hold_much() {
        let memory: &'static RelayMemory = Box::leak(Box::new(RelayMemory::new(100)));
        let [mut one, mut other] = [HeldBytes::none_of(memory), HeldBytes::none_of(memory)];
        one.set(49);
        assert_eq!((memory.held(), memory.max_read()), (49, usize::MAX));
        other.set(1);
        assert_eq!((memory.held(), memory.max_read()), (50, RECORD_READ));
        one.set(200);
        assert_eq!((memory.held(), memory.max_read()), (201, SMALL_READ));
        one.set(30);
        other.set(0);
        assert_eq!((memory.held(), memory.max_read()), (30, usize::MAX));
        drop((one, other));
        assert_eq!(memory.held(), 0);
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
