//! Latency at a rate that every contender can sustain.

use anyhow::{Context, Result};

use super::{Round, Stage};
use crate::{
    load::{Load, open_loop},
    statistics::percentile,
};

pub async fn round(stage: &Stage<'_>, connections: usize, rate: f64) -> Result<Round> {
    let mut load = Load::default();
    let latencies = open_loop::send(&mut load, stage.open_plain(connections).await?, rate);
    let operations = || load.progress.operations();
    // Results before the window do not count.
    let window = stage.watch_from(|| drop(latencies.take()), operations).await;
    let measured = latencies.take();
    let round = Round::of(load.end().await);
    let window = round.explain(window)?;
    with_percentiles(round.with_operations(window).with("asked_rate", rate), &measured)
}

pub fn with_percentiles(round: Round, latencies: &[f64]) -> Result<Round> {
    let at = |share| percentile(latencies, share).context("nothing was answered");
    Ok(round.with("p50", at(0.5)?).with("p99", at(0.99)?).with("p999", at(0.999)?))
}
