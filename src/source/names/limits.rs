//! Bounds on look-ups that are under way.
//!
//! The system's resolver cannot be interrupted: a look-up that gets no answer holds its thread for as long as
//! `/etc/resolv.conf` says. So the threads are divided among namespaces, and those of a namespace among its load
//! balancers: the names of one cannot hold up those of another. Some threads are kept for names that were answered the
//! last time: names that have no server cannot hold up those.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use futures::future::select_all;
use tokio::{
    select,
    sync::{Mutex as TurnMutex, OwnedSemaphorePermit, Semaphore},
};

use crate::{
    capacity::{TenantPermit, TenantPlaces},
    model::ObjectKey,
};

/// Look-ups of one load balancer under way at a time.
pub const MAX_OF_OBJECT: usize = 8;
/// Look-ups under way at a time of names that have not been answered, or not the last time.
pub const MAX_UNANSWERED: usize = 48;
/// Further ones, of names that have been answered the last time.
pub const MAX_ANSWERED: usize = 16;

pub struct Limits {
    unanswered: Arc<TenantPlaces>,
    answered: Arc<Semaphore>,
    objects: Mutex<BTreeMap<ObjectKey, Arc<ObjectLimit>>>,
}

/// The limit of one load balancer.
struct ObjectLimit {
    permits: Arc<Semaphore>,
    /// Held by the name that waits for longest: so the load balancers of a namespace take turns.
    first: TurnMutex<()>,
}

/// A look-up that may be made until this is dropped.
pub struct Turn {
    _of_object: Option<OwnedSemaphorePermit>,
    _of_all: Thread,
}

enum Thread {
    Unanswered { _permit: TenantPermit },
    Answered { _permit: Option<OwnedSemaphorePermit> },
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unanswered: TenantPlaces::new(MAX_UNANSWERED),
            answered: Arc::new(Semaphore::new(MAX_ANSWERED)),
            objects: Mutex::default(),
        }
    }
}

impl Limits {
    /// Divides the threads among the namespaces of these load balancers from now on.
    pub fn divide<'a>(&self, wanted: impl IntoIterator<Item = &'a ObjectKey>) {
        let wanted: BTreeSet<&ObjectKey> = wanted.into_iter().collect();
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        // Look-ups that are under way count for a load balancer that returns.
        objects.retain(|object, limit| wanted.contains(object) || limit.permits.available_permits() < MAX_OF_OBJECT);
        self.unanswered.divide(wanted.into_iter().map(|object| &object.namespace));
    }

    /// Waits until a name of these load balancers may be looked up. It counts for one of them.
    pub async fn turn(&self, objects: &[ObjectKey], was_answered: bool) -> Turn {
        let turns = objects.iter().map(|object| Box::pin(self.turn_of(object, was_answered)));
        let turns: Vec<_> = turns.collect();
        if turns.is_empty() {
            return Turn { _of_object: None, _of_all: self.answered_thread().await };
        }
        select_all(turns).await.0
    }

    async fn turn_of(&self, object: &ObjectKey, was_answered: bool) -> Turn {
        let limit = self.limit(object);
        // It is never closed.
        let of_object = limit.permits.clone().acquire_owned().await.ok();
        let unanswered = async {
            let _first = limit.first.lock().await;
            Thread::Unanswered { _permit: self.unanswered.queue(&object.namespace).enter().await }
        };
        let of_all = if was_answered {
            select! {
                thread = self.answered_thread() => thread,
                thread = unanswered => thread,
            }
        } else {
            unanswered.await
        };
        Turn { _of_object: of_object, _of_all: of_all }
    }

    async fn answered_thread(&self) -> Thread {
        Thread::Answered { _permit: self.answered.clone().acquire_owned().await.ok() }
    }

    fn limit(&self, object: &ObjectKey) -> Arc<ObjectLimit> {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(limit) = objects.get(object) {
            return limit.clone();
        }
        let limit =
            Arc::new(ObjectLimit { permits: Arc::new(Semaphore::new(MAX_OF_OBJECT)), first: TurnMutex::default() });
        objects.insert(object.clone(), limit.clone());
        limit
    }
}
