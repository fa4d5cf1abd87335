use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

use super::rendering::MAX_RENDERINGS;

/// The number of threads for other blocking work: lookups of the API server's name, for reviews of tokens.
const MAX_LOOKUPS: usize = 4;

/// The thread for admin requests. `/livez` and `/readyz` are answered even when the control threads are busy. Dropping
/// it ends all requests.
pub struct AdminThread {
    handle: Handle,
    /// Taken only on drop.
    runtime: Option<Runtime>,
}

impl AdminThread {
    /// # Errors
    /// If the thread or its event loop cannot be created.
    pub fn start() -> io::Result<Self> {
        // One thread answers requests while others render pages.
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(MAX_RENDERINGS + MAX_LOOKUPS)
            .thread_name("admin")
            .enable_all()
            .build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for AdminThread {
    fn drop(&mut self) {
        // A runtime cannot be dropped with a wait inside another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;
    use crate::admin::rendering::Rendering;

    #[test]
    fn requests_are_answered_while_pages_are_being_rendered() {
        const DEADLINE: Duration = Duration::from_secs(60);

        let thread = AdminThread::start().unwrap();
        let handle = thread.handle();
        let mut held = Vec::new();
        for _ in 0..MAX_RENDERINGS + MAX_LOOKUPS {
            let rendering = Rendering::default();
            let (begun, has_begun) = mpsc::channel();
            let (finish, may_finish) = mpsc::channel::<()>();
            handle.spawn(async move {
                rendering
                    .run(move || {
                        begun.send(()).unwrap();
                        let _ = may_finish.recv();
                    })
                    .await;
            });
            has_begun.recv_timeout(DEADLINE).unwrap();
            held.push(finish);
        }
        let (answered, is_answered) = mpsc::channel();
        handle.spawn(async move { answered.send(()).unwrap() });
        is_answered.recv_timeout(DEADLINE).unwrap();
        drop(held);
    }
}
