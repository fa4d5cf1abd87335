//! Places for which tasks of namespaces wait.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    mem,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::{
    select,
    sync::{Mutex as TurnMutex, Notify},
};

use super::places::{PlaceKind, Places, Share, Terms};

/// A limited number of places, divided among namespaces. Tasks wait for them.
///
/// A quarter of the places is guaranteed to the namespaces, in equal numbers but at least one each. The others may be
/// borrowed. The tasks of one namespace, in any number and for any time, therefore never delay the tasks of another one
/// beyond that namespace's own limit. If there are more namespaces than places, none is guaranteed, and no namespace
/// has more than half of the places.
///
/// In each namespace, only the task that has waited the longest competes with other namespaces for places to borrow.
#[derive(Debug)]
pub struct TenantPlaces {
    places: Arc<Places>,
    /// The maximum number of places of one namespace.
    most_of_one: AtomicUsize,
    queues: Mutex<Queues>,
    /// Signals that a place that can be borrowed was given back.
    lendable: Notify,
}

/// The queues by namespace: those among which the places are divided, and others that may still hold some.
#[derive(Debug, Default)]
struct Queues {
    holders: BTreeMap<Arc<str>, Arc<TenantQueue>>,
    former: BTreeMap<Arc<str>, Arc<TenantQueue>>,
}

const TERMS: Terms = Terms { guaranteed_one_in: 4, to_come: 1, borrowed_to_left: usize::MAX };

impl TenantPlaces {
    /// This number of places, without guarantees until [`Self::divide`] is called.
    pub fn new(total: usize) -> Arc<Self> {
        Arc::new(Self {
            places: Arc::new(Places::new(total, TERMS)),
            most_of_one: AtomicUsize::new(total),
            queues: Mutex::default(),
            lendable: Notify::new(),
        })
    }

    /// Divides the places among these namespaces from now on. Places of other namespaces stay taken until they are
    /// given back.
    pub fn divide<'a>(self: &Arc<Self>, namespaces: impl IntoIterator<Item = &'a Arc<str>>) {
        let mut queues = self.lock();
        let Queues { holders, former } = mem::take(&mut *queues);
        let mut queues_before = former;
        queues_before.extend(holders);
        for namespace in namespaces {
            if !queues.holders.contains_key(namespace) {
                let queue = queues_before.remove(namespace).unwrap_or_else(|| self.new_queue(namespace));
                queues.holders.insert(namespace.clone(), queue);
            }
        }
        let total = self.places.total();
        let share = |queue: &'_ Arc<TenantQueue>| queue.share.clone();
        let holders: Vec<_> = queues.holders.values().map(share).collect();
        let former: Vec<_> = queues_before.values().map(share).collect();
        self.places.divide(total, holders.iter().map(|share| &**share), former.iter().map(|share| &**share));
        let has_guaranteed = holders.iter().all(|share| share.guaranteed() > 0);
        self.most_of_one.store(if has_guaranteed { total } else { total.div_ceil(2) }, Relaxed);
        queues.former = queues_before.into_iter().filter(|(_, queue)| queue.share.in_use() > 0).collect();
        for queue in queues.holders.values().chain(queues.former.values()) {
            queue.changed.notify_one();
        }
    }

    /// The queue of a namespace. A namespace that is not part of the division has no guaranteed places.
    pub fn queue(self: &Arc<Self>, namespace: &Arc<str>) -> Arc<TenantQueue> {
        let mut queues = self.lock();
        match queues.holders.get(namespace) {
            Some(queue) => queue.clone(),
            None => queues.former.entry(namespace.clone()).or_insert_with(|| self.new_queue(namespace)).clone(),
        }
    }

    fn new_queue(self: &Arc<Self>, namespace: &Arc<str>) -> Arc<TenantQueue> {
        Arc::new(TenantQueue {
            namespace: namespace.clone(),
            pool: self.clone(),
            share: Arc::new(Share::new(self.places.clone())),
            first: TurnMutex::default(),
            changed: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        // Every step leaves the queues consistent.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The tasks of a namespace that wait for a place, and its places.
#[derive(Debug)]
pub struct TenantQueue {
    namespace: Arc<str>,
    pool: Arc<TenantPlaces>,
    share: Arc<Share>,
    /// Held by the task that has waited the longest.
    first: TurnMutex<()>,
    /// Signals that the namespace may now have another place.
    changed: Notify,
}

impl TenantQueue {
    /// Waits for a place. The tasks of a namespace get places in the order of their calls. Cancel safe.
    pub async fn enter(self: &Arc<Self>) -> TenantPermit {
        let _first = self.first.lock().await;
        loop {
            let (mut changed, mut lendable) = (pin!(self.changed.notified()), pin!(self.pool.lendable.notified()));
            // Notices places that are given back from now on.
            changed.as_mut().enable();
            if self.has_most() {
                changed.await;
                continue;
            }
            lendable.as_mut().enable();
            if let Some(permit) = self.take() {
                return permit;
            }
            select! {
                () = changed => {}
                () = lendable => {}
            }
        }
    }

    /// A free place for which no other task of the namespace waits.
    pub fn try_enter(self: &Arc<Self>) -> Option<TenantPermit> {
        let _first = self.first.try_lock().ok()?;
        if self.has_most() { None } else { self.take() }
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The number of places of the namespace.
    #[cfg(test)]
    pub fn in_use(&self) -> usize {
        self.share.in_use()
    }

    fn has_most(&self) -> bool {
        self.share.in_use() >= self.pool.most_of_one.load(Relaxed)
    }

    fn take(self: &Arc<Self>) -> Option<TenantPermit> {
        self.share.take().map(|place| TenantPermit { queue: self.clone(), place })
    }
}

/// A place of a namespace. Dropping it gives the place back.
#[derive(Debug)]
#[must_use = "the place is given back when this is dropped"]
pub struct TenantPermit {
    queue: Arc<TenantQueue>,
    place: PlaceKind,
}

impl Drop for TenantPermit {
    fn drop(&mut self) {
        let TenantQueue { pool, share, changed, .. } = &*self.queue;
        let had_most = self.queue.has_most();
        let freed = {
            let _division_lock = pool.lock();
            share.give_back_undivided(self.place)
        };
        match freed {
            PlaceKind::Borrowed => pool.lendable.notify_one(),
            PlaceKind::Guaranteed => changed.notify_one(),
        }
        if had_most {
            changed.notify_one();
        }
    }
}
