//! The places of the queue of the log.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use super::event::Event;

/// The capacity of the queue in events. The queue has its full size from the start: about 290 bytes each.
pub const QUEUE: usize = 4096;
/// The maximum number of events of a load balancer in the queue, for each free place: one load balancer alone has at
/// most three quarters of the queue, and those with many events always leave places for others while the sink is slow.
/// Queued events cannot be taken back, so the places for others must be free before there are others.
const QUEUED_TO_FREE: usize = 3;

/// The number of events in the queue, of one load balancer or of all.
#[derive(Debug, Default)]
pub struct QueuedEvents(pub AtomicUsize);

/// An event in the queue. It has a place until it is dropped.
#[derive(Debug)]
pub struct QueueEntry {
    pub event: Event,
    all: Arc<QueuedEvents>,
    own: Arc<QueuedEvents>,
}

impl QueueEntry {
    /// Takes a place for an event. `all` and `own` are the events of all load balancers and of its own. `None`: the
    /// queue is full, or has too many events of the load balancer.
    pub fn new(event: Event, all: &Arc<QueuedEvents>, own: &Arc<QueuedEvents>) -> Option<Self> {
        let entry = Self { event, all: all.clone(), own: own.clone() };
        let of_own = own.0.fetch_add(1, Relaxed);
        let free = QUEUE.saturating_sub(all.0.fetch_add(1, Relaxed));
        (of_own < QUEUED_TO_FREE * free).then_some(entry)
    }
}

impl Drop for QueueEntry {
    fn drop(&mut self) {
        self.own.0.fetch_sub(1, Relaxed);
        self.all.0.fetch_sub(1, Relaxed);
    }
}
