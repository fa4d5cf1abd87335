use std::{panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt;
use tokio::{runtime::Handle, time::sleep};
use tokio_util::task::AbortOnDropHandle;
use tracing::error;

/// Runs a task until the handle is dropped, and restarts it if it panics.
pub fn spawn<F>(control: &Handle, name: &'static str, task: impl Fn() -> F + Send + 'static) -> AbortOnDropHandle<()>
where
    F: Future<Output = ()> + Send,
{
    let forever = async move {
        while AssertUnwindSafe(task()).catch_unwind().await.is_err() {
            error!(task = name, "task panicked: restarting it");
            sleep(Duration::from_secs(1)).await;
        }
    };
    AbortOnDropHandle::new(control.spawn(forever))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_started_again() {
        let (done, mut is_done) = mpsc::unbounded_channel();
        let starts = AtomicU32::new(0);
        let task = move || {
            let (start, done) = (starts.fetch_add(1, SeqCst), done.clone());
            async move {
                assert!(start > 0, "the first start panics");
                done.send(start).unwrap();
            }
        };
        let _running = spawn(&Handle::current(), "test", task);
        assert_eq!(is_done.recv().await, Some(1));
        assert_eq!(is_done.recv().await, None, "one that ends is not");
    }
}
