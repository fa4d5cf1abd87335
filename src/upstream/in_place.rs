use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::block_in_place,
};

/// Like [`in_place`] if the work takes long. Short work runs directly: a handover takes longer than most of it, and many
/// at once would start a thread each.
pub fn in_place_if<T>(is_long: bool, work: impl FnOnce() -> T) -> T {
    if is_long { in_place(work) } else { work() }
}

/// Runs blocking work while another thread of the runtime takes over the other tasks.
pub fn in_place<T>(work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        // This runtime has no other thread.
        RuntimeFlavor::CurrentThread => work(),
        _ => block_in_place(work),
    }
}
