//! The clients of a round, and what they come to.

pub mod client;
pub mod open_loop;
mod socket;
pub mod tls;

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{task::JoinSet, time::timeout};

/// How long clients may take to end once they are asked to.
const PATIENCE: Duration = Duration::from_secs(5);

/// What clients have done so far. Only what succeeded counts as done.
#[derive(Debug, Default)]
pub struct Progress {
    operations: AtomicU64,
    bytes: AtomicU64,
    failures: AtomicU64,
    first_failure: Mutex<Option<String>>,
    ending: AtomicBool,
}

impl Progress {
    pub fn done(&self) {
        self.operations.fetch_add(1, Relaxed);
    }

    pub fn moved(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    pub fn failed(&self, what: &str, error: &io::Error) {
        self.failures.fetch_add(1, Relaxed);
        self.first_failure.lock().unwrap().get_or_insert_with(|| format!("{what}: {error}"));
    }

    pub fn operations(&self) -> u64 {
        self.operations.load(Relaxed)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Whether clients are asked to end.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Relaxed)
    }
}

/// How many operations failed, and what the first one met.
#[derive(Clone, Debug, Default)]
pub struct Failures {
    pub count: u64,
    pub first: Option<String>,
}

/// Clients at work. They end when this is dropped.
#[derive(Default)]
pub struct Load {
    pub progress: Arc<Progress>,
    clients: JoinSet<()>,
}

impl Load {
    /// One more client, which stops when [`Progress::is_ending`] says so.
    pub fn add<F: Future<Output = ()> + Send + 'static>(&mut self, client: impl FnOnce(Arc<Progress>) -> F) {
        self.clients.spawn(client(self.progress.clone()));
    }

    /// Lets everybody finish what they are at. Those who do not in time had failed all along.
    pub async fn end(mut self) -> Failures {
        self.progress.ending.store(true, Relaxed);
        let ended = async { while self.clients.join_next().await.is_some() {} };
        if timeout(PATIENCE, ended).await.is_err() {
            for _ in 0..self.clients.len() {
                self.progress.failed("an operation did not end", &io::ErrorKind::TimedOut.into());
            }
        }
        Failures {
            count: self.progress.failures.load(Relaxed),
            first: self.progress.first_failure.lock().unwrap().take(),
        }
    }
}
