//! Settings of the C library for free memory.

#![expect(unsafe_code, reason = "no library sets this option of glibc's")]

#[cfg(target_env = "gnu")]
use std::{ffi::c_int, thread};

/// Limits the number of glibc's arenas to the number of cores, instead of eight for each core.
///
/// By default every thread has an arena of its own, and threads cannot reuse memory that was freed in another arena. A
/// controller with 500 load balancers of 20 endpoints used 150 MB that way, instead of 70. See mallopt(3),
/// `M_ARENA_MAX`.
#[cfg(target_env = "gnu")]
pub fn share_arenas() {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let arenas = c_int::try_from(cores.max(2)).unwrap_or(c_int::MAX);
    // SAFETY: the function takes two numbers, and glibc locks the state that it changes.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, arenas) };
}

/// Returns free memory to the system.
///
/// By itself, glibc returns only the free memory at the end of each arena, and one small block that is in use keeps it
/// all: after 3,000 TLS clients with slow connections had left, 177 MB stayed. An arena is locked while its memory is
/// returned, so call this rarely. See malloc_trim(3).
#[cfg(target_env = "gnu")]
pub fn return_free() {
    // SAFETY: the function takes a number, and glibc locks the state that it changes.
    unsafe { libc::malloc_trim(0) };
}

/// Other C libraries have no such function.
#[cfg(not(target_env = "gnu"))]
pub fn return_free() {}

/// Other C libraries have no such option.
#[cfg(not(target_env = "gnu"))]
pub fn share_arenas() {}
