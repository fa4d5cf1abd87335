//! Observes servers during an event.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, interval, sleep};

use super::{server::Server, shown::EVENT_TIMEOUT};

/// Waits for an expected event.
pub async fn until(what: &str, happens: impl Fn() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !happens() {
        if begun.elapsed() > EVENT_TIMEOUT {
            bail!("it does not happen that {what}");
        }
        sleep(LOOK).await;
    }
    Ok(())
}

/// Observations of servers over time.
pub struct Seen {
    /// The open connections of each server.
    pub open: Vec<Vec<(f64, f64)>>,
    /// The new connections of each server in the previous second.
    pub new: Vec<Vec<(f64, f64)>>,
}

const LOOK: Duration = Duration::from_millis(250);

/// Observes servers for a number of seconds, and triggers an event once at its time.
pub async fn watch(
    servers: &mut [Server],
    seconds: f64,
    at: f64,
    happens: impl FnOnce(&mut [Server]) -> Result<()>,
) -> Result<Seen> {
    let mut happens = Some(happens);
    let mut seen = Seen { open: vec![Vec::new(); servers.len()], new: vec![Vec::new(); servers.len()] };
    let mut accepted: Vec<Vec<(f64, f64)>> = vec![Vec::new(); servers.len()];
    let (begun, mut looks) = (Instant::now(), interval(LOOK));
    loop {
        looks.tick().await;
        let now = begun.elapsed().as_secs_f64();
        if now > seconds {
            return Ok(seen);
        }
        if now >= at
            && let Some(happens) = happens.take()
        {
            happens(servers)?;
        }
        for (index, server) in servers.iter().enumerate() {
            seen.open[index].push((now, server.open() as f64));
            accepted[index].push((now, server.accepted() as f64));
            seen.new[index].push((now, per_second(&accepted[index])));
        }
    }
}

/// The increase of a counter in the last second. If the last observation is late, it is the average over a longer time.
fn per_second(counts: &[(f64, f64)]) -> f64 {
    let (now, count) = counts.last().copied().unwrap_or_default();
    // Ticks are slightly late, by varying times.
    let (before, count_before) =
        counts.iter().rfind(|(at, _)| *at <= now - 0.99).or(counts.first()).copied().unwrap_or_default();
    (count - count_before) / (now - before).max(1.0)
}

/// The largest average of the values in an interval of this many seconds. On a busy machine, connections are counted
/// late, and those of two seconds in one.
pub fn largest_average(points: &[(f64, f64)], seconds: f64) -> f64 {
    let averages = points.iter().enumerate().map(|(index, (now, _))| {
        let recent = points[..=index].iter().rev().take_while(|(at, _)| *at > now - seconds);
        let (count, sum) = recent.fold((0.0, 0.0), |(count, sum), (_, value)| (count + 1.0, sum + value));
        sum / count
    });
    averages.fold(0.0, f64::max)
}

/// The time of the last value that satisfies the condition.
pub fn last(points: &[(f64, f64)], is_meant: impl Fn(f64) -> bool) -> f64 {
    points.iter().rfind(|(_, value)| is_meant(*value)).map_or(0.0, |(at, _)| *at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_with_connections_of_another_one_does_not_change_the_average_much() {
        let values = [60.0, 60.0, 20.0, 100.0, 60.0, 60.0];
        let points: Vec<_> = values.iter().zip(1..).map(|(value, second)| (f64::from(second), *value)).collect();
        assert_eq!(largest_average(&points, 1.0), 100.0);
        assert!(largest_average(&points, 3.0) < 74.0);
    }

    #[test]
    fn a_late_look_does_not_make_a_rate() {
        let counts = [(0.0, 0.0), (0.25, 15.0), (0.5, 30.0), (0.75, 45.0), (1.0, 60.0), (2.5, 150.0)];
        assert_eq!(per_second(&counts[..1]), 0.0);
        assert_eq!(per_second(&counts[..3]), 30.0);
        assert_eq!(per_second(&counts[..5]), 60.0);
        assert_eq!(per_second(&counts), 60.0);
    }
}
