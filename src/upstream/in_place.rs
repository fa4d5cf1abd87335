use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::block_in_place,
};

/// Runs work that may take long, while another thread of the runtime goes on with its other tasks.
pub fn in_place<T>(work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        // There is no other thread.
        RuntimeFlavor::CurrentThread => work(),
        _ => block_in_place(work),
    }
}
