use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

/// The thread that answers admin requests, and nothing else: whatever keeps the control threads busy, `/livez` and
/// `/readyz` are answered. Dropping it ends all requests.
pub struct AdminThread {
    handle: Handle,
    /// Only taken when this is dropped.
    runtime: Option<Runtime>,
}

impl AdminThread {
    /// # Errors
    /// When the thread or its event loop cannot be made.
    pub fn start() -> io::Result<Self> {
        // The others take over while a page is rendered.
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(4)
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
        // It must not be waited for within another runtime.
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
    fn requests_are_answered_while_a_page_is_being_rendered() {
        const DEADLINE: Duration = Duration::from_secs(60);

        let thread = AdminThread::start().unwrap();
        let handle = thread.handle();
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
        let (answered, is_answered) = mpsc::channel();
        handle.spawn(async move { answered.send(()).unwrap() });
        is_answered.recv_timeout(DEADLINE).unwrap();
        drop(finish);
    }
}
