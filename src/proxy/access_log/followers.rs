//! Readers of the ends of connections, in addition to the log.
//!
//! Workers never wait for a reader, and never wake it: events go through a bounded queue, which the reader empties from
//! time to time, and events that do not fit are counted.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use arc_swap::ArcSwap;
use crossbeam_queue::ArrayQueue;

use super::event::Event;

/// The maximum number of readers.
pub const MAX_FOLLOWERS: usize = 4;
/// The capacity of each queue in events.
const QUEUE: usize = 4096;

/// Selects the events of a reader.
pub type EventFilter = Box<dyn Fn(&Event) -> bool + Send + Sync>;

/// The present readers.
#[derive(Debug, Default)]
pub struct Followers {
    /// Read at the end of each connection.
    count: AtomicUsize,
    queues: ArcSwap<Vec<Arc<FollowerQueue>>>,
}

struct FollowerQueue {
    filter: EventFilter,
    events: ArrayQueue<Event>,
    lost: AtomicU64,
}

impl std::fmt::Debug for FollowerQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FollowerQueue").field("lost", &self.lost).finish_non_exhaustive()
    }
}

impl Followers {
    pub fn is_empty(&self) -> bool {
        self.count.load(Relaxed) == 0
    }

    /// Passes an event to the readers that want it.
    #[cold]
    pub fn show(&self, event: &Event) {
        for queue in self.queues.load().iter().filter(|queue| (queue.filter)(event)) {
            if queue.events.push(event.clone()).is_err() {
                queue.lost.fetch_add(1, Relaxed);
            }
        }
    }

    /// Adds a reader. `None`: there are too many.
    pub fn follow(self: &Arc<Self>, filter: EventFilter) -> Option<Follower> {
        let added = self.count.fetch_update(Relaxed, Relaxed, |count| (count < MAX_FOLLOWERS).then_some(count + 1));
        added.ok()?;
        let queue = Arc::new(FollowerQueue { filter, events: ArrayQueue::new(QUEUE), lost: AtomicU64::new(0) });
        self.queues.rcu(|queues| queues.iter().chain([&queue]).cloned().collect::<Vec<_>>());
        Some(Follower { followers: self.clone(), queue })
    }
}

/// A reader. It is removed on drop.
#[derive(Debug)]
pub struct Follower {
    followers: Arc<Followers>,
    queue: Arc<FollowerQueue>,
}

impl Follower {
    /// The oldest event that was not taken yet.
    pub fn next(&self) -> Option<Event> {
        self.queue.events.pop()
    }

    /// The number of events that did not fit into the queue since the last call.
    pub fn take_lost(&self) -> u64 {
        self.queue.lost.swap(0, Relaxed)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let others = |queues: &Arc<Vec<Arc<FollowerQueue>>>| {
            queues.iter().filter(|queue| !Arc::ptr_eq(queue, &self.queue)).cloned().collect::<Vec<_>>()
        };
        self.followers.queues.rcu(others);
        self.followers.count.fetch_sub(1, Relaxed);
    }
}
