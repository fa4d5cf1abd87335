//! Bounds on look-ups that are under way.
//!
//! The system's resolver cannot be interrupted: a look-up that gets no answer holds its thread for as long as
//! `/etc/resolv.conf` says. Each load balancer has a share, so that the names of one cannot hold up those of another.
//! Some threads are kept for names that were answered the last time: names that have no server cannot hold up those.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use futures::future::select_all;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::model::ObjectKey;

/// Look-ups of one load balancer under way at a time.
pub const MAX_OF_OBJECT: usize = 8;
/// Look-ups under way at a time of names that have not been answered, or not the last time.
const MAX_UNANSWERED: usize = 48;
/// Further ones, of names that have been answered the last time.
const MAX_ANSWERED: usize = 16;

pub struct Limits {
    unanswered: Arc<Semaphore>,
    answered: Arc<Semaphore>,
    objects: Mutex<BTreeMap<ObjectKey, Weak<Semaphore>>>,
}

/// A look-up that may be made until this is dropped.
pub struct Turn {
    _of_object: Option<OwnedSemaphorePermit>,
    _of_all: OwnedSemaphorePermit,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unanswered: Arc::new(Semaphore::new(MAX_UNANSWERED)),
            answered: Arc::new(Semaphore::new(MAX_ANSWERED)),
            objects: Mutex::default(),
        }
    }
}

impl Limits {
    /// Waits until a name of these load balancers may be looked up. It uses the share of one of them.
    pub async fn turn(&self, objects: &[ObjectKey], was_answered: bool) -> Result<Turn, AcquireError> {
        let shares = objects.iter().map(|object| Box::pin(self.share(object).acquire_owned()));
        let shares: Vec<_> = shares.collect();
        let of_object = if shares.is_empty() { None } else { Some(select_all(shares).await.0?) };
        let unanswered = self.unanswered.clone().acquire_owned();
        let of_all = if was_answered {
            tokio::select! {
                turn = self.answered.clone().acquire_owned() => turn?,
                turn = unanswered => turn?,
            }
        } else {
            unanswered.await?
        };
        Ok(Turn { _of_object: of_object, _of_all: of_all })
    }

    fn share(&self, object: &ObjectKey) -> Arc<Semaphore> {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = objects.get(object).and_then(Weak::upgrade) {
            return share;
        }
        // A permit holds its semaphore.
        objects.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new(MAX_OF_OBJECT));
        objects.insert(object.clone(), Arc::downgrade(&share));
        share
    }
}
