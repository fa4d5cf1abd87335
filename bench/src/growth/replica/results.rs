//! The results, as they are printed.

use std::{fmt, time::Duration};

use crate::{growth::cluster::SimulatedCluster, statistics::percentile};

/// The cost of a start.
pub struct StartUsage {
    /// The time until the replica is ready.
    pub ready: Duration,
    /// The CPU time until it has finished its work.
    pub cpu: Duration,
    /// The memory after that, in bytes.
    pub memory: u64,
    /// The largest resident memory, in bytes.
    pub peak_memory: u64,
}

impl fmt::Display for StartUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ready, cpu, memory, peak_memory } = self;
        write!(
            f,
            "{:.2} s of CPU time, ready after {:.1} s, {} MiB, at most {} MiB",
            cpu.as_secs_f64(),
            ready.as_secs_f64(),
            memory >> 20,
            peak_memory >> 20
        )
    }
}

/// The resources that a replica needs while nothing changes.
pub struct IdleUsage {
    /// The share of a core.
    pub share: f64,
    /// In bytes.
    pub memory: u64,
}

impl fmt::Display for IdleUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} % of a core, {} MiB", self.share * 100.0, self.memory >> 20)
    }
}

/// The resources that a replica needs while endpoints change.
pub struct RateUsage {
    pub changes: u32,
    pub duration: Duration,
    pub cpu: Duration,
    /// In bytes.
    pub memory: u64,
    /// The seconds from each change to its effect.
    pub delays: Vec<f64>,
}

impl fmt::Display for RateUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { changes, duration, cpu, memory, delays } = self;
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| percentile(delays, share).unwrap_or_default() * 1e3);
        write!(
            f,
            "{:.1} per second for {:.0} s: {:.2} % of a core, {:.2} ms of CPU time each, {} MiB, in effect after {p50:.1} \
             ms (p50), {p99:.1} ms (p99), {max:.1} ms (max)",
            f64::from(*changes) / duration.as_secs_f64(),
            duration.as_secs_f64(),
            cpu.as_secs_f64() / duration.as_secs_f64() * 100.0,
            cpu.as_secs_f64() * 1e3 / f64::from(*changes),
            memory >> 20
        )
    }
}

/// The number of writes of statuses and Events.
pub struct WriteSummary {
    statuses: u32,
    events: u32,
    /// The largest numbers for one load balancer.
    max_statuses: u32,
    max_events: u32,
}

impl WriteSummary {
    /// The writes so far.
    pub fn of(cluster: &SimulatedCluster) -> Self {
        let collections = cluster.api.objects.collections();
        let counts = || collections.writes.values();
        Self {
            statuses: counts().map(|counts| counts.statuses).sum(),
            events: counts().map(|counts| counts.events).sum(),
            max_statuses: counts().map(|counts| counts.statuses).max().unwrap_or_default(),
            max_events: counts().map(|counts| counts.events).max().unwrap_or_default(),
        }
    }
}

impl fmt::Display for WriteSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { statuses, events, max_statuses, max_events } = self;
        write!(
            f,
            "{statuses} status writes (at most {max_statuses} per load balancer), {events} Events (at most {max_events})"
        )
    }
}
