//! The turns of scenarios: several run at the same time, then those that need the whole cluster, one by one.

use std::sync::LazyLock;

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, Semaphore, SemaphorePermit, watch};

/// The number of scenarios that run at the same time.
const CONCURRENT_SCENARIOS: usize = 5;

static CLUSTER: RwLock<()> = RwLock::const_new(());
static PLACES: Semaphore = Semaphore::const_new(CONCURRENT_SCENARIOS);
/// The number of [`Isolation::Shared`] scenarios that run or wait for their turn.
static SHARED: LazyLock<watch::Sender<usize>> = LazyLock::new(watch::Sender::default);

/// The isolation of a scenario from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Other scenarios run at the same time.
    Shared,
    /// The scenario takes nodes or the API server away, or measures, so no other scenario runs.
    Exclusive,
}

/// The turn of a scenario, which ends on drop.
#[expect(dead_code, reason = "the guards are held for their effect")]
pub enum Turn {
    Shared(RwLockReadGuard<'static, ()>, SemaphorePermit<'static>, SharedScenario),
    Exclusive(RwLockWriteGuard<'static, ()>),
}

impl Turn {
    /// Waits for the turn of a scenario. Exclusive ones wait until no other scenario is left that has begun to wait:
    /// each change between the two kinds leaves places empty.
    pub async fn begin(isolation: Isolation) -> Self {
        match isolation {
            Isolation::Shared => {
                let counted = SharedScenario::begin();
                let place = PLACES.acquire().await.expect("the semaphore is never closed");
                Self::Shared(CLUSTER.read().await, place, counted)
            }
            Isolation::Exclusive => {
                SHARED.subscribe().wait_for(|count| *count == 0).await.expect("the sender is never dropped");
                Self::Exclusive(CLUSTER.write().await)
            }
        }
    }
}

/// Counts a shared scenario from its creation until it is dropped.
pub struct SharedScenario(());

impl SharedScenario {
    fn begin() -> Self {
        SHARED.send_modify(|count| *count += 1);
        Self(())
    }
}

impl Drop for SharedScenario {
    fn drop(&mut self) {
        SHARED.send_modify(|count| *count -= 1);
    }
}
