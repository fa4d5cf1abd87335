//! The limits of reviews that everyone can cause.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};

/// The number of reviews at a time.
const CONCURRENT: usize = 4;
/// The minimum duration of a turn: there are at most [`CONCURRENT`] reviews in this time.
const MIN_TURN: Duration = Duration::from_millis(200);
/// The maximum number of reviews that a source waits for, so that other sources get their turns too.
const MAX_PER_SOURCE: usize = 4;

/// Limits the number and rate of reviews. Sources get their turns in the order of their requests.
pub struct ReviewQueue {
    turns: Arc<Semaphore>,
    waiting: WaitingSources,
}

/// The number of waiting or running reviews of each source.
type WaitingSources = Arc<Mutex<BTreeMap<IpAddr, usize>>>;

/// A place in the queue. Dropping it frees the place.
struct QueuePlace {
    source: IpAddr,
    waiting: WaitingSources,
}

/// The permission for one review.
pub struct ReviewTurn {
    _permit: Arc<OwnedSemaphorePermit>,
    _place: QueuePlace,
}

impl Default for ReviewQueue {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(CONCURRENT)), waiting: WaitingSources::default() }
    }
}

impl ReviewQueue {
    /// Waits for a turn. `None`: the source has too many reviews already.
    pub async fn turn(&self, source: IpAddr) -> Option<ReviewTurn> {
        let place = QueuePlace::take(source.to_canonical(), &self.waiting)?;
        // The semaphore is never closed.
        let permit = Arc::new(self.turns.clone().acquire_owned().await.ok()?);
        let held = permit.clone();
        tokio::spawn(async move {
            sleep(MIN_TURN).await;
            drop(held);
        });
        Some(ReviewTurn { _permit: permit, _place: place })
    }
}

impl QueuePlace {
    fn take(source: IpAddr, waiting: &WaitingSources) -> Option<Self> {
        let mut counts = lock(waiting);
        let count = counts.entry(source).or_default();
        if *count >= MAX_PER_SOURCE {
            return None;
        }
        *count += 1;
        Some(Self { source, waiting: waiting.clone() })
    }
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        let mut counts = lock(&self.waiting);
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
    }
}

fn lock(waiting: &WaitingSources) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
