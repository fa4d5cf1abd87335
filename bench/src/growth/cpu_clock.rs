//! The CPU clock of another process, which includes the time of its ended threads.

#![expect(unsafe_code, reason = "no library has clock_getcpuclockid")]

use std::{io, time::Duration};

/// The CPU time of all threads of a process, in the kernel and in user space.
pub fn cpu_time(process: u32) -> io::Result<Duration> {
    let process = libc::pid_t::try_from(process).map_err(io::Error::other)?;
    let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: both functions write to the variable that they get, and nothing else.
    unsafe {
        match libc::clock_getcpuclockid(process, &raw mut clock) {
            0 => {}
            error => return Err(io::Error::from_raw_os_error(error)),
        }
        if libc::clock_gettime(clock, &raw mut time) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Ok(Duration::new(seconds.map_err(io::Error::other)?, nanoseconds.map_err(io::Error::other)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_of_a_process_advances_with_its_work() {
        let start = cpu_time(std::process::id()).unwrap();
        while cpu_time(std::process::id()).unwrap() < start + Duration::from_millis(5) {}
    }
}
