//! Servers while something happens.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, interval, sleep};

use super::{server::Server, shown::PATIENCE};

/// Waits for something that has to happen.
pub async fn until(what: &str, happens: impl Fn() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !happens() {
        if begun.elapsed() > PATIENCE {
            bail!("it does not happen that {what}");
        }
        sleep(LOOK).await;
    }
    Ok(())
}

/// What is seen of servers over a time.
pub struct Seen {
    /// The open connections of each.
    pub open: Vec<Vec<(f64, f64)>>,
    /// The connections that each got in the second before.
    pub new: Vec<Vec<(f64, f64)>>,
}

const LOOK: Duration = Duration::from_millis(250);

/// Looks at servers for so many seconds, and has something happen once, at its time.
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

/// How many there were in a second, of counts so far. Where it was looked late the last ones came in more than that.
fn per_second(counts: &[(f64, f64)]) -> f64 {
    let (now, count) = counts.last().copied().unwrap_or_default();
    // Ticks are late by a little, some more than others.
    let (before, count_before) =
        counts.iter().rfind(|(at, _)| *at <= now - 0.99).or(counts.first()).copied().unwrap_or_default();
    (count - count_before) / (now - before).max(1.0)
}

pub fn largest(points: &[(f64, f64)]) -> f64 {
    points.iter().map(|(_, value)| *value).fold(0.0, f64::max)
}

/// When the last value of this kind was seen.
pub fn last(points: &[(f64, f64)], is_meant: impl Fn(f64) -> bool) -> f64 {
    points.iter().rfind(|(_, value)| is_meant(*value)).map_or(0.0, |(at, _)| *at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_look_does_not_make_a_rate() {
        let counts = [(0.0, 0.0), (0.25, 15.0), (0.5, 30.0), (0.75, 45.0), (1.0, 60.0), (2.5, 150.0)];
        assert_eq!(per_second(&counts[..1]), 0.0);
        assert_eq!(per_second(&counts[..3]), 30.0);
        assert_eq!(per_second(&counts[..5]), 60.0);
        assert_eq!(per_second(&counts), 60.0);
    }
}
