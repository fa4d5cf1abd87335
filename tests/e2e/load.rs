//! Repeated short connections, and connections that stay open. The outcome of each is counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clients::{Connection, Failure, visit},
    cluster::eventually,
};

/// Repeated new connections from several concurrent clients.
pub struct Load {
    pub address: SocketAddr,
    tally: Arc<Mutex<Tally>>,
    stop: CancellationToken,
    clients: TaskTracker,
}

/// The outcomes of connections.
#[derive(Clone, Default)]
pub struct Tally {
    /// The number of connections that each backend served.
    pub served: BTreeMap<String, usize>,
    /// The failures, with the times at which the clients connected.
    pub failures: Vec<(Instant, Failure)>,
    /// The longest duration of a connection that was served.
    pub slowest: Duration,
}

impl Load {
    /// Four clients, each with about fifty connections a second.
    pub fn start(address: SocketAddr) -> Self {
        Self::with_clients(address, 4)
    }

    pub fn with_clients(address: SocketAddr, clients: usize) -> Self {
        let load = Self { address, tally: Arc::default(), stop: CancellationToken::new(), clients: TaskTracker::new() };
        for _ in 0..clients {
            let (tally, stop) = (load.tally.clone(), load.stop.clone());
            load.clients.spawn(async move {
                while !stop.is_cancelled() {
                    let began = Instant::now();
                    let outcome = visit(address).await;
                    tally.lock().unwrap().count(began, outcome);
                    sleep(Duration::from_millis(20)).await;
                }
            });
        }
        load
    }

    pub fn tally(&self) -> Tally {
        self.tally.lock().unwrap().clone()
    }

    /// Waits until this many more connections have been served.
    pub async fn goes_on_for(&self, more: usize) {
        let aim = self.tally().total_served() + more;
        eventually("the load goes on", super::cluster::WAIT_LIMIT, async || self.tally().total_served() >= aim).await;
    }

    /// Waits until the set of backends that serve new connections satisfies a condition.
    pub async fn is_served_by(&self, what: &str, limit: Duration, right: impl Fn(&BTreeSet<String>) -> bool) {
        let mut before = self.tally();
        eventually(what, limit, async || {
            let now = self.tally();
            // Enough connections for round robin to reach every backend.
            if now.total_served() < before.total_served() + 40 {
                return false;
            }
            let recent = now.since(&before);
            before = now;
            right(&recent)
        })
        .await;
    }

    /// Waits until 200 connections have been served without a failure among the clients that connected since then.
    pub async fn is_well(&self, limit: Duration) {
        let mut since = Instant::now();
        let mut aim = self.tally().total_served() + 200;
        eventually("everybody is served", limit, async || {
            let tally = self.tally();
            if tally.failed_since(since) > 0 {
                (since, aim) = (Instant::now(), tally.total_served() + 200);
            }
            tally.total_served() >= aim
        })
        .await;
    }

    /// Stops the clients after their open connections have ended.
    pub async fn end(self) -> Tally {
        self.stop.cancel();
        self.clients.close();
        self.clients.wait().await;
        let tally = self.tally.lock().unwrap().clone();
        println!("load: {tally}");
        tally
    }
}

impl Tally {
    fn count(&mut self, began: Instant, outcome: Result<String, Failure>) {
        match outcome {
            Ok(backend) => {
                *self.served.entry(backend).or_default() += 1;
                self.slowest = self.slowest.max(began.elapsed());
            }
            Err(failure) => self.failures.push((began, failure)),
        }
    }

    pub fn total_served(&self) -> usize {
        self.served.values().sum()
    }

    /// The backends that have served more connections than before.
    fn since(&self, before: &Self) -> BTreeSet<String> {
        let more = |(name, count): &(&String, &usize)| **count > before.served.get(*name).copied().unwrap_or(0);
        self.served.iter().filter(more).map(|(name, _)| name.clone()).collect()
    }

    pub fn assert_no_failure(&self) {
        assert!(self.failures.is_empty(), "no client has seen an error: {self}");
        assert!(self.total_served() > 0, "clients have been served");
    }

    /// The number of clients that connected after this time and were not served.
    pub fn failed_since(&self, instant: Instant) -> usize {
        self.failures.iter().filter(|(came, _)| *came >= instant).count()
    }

    /// The time between the first and the last client that was not served.
    pub fn trouble(&self) -> Duration {
        let came = || self.failures.iter().map(|(came, _)| *came);
        came().max().zip(came().min()).map_or(Duration::ZERO, |(last, first)| last - first)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (total, slowest) = (self.total_served(), self.slowest);
        write!(f, "{total} served by {} backends, the slowest in {slowest:.1?}", self.served.len())?;
        let mut kinds: BTreeMap<&Failure, usize> = BTreeMap::new();
        for (_, failure) in &self.failures {
            *kinds.entry(failure).or_default() += 1;
        }
        for (failure, count) in kinds {
            write!(f, ", {count} × {failure}")?;
        }
        if self.failures.is_empty() {
            return Ok(());
        }
        // In the time format of the logs.
        let ago = |came: &Instant| jiff::Timestamp::now().checked_sub(came.elapsed()).unwrap_or_default();
        let times: Vec<String> =
            self.failures.iter().take(10).map(|(came, failure)| format!("{:.3} {failure}", ago(came))).collect();
        write!(f, " within {:.1?}, the first of them at {}", self.trouble(), times.join(", "))
    }
}

/// Connections that stay open, with a little traffic.
pub struct Guests {
    stop: CancellationToken,
    tasks: TaskTracker,
    ended: Arc<Mutex<Vec<Ending>>>,
    count: usize,
    /// The number of connections at each backend at the start.
    pub at: BTreeMap<String, usize>,
}

/// The end of a connection that was meant to stay.
#[derive(Clone, Debug)]
pub struct Ending {
    pub at: Instant,
    pub failure: Failure,
    pub backend: String,
}

impl Guests {
    /// All of them must be admitted.
    pub async fn arrive(address: SocketAddr, count: usize) -> Self {
        let mut guests = Self {
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            ended: Arc::default(),
            count,
            at: BTreeMap::new(),
        };
        for _ in 0..count {
            let connection = Connection::open(address).await.expect("a guest is let in");
            *guests.at.entry(connection.backend.clone()).or_default() += 1;
            let (stop, ended) = (guests.stop.clone(), guests.ended.clone());
            guests.tasks.spawn(async move { stop.run_until_cancelled(stay(connection, &ended)).await });
        }
        guests
    }

    pub fn endings(&self) -> Vec<Ending> {
        self.ended.lock().unwrap().clone()
    }

    pub fn still_here(&self) -> usize {
        self.count - self.endings().len()
    }

    /// Ends all connections. Returns the ends of those that were closed before.
    pub async fn leave(self) -> Vec<Ending> {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        let endings = self.ended.lock().unwrap().clone();
        let kinds: BTreeSet<&Failure> = endings.iter().map(|ending| &ending.failure).collect();
        println!("guests: {} of {} stayed; the others: {kinds:?}", self.count - endings.len(), self.count);
        endings
    }
}

async fn stay(mut connection: Connection, ended: &Mutex<Vec<Ending>>) {
    loop {
        if let Err(failure) = connection.echo("still here").await {
            let ending = Ending { at: Instant::now(), failure, backend: connection.backend };
            ended.lock().unwrap().push(ending);
            return;
        }
        sleep(Duration::from_millis(500)).await;
    }
}
