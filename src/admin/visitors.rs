use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::task::AbortHandle;

/// The open connections to the admin pages.
///
/// Every connection is accepted at once, because a probe that waits too long fails and ends the process. At the limit,
/// the client with the most connections loses its oldest one, so that no client can exclude others by holding many
/// connections.
#[derive(Clone)]
pub struct Visitors(Arc<Mutex<Present>>);

struct Present {
    /// The maximum number of connections.
    most: usize,
    /// By order of arrival.
    visits: BTreeMap<u64, Visit>,
    next: u64,
}

struct Visit {
    source: IpAddr,
    /// `None`: the task is about to start.
    task: Option<AbortHandle>,
}

/// The place of a connection. Dropping it frees the place.
pub struct VisitorPermit {
    visitors: Visitors,
    number: u64,
}

impl Visitors {
    /// Accepts at most this many connections, so that they do not use the descriptors of balanced connections.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Mutex::new(Present { most, visits: BTreeMap::new(), next: 0 })))
    }

    /// Admits a connection, and closes another one if the limit is reached. The task that serves the connection holds
    /// its place.
    pub fn admit(&self, source: IpAddr, serve: impl FnOnce(VisitorPermit) -> AbortHandle) {
        let number = self.present().enter(source.to_canonical());
        let task = serve(VisitorPermit { visitors: self.clone(), number });
        if let Some(visit) = self.present().visits.get_mut(&number) {
            visit.task = Some(task);
        }
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Present {
    fn enter(&mut self, source: IpAddr) -> u64 {
        if self.visits.len() >= self.most {
            self.dismiss_one();
        }
        self.next += 1;
        self.visits.insert(self.next, Visit { source, task: None });
        self.next
    }

    /// Closes the oldest connection of the client with the most connections; among equals, of the one that came first.
    ///
    /// Its task is aborted, because a task that waits for a response may not notice that its connection is closed.
    fn dismiss_one(&mut self) {
        let mut connections: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for visit in self.visits.values() {
            *connections.entry(visit.source).or_default() += 1;
        }
        let Some(most) = connections.values().max() else { return };
        let oldest = self.visits.iter().find(|(_, visit)| connections.get(&visit.source) == Some(most));
        let oldest = oldest.map(|(number, _)| *number);
        if let Some(task) = oldest.and_then(|number| self.visits.remove(&number)?.task) {
            task.abort();
        }
    }
}

impl Drop for VisitorPermit {
    fn drop(&mut self) {
        self.visitors.present().visits.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const MOST: usize = 20;

    fn from(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    /// Serves a connection until it is aborted.
    fn stay(visitors: &Visitors, source: IpAddr) -> tokio::task::JoinHandle<()> {
        let mut task = None;
        visitors.admit(source, |place| {
            let staying = tokio::spawn(async move {
                let _place = place;
                pending().await
            });
            let handle = staying.abort_handle();
            task = Some(staying);
            handle
        });
        task.unwrap()
    }

    #[tokio::test]
    async fn beyond_the_limit_the_client_with_most_connections_loses_its_oldest() {
        let visitors = Visitors::new(MOST);
        // The first two clients have one connection each.
        let mut here: Vec<_> =
            [1, 2].into_iter().chain([3; MOST - 2]).map(|source| stay(&visitors, from(source))).collect();
        let _late = stay(&visitors, from(9));
        assert!(here.remove(2).await.unwrap_err().is_cancelled());
        assert_eq!(visitors.present().visits.len(), MOST);
        assert!(here.iter().all(|task| !task.is_finished()));
    }

    #[tokio::test]
    async fn a_closed_connection_frees_its_place() {
        let visitors = Visitors::new(MOST);
        let staying = stay(&visitors, from(1));
        assert_eq!(visitors.present().visits.len(), 1);
        staying.abort();
        assert!(staying.await.unwrap_err().is_cancelled());
        visitors.admit(from(1), |place| {
            drop(place);
            tokio::spawn(async {}).abort_handle()
        });
        assert_eq!(visitors.present().visits.len(), 0);
    }
}
