//! Limits of pending DNS lookups.
//!
//! The system's resolver cannot be interrupted: a lookup without an answer occupies its thread for as long as
//! `/etc/resolv.conf` permits. The threads are therefore divided among namespaces, and those of a namespace among its
//! load balancers, so that the names of one cannot delay those of another. Some threads are reserved for names whose
//! last lookup was answered, so that names without a server cannot delay those.

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

/// The maximum number of pending lookups of one load balancer.
pub const MAX_OF_OBJECT: usize = 8;
/// The maximum number of pending lookups of names whose last lookup was not answered.
pub const MAX_UNANSWERED: usize = 48;
/// The number of additional pending lookups of names whose last lookup was answered.
pub const MAX_ANSWERED: usize = 16;

pub struct LookupLimits {
    unanswered: Arc<TenantPlaces>,
    answered: Arc<Semaphore>,
    objects: Mutex<BTreeMap<ObjectKey, Arc<ObjectLimit>>>,
}

/// The limit of one load balancer.
struct ObjectLimit {
    permits: Arc<Semaphore>,
    /// Held by the name that has waited the longest, so that the load balancers of a namespace take turns.
    first: TurnMutex<()>,
}

/// The permit for one lookup, until it is dropped.
pub struct LookupPermit {
    _of_object: Option<OwnedSemaphorePermit>,
    _of_all: Thread,
}

enum Thread {
    Unanswered { _permit: TenantPermit },
    Answered { _permit: Option<OwnedSemaphorePermit> },
}

impl Default for LookupLimits {
    fn default() -> Self {
        Self {
            unanswered: TenantPlaces::new(MAX_UNANSWERED),
            answered: Arc::new(Semaphore::new(MAX_ANSWERED)),
            objects: Mutex::default(),
        }
    }
}

impl LookupLimits {
    /// Divides the threads among the namespaces of these load balancers from now on.
    pub fn divide<'a>(&self, wanted: impl IntoIterator<Item = &'a ObjectKey>) {
        let wanted: BTreeSet<&ObjectKey> = wanted.into_iter().collect();
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        // Pending lookups of a load balancer that was removed count when it returns.
        objects.retain(|object, limit| wanted.contains(object) || limit.permits.available_permits() < MAX_OF_OBJECT);
        self.unanswered.divide(wanted.into_iter().map(|object| &object.namespace));
    }

    /// Waits until a name of these load balancers may be looked up. The lookup counts against one of them.
    pub async fn turn(&self, objects: &[ObjectKey], was_answered: bool) -> LookupPermit {
        let turns = objects.iter().map(|object| Box::pin(self.turn_of(object, was_answered)));
        let turns: Vec<_> = turns.collect();
        if turns.is_empty() {
            return LookupPermit { _of_object: None, _of_all: self.answered_thread().await };
        }
        select_all(turns).await.0
    }

    async fn turn_of(&self, object: &ObjectKey, was_answered: bool) -> LookupPermit {
        let limit = self.limit(object);
        // The semaphore is never closed.
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
        LookupPermit { _of_object: of_object, _of_all: of_all }
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
