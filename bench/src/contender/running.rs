//! A contender at work.

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
use tokio::time::sleep;

use crate::{
    cores,
    load::client::Client,
    measure::{ProcessTree, has_ended},
};

/// How long it may take to serve, and to end: under callgrind everything takes fifty times as long.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running contender. It ends when this is dropped.
pub struct Running {
    pub name: &'static str,
    child: Child,
    said: PathBuf,
}

impl Running {
    /// Starts a program in a folder, where what it says is kept too, and in a process group of its own, so that an
    /// interrupt of the bench reaches it by this type alone.
    pub fn start(name: &'static str, command: &[OsString], folder: &Path, on: &[usize]) -> Result<Self> {
        let said = folder.join("stderr.log");
        let (output, errors) = (File::create(folder.join("stdout.log"))?, File::create(&said)?);
        let mut prepared = Command::new(&command[0]);
        prepared.args(&command[1..]).current_dir(folder).process_group(0);
        prepared.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = cores::on(on, || prepared.spawn()).with_context(|| format!("{name} cannot be started"))?;
        Ok(Self { name, child, said })
    }

    pub fn processes(&self) -> ProcessTree {
        ProcessTree { root: self.child.id() }
    }

    /// Waits until this client of it gets an answer.
    pub async fn ready(&mut self, client: &Client) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while client.connect_and_echo().await.is_err() {
            self.still_runs()?;
            if Instant::now() > deadline {
                bail!("{} does not serve {}: {}", self.name, client.server, self.said());
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Fails with what it said if it has ended.
    pub fn still_runs(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}: {}", self.name, self.said()),
        }
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Asks one of its processes to end, and waits until all have.
    pub async fn end(&mut self, process: u32) -> Result<()> {
        let process = i32::try_from(process).ok().and_then(Pid::from_raw).context("it has no such process")?;
        kill_process(process, Signal::TERM)?;
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("{} does not end when it is asked to", self.name);
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap_or_default().trim().to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nothing is left to do gently, and all that it started is in its group. The next contender needs its ports.
        let processes = self.processes().processes();
        let _ = rustix::process::kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
        let deadline = Instant::now() + PATIENCE;
        while !processes.iter().all(|process| has_ended(*process)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    }
}
