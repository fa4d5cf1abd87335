use anyhow::Context;
use tokio::runtime;

/// Runs on the control runtime, for everything but connections. It has two threads, so that slow work delays neither
/// health checks nor the admin pages.
pub fn on_control_runtime<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot create the control runtime")?;
    let outcome = runtime.block_on(work);
    // A hanging lookup must not delay the end.
    runtime.shutdown_background();
    outcome
}
