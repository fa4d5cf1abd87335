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

use crate::model::SourcePrefix;

/// The number of reviews at a time.
const CONCURRENT: usize = 8;
/// The number of reviews of a source at a time.
const CONCURRENT_OF_SOURCE: usize = 2;
/// The minimum duration of a turn: there are at most [`CONCURRENT`] reviews in this time.
const MIN_TURN: Duration = Duration::from_millis(400);
/// The maximum number of reviews that a source waits for, so that other sources get their turns too.
const MAX_PER_SOURCE: usize = 4;

/// Limits the number and rate of reviews. A source has two reviews at a time, so that its slow reviews leave the other
/// turns to other sources. Sources get their turns in the order of their requests.
pub struct ReviewQueue {
    turns: Arc<Semaphore>,
    waiting: WaitingSources,
}

/// The sources with waiting or running reviews.
type WaitingSources = Arc<Mutex<BTreeMap<SourcePrefix, WaitingSource>>>;

struct WaitingSource {
    /// The number of waiting or running reviews.
    count: usize,
    /// The permits of the reviews that run or wait for a turn. The others wait for one.
    permits: Arc<Semaphore>,
}

/// A place in the queue. Dropping it frees the place.
struct QueuePlace {
    source: SourcePrefix,
    permits: Arc<Semaphore>,
    waiting: WaitingSources,
}

/// The permission for one review.
pub struct ReviewTurn {
    _permit: Arc<OwnedSemaphorePermit>,
    _own: OwnedSemaphorePermit,
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
        let place = QueuePlace::take(SourcePrefix::of(source), &self.waiting)?;
        // The semaphores are never closed.
        let own = place.permits.clone().acquire_owned().await.ok()?;
        let permit = Arc::new(self.turns.clone().acquire_owned().await.ok()?);
        let held = permit.clone();
        tokio::spawn(async move {
            sleep(MIN_TURN).await;
            drop(held);
        });
        Some(ReviewTurn { _permit: permit, _own: own, _place: place })
    }
}

impl Default for WaitingSource {
    fn default() -> Self {
        Self { count: 0, permits: Arc::new(Semaphore::new(CONCURRENT_OF_SOURCE)) }
    }
}

impl QueuePlace {
    fn take(source: SourcePrefix, waiting: &WaitingSources) -> Option<Self> {
        let mut sources = lock(waiting);
        let reviews = sources.entry(source).or_default();
        if reviews.count >= MAX_PER_SOURCE {
            return None;
        }
        reviews.count += 1;
        Some(Self { source, permits: reviews.permits.clone(), waiting: waiting.clone() })
    }
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        let mut sources = lock(&self.waiting);
        if let Some(reviews) = sources.get_mut(&self.source) {
            reviews.count -= 1;
            if reviews.count == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

fn lock(waiting: &WaitingSources) -> MutexGuard<'_, BTreeMap<SourcePrefix, WaitingSource>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
