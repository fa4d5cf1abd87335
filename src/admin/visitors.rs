use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::Notify, task::AbortHandle};

use crate::model::SourcePrefix;

/// The open connections to the admin pages.
///
/// No connection waits for another one to end, because a probe that waits too long fails and ends the process. At the
/// limit, the client with the most connections loses its oldest one, so that no client can exclude others by holding
/// many connections.
#[derive(Clone)]
pub struct Visitors {
    /// The maximum number of connections.
    most: usize,
    present: Arc<Mutex<Present>>,
    left: Arc<Notify>,
}

#[derive(Default)]
struct Present {
    /// By order of arrival.
    visits: BTreeMap<u64, Visit>,
    next: u64,
}

struct Visit {
    source: SourcePrefix,
    /// `None`: the task is about to start, or is aborted.
    task: Option<AbortHandle>,
}

/// The place of a connection. Dropping it frees the place.
struct VisitorPermit {
    visitors: Visitors,
    number: u64,
}

impl Visitors {
    /// Accepts at most this many connections, so that they do not use the descriptors of balanced connections.
    pub fn new(most: usize) -> Self {
        Self { most, present: Arc::default(), left: Arc::default() }
    }

    /// Serves a connection in a task. At the limit, it first closes another one and waits until its socket is closed.
    pub async fn admit(&self, source: IpAddr, connection: impl Future<Output: Send> + Send + 'static) {
        self.make_room().await;
        let number = self.present().enter(SourcePrefix::of(source));
        let permit = VisitorPermit { visitors: self.clone(), number };
        let task = tokio::spawn(async move {
            // The result does not matter. The permit outlives the connection, also if the task is aborted.
            let _ = connection.await;
            drop(permit);
        });
        if let Some(visit) = self.present().visits.get_mut(&number) {
            visit.task = Some(task.abort_handle());
        }
    }

    async fn make_room(&self) {
        while self.is_full_after_dismissal() {
            self.left.notified().await;
        }
    }

    /// Closes a connection if the limit is reached. False if there is a place.
    fn is_full_after_dismissal(&self) -> bool {
        let mut present = self.present();
        let is_full = present.visits.len() >= self.most;
        if is_full {
            present.dismiss_one();
        }
        is_full
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Present {
    fn enter(&mut self, source: SourcePrefix) -> u64 {
        self.next += 1;
        self.visits.insert(self.next, Visit { source, task: None });
        self.next
    }

    /// Closes the oldest connection of the client with the most connections; among equals, of the one that came first.
    /// It keeps its place until its socket is closed.
    ///
    /// Its task is aborted, because a task that waits for a response may not notice that its connection is closed.
    fn dismiss_one(&mut self) {
        let mut connections: BTreeMap<SourcePrefix, usize> = BTreeMap::new();
        for visit in self.visits.values() {
            *connections.entry(visit.source).or_default() += 1;
        }
        let most = connections.values().max();
        let oldest = self.visits.values_mut().find(|visit| connections.get(&visit.source) == most);
        if let Some(task) = oldest.and_then(|visit| visit.task.take()) {
            task.abort();
        }
    }
}

impl Drop for VisitorPermit {
    fn drop(&mut self) {
        self.visitors.present().visits.remove(&self.number);
        self.visitors.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use super::*;

    const MOST: usize = 20;

    fn from(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    /// An open socket. The count is that of all open sockets.
    struct CountedSocket(Arc<AtomicUsize>);

    impl CountedSocket {
        fn open(count: &Arc<AtomicUsize>) -> Self {
            count.fetch_add(1, Relaxed);
            Self(count.clone())
        }
    }

    impl Drop for CountedSocket {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Relaxed);
        }
    }

    /// Serves a connection until it is closed by the limit.
    async fn stay(visitors: &Visitors, source: IpAddr, open: &Arc<AtomicUsize>) {
        let socket = CountedSocket::open(open);
        let connection = async move {
            let _socket = socket;
            pending::<()>().await;
        };
        visitors.admit(source, connection).await;
    }

    #[tokio::test]
    async fn beyond_the_limit_the_client_with_most_connections_loses_its_oldest() {
        let (visitors, open) = (Visitors::new(MOST), Arc::default());
        // The first two clients have one connection each.
        for source in [1, 2].into_iter().chain([3; MOST - 2]) {
            stay(&visitors, from(source), &open).await;
        }
        stay(&visitors, from(9), &open).await;
        let present: Vec<u64> = visitors.present().visits.keys().copied().collect();
        let without_the_oldest: Vec<u64> = (1..=MOST as u64 + 1).filter(|number| *number != 3).collect();
        assert_eq!(present, without_the_oldest);
    }

    #[tokio::test]
    async fn addresses_of_one_ipv6_network_are_one_client() {
        let (visitors, open) = (Visitors::new(MOST), Arc::default());
        stay(&visitors, from(1), &open).await;
        for number in 0..2 * MOST {
            let host: IpAddr = format!("2001:db8::{number:x}").parse().unwrap();
            stay(&visitors, host, &open).await;
        }
        assert!(visitors.present().visits.contains_key(&1), "the other client keeps its only connection");
    }

    #[tokio::test]
    async fn a_burst_of_connections_opens_no_more_sockets_than_the_limit() {
        let (visitors, open) = (Visitors::new(MOST), Arc::default());
        for source in 0..5 * MOST {
            stay(&visitors, from(source as u8 % 3), &open).await;
            assert!(open.load(Relaxed) <= MOST, "{open:?}");
            // Some connections are being served, others have not started when they are closed.
            if source % 7 == 0 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(open.load(Relaxed), MOST);
    }

    #[tokio::test]
    async fn a_connection_that_ends_frees_its_place() {
        let visitors = Visitors::new(1);
        let socket = CountedSocket::open(&Arc::default());
        visitors.admit(from(1), async move { drop(socket) }).await;
        visitors.left.notified().await;
        assert_eq!(visitors.present().visits.len(), 0);
    }
}
