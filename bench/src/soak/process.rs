//! A process of tcplb under test, and its use of resources.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use super::{access_log::LogEntry, accounting::Accounting, failures::FailureLog};

/// The message on standard error of a process that has replaced its predecessor.
const TOOK_OVER: &str = "took over from the previous process";

/// A running process. It is killed on drop.
pub struct ProxyProcess {
    pub name: String,
    child: Child,
    state: Arc<ProcessState>,
}

#[derive(Default)]
struct ProcessState {
    lines: AtomicU64,
    took_over: AtomicBool,
    closed_log: AtomicBool,
}

/// The resources of a process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// The resident set size in bytes.
    pub memory: u64,
    pub descriptors: u64,
    pub threads: u64,
}

impl ProxyProcess {
    /// Starts a process, whose access log goes to the accounting, and whose standard error goes to a file.
    pub fn start(
        name: String,
        command: &mut Command,
        folder: &Path,
        accounting: Arc<Accounting>,
        failures: Arc<FailureLog>,
    ) -> Result<Self> {
        let mut errors = File::create(folder.join(&name).with_extension("log"))?;
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let state = Arc::new(ProcessState::default());
        let output = child.stdout.take().context("standard output is a pipe")?;
        let (shared, malformed) = (state.clone(), failures.clone());
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                match LogEntry::parse(&line) {
                    Ok(entry) => accounting.add_entry(entry),
                    Err(error) => malformed.add(&format!("a line of the access log is malformed: {error}: {line}")),
                }
                shared.lines.fetch_add(1, Relaxed);
            }
            shared.closed_log.store(true, Relaxed);
        });
        let (shared, output) = (state.clone(), child.stderr.take().context("standard error is a pipe")?);
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                failures.check(!line.contains("panicked"), || line.clone());
                if line.contains(TOOK_OVER) {
                    shared.took_over.store(true, Relaxed);
                }
                // The file helps to analyze a failure.
                let _ = writeln!(errors, "{line}");
            }
        });
        Ok(Self { name, child, state })
    }

    pub fn has_taken_over(&self) -> bool {
        self.state.took_over.load(Relaxed)
    }

    /// The number of lines of its access log so far.
    pub fn lines(&self) -> u64 {
        self.state.lines.load(Relaxed)
    }

    /// The exit status, once the process has ended and its access log has been read.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten().filter(|_| self.state.closed_log.load(Relaxed))
    }

    pub fn terminate(&self) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::TERM)?)
    }

    /// The current resources. `None`: the process has ended.
    pub fn resources(&self) -> Option<Resources> {
        let folder = Path::new("/proc").join(self.child.id().to_string());
        let status = fs::read_to_string(folder.join("status")).ok()?;
        let descriptors = fs::read_dir(folder.join("fd")).ok()?.count() as u64;
        Some(Resources { descriptors, ..Resources::parse(&status)? })
    }
}

impl Drop for ProxyProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Resources {
    /// Reads /proc/PID/status.
    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        Some(Self { memory: field("VmRSS")? * 1024, descriptors: 0, threads: field("Threads")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_a_process_is_read() {
        let status = "Name:\ttcplb\nVmRSS:\t   20480 kB\nThreads:\t7\n";
        let resources = Resources { memory: 20 << 20, descriptors: 0, threads: 7 };
        assert_eq!(Resources::parse(status), Some(resources));
        assert_eq!(Resources::parse("State:\tZ (zombie)\n"), None);
    }
}
