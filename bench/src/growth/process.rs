//! A measured process of tcplb.

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
    activity::{CalmPeriod, active_time, settle},
    http,
    meter::{Meter, MeterStart, Quantity},
};
use crate::cores;

/// The time limit of a start. Everything takes ten to fifty times as long under valgrind.
const START_TIMEOUT: Duration = Duration::from_secs(600);
/// The time limit of one change.
pub const CHANGE_TIMEOUT: Duration = Duration::from_secs(180);
/// The time limit of one readiness check.
const READINESS_TIMEOUT: Duration = Duration::from_secs(10);
/// The time for which the idle process is measured.
const IDLE_PERIOD: Duration = Duration::from_secs(1);
/// The number of these periods. The smallest cost counts: every 30 s, a leader checks everything.
const IDLE_PERIODS: usize = 2;
/// The number of log lines in an error message.
const SHOWN_LINES: usize = 20;

/// The command and the measurement of a process.
pub struct ProcessOptions<'a> {
    pub program: &'a Path,
    pub arguments: Vec<String>,
    pub environment: Vec<(&'static str, PathBuf)>,
    pub quantity: Quantity,
    pub folder: &'a Path,
    pub admin: SocketAddr,
    /// The cores of the process.
    pub cores: &'static [usize],
    pub calm: CalmPeriod,
}

/// A running process with its log. Dropping it kills the process.
pub struct MeteredProcess {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
    last_lines: VecDeque<String>,
    calm: CalmPeriod,
    /// The active time before the current work.
    active_before: Duration,
    pub admin: SocketAddr,
    pub meter: Meter,
}

impl MeteredProcess {
    /// Starts a process, and waits until it is ready.
    pub async fn start(options: ProcessOptions<'_>) -> Result<Self> {
        let mut words = Meter::prefix(options.quantity, options.folder);
        words.push(options.program.display().to_string());
        words.extend(options.arguments);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir(options.folder).process_group(0).envs(options.environment);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child =
            cores::on(options.cores, || command.spawn()).with_context(|| format!("{} cannot be started", words[0]))?;
        let (sender, lines) = mpsc::unbounded_channel();
        let errors = BufReader::new(child.stderr.take().expect("it is piped"));
        thread::spawn(move || errors.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut process = Self {
            meter: Meter::new(options.quantity, child.id(), options.folder),
            child,
            lines,
            last_lines: VecDeque::new(),
            calm: options.calm,
            active_before: Duration::ZERO,
            admin: options.admin,
        };
        process.ready().await?;
        Ok(process)
    }

    async fn ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while !self.is_ready().await {
            self.drain_log();
            if let Some(status) = self.child.try_wait()? {
                bail!("the process ended with {status}: {}", self.log());
            }
            if Instant::now() > deadline {
                bail!("the process is not ready after {} s: {}", START_TIMEOUT.as_secs(), self.log());
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    async fn is_ready(&self) -> bool {
        let response = timeout(READINESS_TIMEOUT, http::get(self.admin, "/readyz")).await;
        response.is_ok_and(|response| response.is_ok_and(|response| response.status == 200))
    }

    /// Waits until the process is idle after its start.
    pub async fn finish_start(&self) -> Result<()> {
        settle(self.child.id(), self.calm, self.active_before, START_TIMEOUT).await
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

    /// Starts a measurement of work that follows.
    pub async fn start_measurement(&mut self) -> Result<MeterStart> {
        let start = self.meter.start().await?;
        self.active_before = active_time(self.child.id())?;
        Ok(start)
    }

    /// Waits until the process has finished its work.
    pub async fn settle(&mut self) -> Result<()> {
        settle(self.child.id(), self.calm, self.active_before, CHANGE_TIMEOUT).await?;
        self.drain_log();
        Ok(())
    }

    /// Requests an admin page.
    pub async fn request_page(&self, path: &str) -> Result<()> {
        let response = timeout(CHANGE_TIMEOUT, http::get(self.admin, path)).await.context("no response in time")??;
        ensure!(response.status == 200 && !response.body.is_empty(), "{path}: status {}", response.status);
        Ok(())
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next log line. Cancel safe.
    pub async fn next_line(&mut self) -> Result<String> {
        let Some(line) = self.lines.recv().await else { bail!("the process has ended: {}", self.log()) };
        self.remember(line.clone());
        Ok(line)
    }

    /// Waits for a log line that contains all of these texts.
    pub async fn wait_for_log(&mut self, texts: &[&str]) -> Result<()> {
        let deadline = tokio::time::Instant::now() + CHANGE_TIMEOUT;
        loop {
            let Ok(line) = timeout_at(deadline, self.next_line()).await else {
                bail!("the process does not log {texts:?} within {} s: {}", CHANGE_TIMEOUT.as_secs(), self.log());
            };
            let line = line?;
            if texts.iter().all(|text| line.contains(text)) {
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

impl Drop for MeteredProcess {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}
