//! Clients that connect continuously.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::harness::{visit, wait_until};

/// A constant load of new connections, each of which must be served.
pub struct Load {
    progress: Arc<Progress>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Progress {
    stop: AtomicBool,
    served: AtomicUsize,
    errors: Mutex<Vec<String>>,
}

impl Load {
    /// Starts clients, each on a prepared thread, that connect repeatedly.
    pub fn start(clients: usize, prepare: impl Fn() + Send + Sync + 'static, address: SocketAddr) -> Self {
        let (progress, prepare) = (Arc::<Progress>::default(), Arc::new(prepare));
        let client = |_| {
            let (progress, prepare) = (progress.clone(), prepare.clone());
            thread::spawn(move || {
                prepare();
                while !progress.stop.load(Relaxed) {
                    match visit(address) {
                        Ok(()) => drop(progress.served.fetch_add(1, Relaxed)),
                        Err(error) => progress.errors.lock().unwrap().push(error.to_string()),
                    }
                    // A pause, so that local ports suffice. It is random, so that the clients do not synchronise.
                    thread::sleep(Duration::from_micros(fastrand::u64(1_000..20_000)));
                }
            })
        };
        let clients = (0..clients).map(client).collect();
        Self { progress, clients }
    }

    /// Waits until this many more connections have been served.
    pub fn goes_on_for(&self, more: usize) {
        let before = self.progress.served.load(Relaxed);
        wait_until("the load goes on", || self.progress.served.load(Relaxed) >= before + more);
    }

    pub fn has_failed(&self) -> bool {
        !self.progress.errors.lock().unwrap().is_empty()
    }

    /// The number of served connections, and the reasons of failures.
    pub fn ended(mut self) -> (usize, Vec<String>) {
        self.stop();
        (self.progress.served.load(Relaxed), std::mem::take(&mut *self.progress.errors.lock().unwrap()))
    }
    fn stop(&mut self) {
        self.progress.stop.store(true, Relaxed);
        for client in self.clients.drain(..) {
            let _ = client.join();
        }
    }
}

/// Stops the clients, even if the test fails.
impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}
