//! A running tcplb.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout, timeout_at},
};

use super::{
    activity::settle,
    http,
    meter::{Meter, Quantity},
};
use crate::cores;

/// The time limit of a start. Everything takes ten to fifty times as long under valgrind.
const START_TIMEOUT: Duration = Duration::from_secs(600);
/// The time limit of one change.
pub const CHANGE_TIMEOUT: Duration = Duration::from_secs(180);
/// The time limit of one question whether it is ready.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The time for which the idle process is measured.
const IDLE_PERIOD: Duration = Duration::from_secs(2);
/// The number of these periods. The smallest cost counts: every 30 s, a leader checks everything.
const IDLE_PERIODS: usize = 3;
/// The number of log lines in an error message.
const SHOWN_LINES: usize = 20;

/// The command of a process.
pub struct Launch<'a> {
    pub program: &'a Path,
    pub arguments: Vec<String>,
    pub environment: Vec<(&'static str, PathBuf)>,
    pub quantity: Quantity,
    pub folder: &'a Path,
    pub admin: SocketAddr,
    /// The time without activity after which it has finished its work.
    pub calm: Duration,
}

/// A running process with its log. Dropping it ends the process.
pub struct Process {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
    last_lines: VecDeque<String>,
    calm: Duration,
    admin: SocketAddr,
    pub meter: Meter,
}

impl Process {
    /// Starts a process, and waits until it is ready.
    pub async fn start(launch: Launch<'_>) -> Result<Self> {
        let mut words = Meter::prefix(launch.quantity, launch.folder);
        words.push(launch.program.display().to_string());
        words.extend(launch.arguments);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir(launch.folder).process_group(0).envs(launch.environment);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = cores::on(cores::CONTENDER, || command.spawn())
            .with_context(|| format!("{} cannot be started", words[0]))?;
        let (sender, lines) = mpsc::unbounded_channel();
        let errors = BufReader::new(child.stderr.take().expect("it is piped"));
        thread::spawn(move || errors.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut process = Self {
            meter: Meter::new(launch.quantity, child.id(), launch.folder),
            child,
            lines,
            last_lines: VecDeque::new(),
            calm: launch.calm,
            admin: launch.admin,
        };
        process.ready().await?;
        Ok(process)
    }

    async fn ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while !self.is_ready().await {
            self.drain_log();
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}: {}", self.log());
            }
            if Instant::now() > deadline {
                bail!("it is not ready after {} s: {}", START_TIMEOUT.as_secs(), self.log());
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    async fn is_ready(&self) -> bool {
        let answer = timeout(ANSWER_TIMEOUT, http::get(self.admin, "/readyz")).await;
        answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status == 200))
    }

    /// Waits until the process is idle after its start.
    pub async fn finish_start(&self) -> Result<()> {
        settle(self.child.id(), self.calm, START_TIMEOUT).await
    }

    /// Waits until the process is idle, and begins to count.
    pub async fn prepare(&mut self) -> Result<()> {
        self.finish_start().await?;
        self.meter.enable().await?;
        self.settle().await?;
        for _ in 0..IDLE_PERIODS {
            self.meter.calibrate(IDLE_PERIOD).await?;
        }
        Ok(())
    }

    /// Waits until the process has finished its work.
    pub async fn settle(&mut self) -> Result<()> {
        settle(self.child.id(), self.calm, CHANGE_TIMEOUT).await?;
        self.drain_log();
        Ok(())
    }

    /// Requests an admin page.
    pub async fn page(&self, path: &str) -> Result<()> {
        let answer = timeout(CHANGE_TIMEOUT, http::get(self.admin, path)).await.context("no answer in time")??;
        ensure!(answer.status == 200 && !answer.body.is_empty(), "{path} answers {}", answer.status);
        Ok(())
    }

    /// Waits for a log line that contains all of these texts.
    pub async fn logs(&mut self, texts: &[&str]) -> Result<()> {
        let deadline = tokio::time::Instant::now() + CHANGE_TIMEOUT;
        loop {
            let Ok(line) = timeout_at(deadline, self.lines.recv()).await else {
                bail!("it does not log {texts:?} within {} s: {}", CHANGE_TIMEOUT.as_secs(), self.log());
            };
            let Some(line) = line else { bail!("it has ended: {}", self.log()) };
            let is_expected = texts.iter().all(|text| line.contains(text));
            self.remember(line);
            if is_expected {
                return Ok(());
            }
        }
    }

    fn drain_log(&mut self) {
        while let Ok(line) = self.lines.try_recv() {
            self.remember(line);
        }
    }

    fn remember(&mut self, line: String) {
        if self.last_lines.len() == SHOWN_LINES {
            self.last_lines.pop_front();
        }
        self.last_lines.push_back(line);
    }

    fn log(&self) -> String {
        self.last_lines.iter().map(|line| format!("\n  {line}")).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}
