//! The cost of work of a running process.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::cpu_clock::cpu_time;
use crate::count::callgrind;

/// The measured quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// Instructions in user space, by callgrind.
    Instructions,
    /// CPU time in nanoseconds, in the kernel and in user space.
    CpuTime,
}

impl Quantity {
    pub fn unit(self) -> &'static str {
        match self {
            Self::Instructions => "instructions",
            Self::CpuTime => "ns of CPU time",
        }
    }
}

/// Measures one process.
pub struct Meter {
    quantity: Quantity,
    process: u32,
    /// The folder of callgrind's output.
    folder: PathBuf,
    /// The smallest cost of an idle second.
    idle: Option<f64>,
}

/// The cost of a period.
struct CostSample {
    cost: f64,
    elapsed: Duration,
}

/// The start of a measurement.
pub struct MeterStart {
    time: Instant,
    cpu_time: Duration,
}

/// The name of callgrind's output without its number.
const OUTPUT: &str = "callgrind";

impl Meter {
    /// The command in front of the program. Instructions are not counted at first, since a start would take ten times
    /// as long.
    pub fn prefix(quantity: Quantity, folder: &Path) -> Vec<String> {
        let output = format!("--callgrind-out-file={}", folder.join(OUTPUT).display());
        match quantity {
            Quantity::Instructions => {
                // The Kubernetes client resolves names on up to 512 threads.
                let words = "valgrind --tool=callgrind --quiet --instr-atstart=no --fair-sched=try --max-threads=1000";
                words.split(' ').map(String::from).chain([output]).collect()
            }
            Quantity::CpuTime => Vec::new(),
        }
    }

    pub fn new(quantity: Quantity, process: u32, folder: &Path) -> Self {
        Self { quantity, process, folder: folder.to_owned(), idle: None }
    }

    /// Starts counting.
    pub async fn enable(&self) -> Result<()> {
        match self.quantity {
            Quantity::Instructions => self.command(&["instrumentation", "on"]).await,
            Quantity::CpuTime => Ok(()),
        }
    }

    /// Measures the cost of the idle process, which later measurements exclude.
    pub async fn calibrate(&mut self, period: Duration) -> Result<()> {
        let start = self.start().await?;
        tokio::time::sleep(period).await;
        let CostSample { cost, elapsed } = self.read(&start).await?;
        let idle = cost / elapsed.as_secs_f64();
        self.idle = Some(self.idle.map_or(idle, |before| before.min(idle)));
        Ok(())
    }

    pub async fn start(&self) -> Result<MeterStart> {
        if self.quantity == Quantity::Instructions {
            self.command(&["zero"]).await?;
        }
        Ok(MeterStart { time: Instant::now(), cpu_time: cpu_time(self.process)? })
    }

    /// The cost since `start`, without the cost of an idle process.
    pub async fn stop(&self, start: &MeterStart) -> Result<f64> {
        let CostSample { cost, elapsed } = self.read(start).await?;
        let idle = self.idle.unwrap_or_default() * elapsed.as_secs_f64();
        ensure!(cost > idle, "the cost is below that of the idle process");
        Ok(cost - idle)
    }

    async fn read(&self, start: &MeterStart) -> Result<CostSample> {
        let cost = match self.quantity {
            Quantity::Instructions => self.instructions().await? as f64,
            Quantity::CpuTime => cpu_time(self.process)?.saturating_sub(start.cpu_time).as_nanos() as f64,
        };
        Ok(CostSample { cost, elapsed: start.time.elapsed() })
    }

    /// The instructions since the last dump.
    async fn instructions(&self) -> Result<u64> {
        self.command(&["dump"]).await?;
        let mut total = 0;
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let is_dump = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("callgrind."));
            if is_dump {
                let text = fs::read_to_string(&path)?;
                total += callgrind::totals(&text).with_context(|| format!("{} has no totals", path.display()))?;
                fs::remove_file(&path)?;
            }
        }
        Ok(total)
    }

    /// Sends a command to callgrind.
    async fn command(&self, words: &[&str]) -> Result<()> {
        let mut vgdb = Command::new("vgdb");
        vgdb.arg(format!("--pid={}", self.process)).args(words);
        // This thread must stay free to respond to the process.
        let output = tokio::task::spawn_blocking(move || vgdb.output()).await?.context("cannot start vgdb")?;
        ensure!(output.status.success(), "vgdb {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}
