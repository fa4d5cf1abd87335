//! A running contender.

use std::{
    ffi::OsString,
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{sleep, timeout};

use crate::{
    cores,
    load::client::Client,
    measure::{ProcessTree, has_ended},
};

/// The time limit of start and end. Everything takes fifty times as long under callgrind.
const PROCESS_TIMEOUT: Duration = Duration::from_secs(180);
/// The time limit of one attempt to get the first answer. Traefik never answers clients that connect before its routers
/// are loaded.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

/// A running contender. Dropping it ends the processes.
pub struct Running {
    pub name: &'static str,
    child: Child,
    error_log: PathBuf,
}

impl Running {
    /// Starts a program in a folder, which also gets its output, and in its own process group, so that an interrupt of
    /// the benchmark reaches it only through this type.
    pub fn start(name: &'static str, command: &[OsString], folder: &Path, on: &[usize]) -> Result<Self> {
        let error_log = folder.join("stderr.log");
        let (output, errors) = (File::create(folder.join("stdout.log"))?, File::create(&error_log)?);
        let mut prepared = Command::new(&command[0]);
        prepared.args(&command[1..]).current_dir(folder).process_group(0);
        prepared.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = cores::on(on, || prepared.spawn()).with_context(|| format!("{name} cannot be started"))?;
        Ok(Self { name, child, error_log })
    }

    pub fn processes(&self) -> ProcessTree {
        ProcessTree { root: self.child.id() }
    }

    /// Waits until a client gets an answer.
    pub async fn ready(&mut self, client: &Client) -> Result<()> {
        let deadline = Instant::now() + PROCESS_TIMEOUT;
        while !matches!(timeout(ATTEMPT_TIMEOUT, client.connect_and_echo()).await, Ok(Ok(_))) {
            self.still_runs()?;
            if Instant::now() > deadline {
                bail!("{} does not serve {}: {}", self.name, client.server, self.errors());
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Fails with its output if it has ended.
    pub fn still_runs(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}: {}", self.name, self.errors()),
        }
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Requests the end of one of its processes, and waits until all have ended.
    pub async fn end(&mut self, process: u32) -> Result<()> {
        let process = i32::try_from(process).ok().and_then(Pid::from_raw).context("it has no such process")?;
        kill_process(process, Signal::TERM)?;
        let deadline = Instant::now() + PROCESS_TIMEOUT;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("{} does not end when it is asked to", self.name);
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    fn errors(&self) -> String {
        fs::read_to_string(&self.error_log).unwrap_or_default().trim().to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The group contains all started processes. They are killed, because the next contender needs their ports.
        let processes = self.processes().processes();
        let _ = rustix::process::kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
        let deadline = Instant::now() + PROCESS_TIMEOUT;
        while !processes.iter().all(|process| has_ended(*process)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    }
}
