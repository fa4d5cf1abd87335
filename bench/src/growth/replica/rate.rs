//! Changes of endpoints at a constant rate.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::results::RateUsage;
use crate::{
    growth::{cluster::SimulatedCluster, cpu_clock::cpu_time, process::MeteredProcess},
    measure::ProcessTree,
};

/// The time limit of the last changes.
const LAST_EFFECT: Duration = Duration::from_secs(10);

/// Replaces an endpoint of one load balancer after another.
pub async fn change_at_rate(
    cluster: &SimulatedCluster,
    process: &mut MeteredProcess,
    rate: u32,
    duration: Duration,
) -> Result<RateUsage> {
    let changes = u32::try_from(u64::from(rate) * duration.as_secs())?;
    let mut tracker = EffectTracker::default();
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (started, cpu_before) = (Instant::now(), cpu_time(process.id())?);
    let mut next = 0;
    while next < changes {
        tokio::select! {
            line = process.next_line() => tracker.read(&line?, Instant::now()),
            _ = ticks.tick() => {
                tracker.expect(replace_endpoint(cluster, next as usize), Instant::now());
                next += 1;
            }
        }
    }
    // The last change takes effect, and the next one would start.
    ticks.tick().await;
    let (elapsed, cpu) = (started.elapsed(), cpu_time(process.id())? - cpu_before);
    while !tracker.is_complete() {
        let Ok(line) = timeout(LAST_EFFECT, process.next_line()).await else {
            bail!("{} changes have no effect after {} s", tracker.missing(), LAST_EFFECT.as_secs());
        };
        tracker.read(&line?, Instant::now());
    }
    let memory = ProcessTree { root: process.id() }.memory()?;
    Ok(RateUsage { changes, duration: elapsed, cpu, memory, delays: tracker.delays })
}

/// Replaces the last endpoint of the next load balancer. Returns the address of the new endpoint.
fn replace_endpoint(cluster: &SimulatedCluster, change: usize) -> String {
    let load_balancers = &cluster.load_balancers;
    let (round, index) = (change / load_balancers.len(), change % load_balancers.len());
    let (load_balancer, replaced) = (load_balancers[index], round.is_multiple_of(2));
    cluster.api.objects.put("endpointslices", load_balancer.slice(replaced));
    load_balancer.last_address(replaced)
}

/// Finds the time at which changes take effect in the log of a replica: a configuration with the new endpoint is
/// logged before it is applied, and its generation is logged after that.
#[derive(Default)]
struct EffectTracker {
    /// The times of the changes that are not configured yet, by the address of the new endpoint.
    changed: HashMap<String, Instant>,
    /// The times and the generations of the changes that are not applied yet.
    configured: Vec<(u64, Instant)>,
    /// The seconds until the other changes have taken effect.
    delays: Vec<f64>,
}

impl EffectTracker {
    fn expect(&mut self, address: String, now: Instant) {
        self.changed.insert(address, now);
    }

    fn read(&mut self, line: &str, now: Instant) {
        let Some(generation) = value(line, "generation=").and_then(|text| text.parse::<u64>().ok()) else { return };
        if line.contains("configured") {
            let joined = value(line, "joined=[").and_then(|address| address.split_once(':'));
            let change = joined.and_then(|(address, _)| self.changed.remove(address));
            self.configured.extend(change.map(|time| (generation, time)));
        } else if line.contains("applied") {
            let applied = self.configured.extract_if(.., |(configured, _)| *configured <= generation);
            self.delays.extend(applied.map(|(_, time)| now.duration_since(time).as_secs_f64()));
        }
    }

    fn missing(&self) -> usize {
        self.changed.len() + self.configured.len()
    }

    fn is_complete(&self) -> bool {
        self.missing() == 0
    }
}

/// The text after `name`, up to the next space or bracket.
fn value<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(name)?;
    rest.split([' ', ']']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_in_effect_once_its_generation_is_applied() {
        let (mut tracker, start) = (EffectTracker::default(), Instant::now());
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        tracker.expect("10.0.0.1".to_owned(), at(0));
        tracker.expect("10.0.0.2".to_owned(), at(1));
        let configured = |generation, address| {
            format!("INFO configured load_balancer=a/b generation={generation} joined=[10.0.0.{address}:80] left=[]")
        };
        tracker.read(&configured(7, 1), at(2));
        tracker.read("DEBUG applied generation=6", at(3));
        assert!(tracker.delays.is_empty());
        tracker.read(&configured(8, 2), at(4));
        tracker.read(&configured(8, 9), at(4));
        tracker.read("DEBUG applied generation=8", at(5));
        assert_eq!(tracker.delays, [0.005, 0.004]);
        assert!(tracker.is_complete());
    }
}
