use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::block_in_place,
};

/// Runs blocking work while another thread of the runtime takes over the other tasks.
pub fn in_place<T>(work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        // This runtime has no other thread.
        RuntimeFlavor::CurrentThread => work(),
        _ => block_in_place(work),
    }
}
