//! The resource use of a process and its children, from /proc.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

/// A process and its descendants.
#[derive(Clone, Copy, Debug)]
pub struct ProcessTree {
    pub root: u32,
}

impl ProcessTree {
    /// The CPU time of all threads, in the kernel and in user space. The time of ended processes has a resolution of
    /// hundredths of a second. The time of ended threads is lost.
    pub fn cpu(&self) -> Result<Duration> {
        let mut total = Duration::from_nanos(0);
        for task in self.processes().iter().flat_map(|process| tasks(*process)) {
            // A thread may end between the listing and the reading.
            let Ok(text) = fs::read_to_string(task.join("schedstat")) else { continue };
            total += run_time(&text).with_context(|| format!("{} reads `{text}`", task.display()))?;
        }
        let text = fs::read_to_string(format!("/proc/{}/stat", self.root)).context("the process has ended")?;
        Ok(total + time_of_ended_children(&text).with_context(|| format!("stat reads `{text}`"))?)
    }

    /// The memory in bytes: proportional set size, so that shared memory counts once.
    pub fn memory(&self) -> Result<u64> {
        let mut total = 0;
        for process in self.processes() {
            let Ok(text) = fs::read_to_string(format!("/proc/{process}/smaps_rollup")) else { continue };
            total += kilobytes(&text, "Pss:").with_context(|| format!("smaps_rollup reads `{text}`"))?;
        }
        Ok(total)
    }

    /// The largest resident memory of the root process so far, in bytes.
    pub fn peak_memory(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.root)).context("the process has ended")?;
        kilobytes(&text, "VmHWM:").context("status has no VmHWM")
    }

    /// The process, its children and their descendants.
    pub fn processes(&self) -> Vec<u32> {
        let mut found = vec![self.root];
        let mut next = 0;
        while next < found.len() {
            for task in tasks(found[next]) {
                let children = fs::read_to_string(task.join("children")).unwrap_or_default();
                found.extend(children.split_whitespace().filter_map(|number| number.parse::<u32>().ok()));
            }
            next += 1;
        }
        found
    }
}

/// True if the process has ended, except for the status that its parent may read.
pub fn has_ended(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = stat.rfind(')').and_then(|end| stat[end + 1..].trim_start().chars().next());
    matches!(state, None | Some('Z' | 'X'))
}

fn tasks(process: u32) -> Vec<PathBuf> {
    let entries = fs::read_dir(Path::new("/proc").join(process.to_string()).join("task"));
    entries.into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// The first number of schedstat: nanoseconds on a CPU.
fn run_time(schedstat: &str) -> Option<Duration> {
    schedstat.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// cutime and cstime (proc_pid_stat(5)).
fn time_of_ended_children(stat: &str) -> Option<Duration> {
    // The name in parentheses may contain spaces and parentheses. Field 3 follows the last parenthesis.
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    let ticks = fields.get(13)?.parse::<u64>().ok()? + fields.get(14)?.parse::<u64>().ok()?;
    Some(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// The value of a line `NAME 12 kB`, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_kernels_texts_are_understood() {
        assert_eq!(run_time("1500 300 7\n"), Some(Duration::from_nanos(1500)));
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 10 20 0 0 3 4 150 50 20 0 1 0 100 0 0";
        assert_eq!(time_of_ended_children(stat), Some(Duration::from_secs(2)));
        assert_eq!(
            kilobytes("00-ff ---p [rollup]\nRss: 9 kB\nPss:      12 kB\nPss_Dirty: 3 kB\n", "Pss:"),
            Some(12 << 10)
        );
    }

    #[test]
    fn the_activity_of_a_process_is_measured() {
        let this = ProcessTree { root: std::process::id() };
        let before = this.cpu().unwrap();
        let begun = Instant::now();
        while this.cpu().unwrap() < before + Duration::from_millis(20) {
            assert!(begun.elapsed() < Duration::from_secs(30), "no CPU time is counted");
        }
        assert!(this.memory().unwrap() > 100 << 10);
        assert!(this.peak_memory().unwrap() > 100 << 10);
    }
}
