use std::thread;

/// Takes the process with it when what holds it panics: better no load balancer, and another in its place, than one
/// that holds sockets and no longer serves them.
pub struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}
