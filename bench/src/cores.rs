//! CPU affinity: a contender on one core, the load and the backends on another.

use std::{io, thread};

use anyhow::{Result, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores of the load and the backends.
pub const LOAD: &[usize] = &[0];

/// The cores of a contender.
pub const CONTENDER: &[usize] = &[1];

/// Pins the calling thread, and all threads and processes that it starts, to these cores.
pub fn pin(cores: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    sched_setaffinity(None, &set)?;
    let allowed = sched_getaffinity(None)?;
    ensure!(
        cores.iter().all(|core| allowed.is_set(*core)),
        "cores {cores:?} are not for this process: it needs 0 and 1"
    );
    Ok(())
}

/// Runs `work` on a thread that is pinned to these cores. A process that it starts stays there.
pub fn on<T: Send>(cores: &[usize], work: impl FnOnce() -> io::Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let pinned = scope.spawn(|| {
            pin(cores)?;
            Ok(work()?)
        });
        pinned.join().expect("starting a process does not panic")
    })
}
