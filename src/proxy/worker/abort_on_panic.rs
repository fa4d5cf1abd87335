use std::thread;

/// Aborts the process when its holder panics: a restarted process is better than one that holds sockets and no longer
/// serves them.
pub struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}
