//! Detection of idle processes.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tokio::time::sleep;

const SAMPLE_PERIOD: Duration = Duration::from_millis(50);
/// The share of time for which an idle process may be active: it renews a Lease, and checks that its threads run.
const IDLE_SHARE: f64 = 0.15;
/// The last part of a calm period, in which no new work may start.
const END: Duration = Duration::from_millis(150);
const END_SHARE: f64 = 0.3;

/// The time without activity after which a process has finished its work. It must be longer than any delay between parts
/// of the work.
#[derive(Clone, Copy, Debug)]
pub struct CalmPeriod {
    pub min: Duration,
    pub max: Duration,
}

impl CalmPeriod {
    /// The calm period after work of this duration. Delays of tcplb are at most ten times as long as its work.
    pub fn after(self, work: Duration) -> Duration {
        (work * 12).clamp(self.min, self.max)
    }
}

/// Waits until a process has been almost idle for the calm period. `before` is its active time before the work.
pub async fn settle(process: u32, calm: CalmPeriod, before: Duration, limit: Duration) -> Result<()> {
    let started = Instant::now();
    let mut samples = vec![(started, active_time(process)?)];
    loop {
        sleep(SAMPLE_PERIOD).await;
        let now = (Instant::now(), active_time(process)?);
        samples.push(now);
        let share = |period: Duration| {
            let before = samples.iter().rfind(|(time, _)| now.0 - *time >= period)?;
            Some((now.1.saturating_sub(before.1)).as_secs_f64() / (now.0 - before.0).as_secs_f64())
        };
        let is_below = |period, limit| share(period).is_some_and(|share| share < limit);
        if is_below(calm.after(now.1.saturating_sub(before)), IDLE_SHARE) && is_below(END, END_SHARE) {
            return Ok(());
        }
        if started.elapsed() > limit {
            bail!("the process is still busy after {} s", limit.as_secs());
        }
    }
}

/// The time for which the threads of a process ran or waited for a CPU, so that a process that is displaced by others
/// does not look idle.
pub fn active_time(process: u32) -> Result<Duration> {
    let tasks = Path::new("/proc").join(process.to_string()).join("task");
    let mut total = Duration::ZERO;
    for task in fs::read_dir(&tasks).context("the process has ended")?.flatten() {
        // A thread may end between the listing and the reading.
        let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
        let times = text.split_whitespace().take(2).map(|time| time.parse::<u64>().unwrap_or_default());
        total += Duration::from_nanos(times.sum());
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calm_period_follows_the_work_within_its_limits() {
        let [min, max] = [Duration::from_millis(300), Duration::from_millis(700)];
        let calm = CalmPeriod { min, max };
        let periods = [1, 50, 900].map(|work| calm.after(Duration::from_millis(work)));
        assert_eq!(periods, [min, Duration::from_millis(600), max]);
    }

    #[tokio::test]
    async fn an_idle_process_settles_and_a_busy_one_does_not() {
        let mut idle = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let calm = CalmPeriod { min: Duration::from_millis(200), max: Duration::from_millis(200) };
        let settled = settle(idle.id(), calm, Duration::ZERO, Duration::from_secs(30)).await;
        idle.kill().unwrap();
        idle.wait().unwrap();
        settled.unwrap();

        let mut busy = std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let settled = settle(busy.id(), calm, Duration::ZERO, Duration::from_secs(1)).await;
        busy.kill().unwrap();
        busy.wait().unwrap();
        assert!(settled.is_err());
    }
}
