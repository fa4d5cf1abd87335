//! A realistic mix: many idle connections, some busy ones, and new ones all the time.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{Round, Stage, connections, latency::with_percentiles};
use crate::load::{Load, Progress, client::Client, open_loop};

#[derive(Clone, Copy, Debug)]
pub struct Mix {
    pub idle: usize,
    pub busy: usize,
    /// Messages per second, on all busy connections together.
    pub messages: f64,
    /// New connections per second.
    pub new: f64,
}

/// The minimum age of connections at the start of the measurement. It excludes the cost of opening thousands of
/// connections, and work that a program defers for long-lived ones (tcplb: keepalive, by a second).
const OPEN_FOR: Duration = Duration::from_secs(2);

pub async fn round(stage: &Stage<'_>, mix: Mix) -> Result<Round> {
    let mut load = Load::default();
    let idle = stage.open(mix.idle).await?;
    let busy = stage.open_plain(mix.busy).await?;
    sleep(OPEN_FOR).await;
    let client = stage.client()?;
    load.add(async move |progress| arrive(client, mix.new, progress).await);
    let latencies = open_loop::send(&mut load, busy, mix.messages);
    let operations = || load.progress.operations();
    let window = stage.watch_from(|| drop(latencies.take()), operations).await;
    let measured = latencies.take();
    let memory = stage.contender.processes().memory();
    let round = Round::of(load.end().await);
    drop(idle);
    let window = round.explain(window)?;
    let round = round
        .with("cpu", window.utilisation() * 1e3)
        .with("rate", window.per_second())
        .with("memory", memory? as f64 / f64::from(1 << 20));
    with_percentiles(round, &measured)
}

/// Opens new connections at a fixed rate, independently of closed ones.
async fn arrive(client: Client, rate: f64, progress: Arc<Progress>) {
    let mut due = interval(Duration::from_secs_f64(1.0 / rate));
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut visits = JoinSet::new();
    while !progress.is_ending() {
        due.tick().await;
        while visits.try_join_next().is_some() {}
        let (client, progress) = (client.clone(), progress.clone());
        visits.spawn(async move {
            match connections::once(&client, false).await {
                Ok(()) => progress.done(),
                Err(error) => progress.failed("a new connection", &error),
            }
        });
    }
    while visits.join_next().await.is_some() {}
}
