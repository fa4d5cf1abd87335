//! Clients that come all the time.

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

/// A constant load of new connections, each of which is to be served.
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
    /// Starts clients, each in a thread that is prepared first, that come one after the other.
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
                    // A pause for local ports to last, and not the same for all, lest they go in step.
                    thread::sleep(Duration::from_micros(fastrand::u64(1_000..20_000)));
                }
            })
        };
        let clients = (0..clients).map(client).collect();
        Self { progress, clients }
    }

    /// Waits until so many more have been served.
    pub fn goes_on_for(&self, more: usize) {
        let before = self.progress.served.load(Relaxed);
        wait_until("the load goes on", || self.progress.served.load(Relaxed) >= before + more);
    }

    pub fn has_failed(&self) -> bool {
        !self.progress.errors.lock().unwrap().is_empty()
    }

    /// How many were served, and why others were not.
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

/// Nothing of it is left behind, also by a test that fails.
impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}
