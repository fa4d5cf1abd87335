//! Bounds the memory for unfinished handshakes: the bytes of ClientHellos and of TLS handshakes.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use thiserror::Error;
use tracing::warn;

use crate::upstream::LogLimiter;

/// The bytes that are free for each client. Nearly all handshakes need less: a ClientHello has 200 to 2,000 bytes, and
/// a chain of certificates 1,000 to 4,000.
pub const FREE: usize = 8 << 10;
/// The bytes beyond [`FREE`] for all clients together.
const LIMIT: usize = 16 << 20;

/// The handshake memory of this process.
pub static HANDSHAKE_MEMORY: HandshakeMemory = HandshakeMemory::new(LIMIT);

/// Counts the bytes beyond [`FREE`] of each client.
#[derive(Debug)]
pub struct HandshakeMemory {
    limit: usize,
    in_use: AtomicUsize,
    log: LogLimiter,
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

impl HandshakeMemory {
    const fn new(limit: usize) -> Self {
        Self { limit, in_use: AtomicUsize::new(0), log: LogLimiter::new() }
    }

    pub fn in_use(&self) -> usize {
        self.in_use.load(Relaxed)
    }

    /// Raises the charge of a client to cover `bytes`. Up to [`FREE`] there is no charge.
    pub fn cover(&'static self, charge: &mut Option<Charge>, bytes: usize) -> Result<(), MemoryFull> {
        if bytes <= FREE {
            return Ok(());
        }
        let charge = charge.get_or_insert(Charge { memory: self, bytes: 0 });
        let more = (bytes - FREE).saturating_sub(charge.bytes);
        let add = |in_use: usize| in_use.checked_add(more).filter(|in_use| *in_use <= self.limit);
        if self.in_use.fetch_update(Relaxed, Relaxed, add).is_err() {
            if self.log.allow() {
                warn!(
                    limit = self.limit,
                    for_each = FREE,
                    "unfinished TLS handshakes have reached their memory limit: larger ones are closed; check their \
                     sources, and limit connections per source"
                );
            }
            return Err(MemoryFull);
        }
        charge.bytes += more;
        Ok(())
    }
}

/// The charged bytes of one client, given back on drop.
#[derive(Debug)]
pub struct Charge {
    memory: &'static HandshakeMemory,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.memory.in_use.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_handshakes_share_a_bounded_memory_and_small_ones_need_none() {
        let memory: &'static HandshakeMemory = Box::leak(Box::new(HandshakeMemory::new(100)));
        let mut charges = [None, None, None];
        memory.cover(&mut charges[0], FREE + 10).unwrap();
        memory.cover(&mut charges[0], FREE + 60).unwrap();
        memory.cover(&mut charges[0], FREE + 50).unwrap();
        assert_eq!(memory.in_use(), 60);
        assert_eq!(memory.cover(&mut charges[1], FREE + 41), Err(MemoryFull));
        memory.cover(&mut charges[1], FREE + 40).unwrap();
        memory.cover(&mut charges[2], FREE).unwrap();
        assert_eq!(memory.cover(&mut charges[2], FREE + 1), Err(MemoryFull));
        charges[0] = None;
        memory.cover(&mut charges[2], FREE + 1).unwrap();
        drop(charges);
        assert_eq!(memory.in_use(), 0);
    }
}
