//! Memory of open, idle connections.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::sleep;

use super::{Round, Stage};
use crate::load::{Failures, client::echo};

/// The wait until memory for opening the connections has been freed.
const SETTLED: Duration = Duration::from_millis(1500);

pub async fn round(stage: &Stage<'_>, connections: usize) -> Result<Round> {
    let processes = stage.contender.processes();
    let before = processes.memory()?;
    let mut open = stage.open(connections).await?;
    sleep(SETTLED).await;
    let after = processes.memory()?;
    let cpu = processes.cpu()?;
    sleep(stage.duration).await;
    let idle = processes.cpu()?.saturating_sub(cpu);
    ensure!(after > before, "memory has not grown: {before} B, then {after} B");
    let mut failures = Failures::default();
    for stream in &mut open {
        if let Err(error) = echo(stream).await {
            failures.count += 1;
            failures.first.get_or_insert_with(|| format!("a connection was no longer open: {error}"));
        }
    }
    Ok(Round::of(failures)
        .with("memory", (after - before) as f64 / 1024.0 / connections as f64)
        .with("without_connections", before as f64 / 1024.0)
        .with("cpu_ms_per_s", idle.as_secs_f64() * 1e3 / stage.duration.as_secs_f64()))
}
