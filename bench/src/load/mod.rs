//! The clients of a round, and their results.

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

/// The time limit for clients to end.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// The progress of clients. Only successful operations count.
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

    /// True if clients should end.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Relaxed)
    }
}

/// The number of failed operations, and the first error.
#[derive(Clone, Debug, Default)]
pub struct Failures {
    pub count: u64,
    pub first: Option<String>,
}

/// Running clients. Dropping this ends them.
#[derive(Default)]
pub struct Load {
    pub progress: Arc<Progress>,
    clients: JoinSet<()>,
}

impl Load {
    /// Adds a client, which stops when [`Progress::is_ending`] is true.
    pub fn add<F: Future<Output = ()> + Send + 'static>(&mut self, client: impl FnOnce(Arc<Progress>) -> F) {
        self.clients.spawn(client(self.progress.clone()));
    }

    /// Lets all clients finish their current operation. Clients that exceed the time limit count as failed.
    pub async fn end(mut self) -> Failures {
        self.progress.ending.store(true, Relaxed);
        let ended = async { while self.clients.join_next().await.is_some() {} };
        if timeout(END_TIMEOUT, ended).await.is_err() {
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
