//! The drains of a worker while the process shuts down, one for each load balancer.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU32,
    time::Duration,
};

use tokio::time::Instant;

use super::sessions::CloseQuota;
use crate::{
    drain::{DrainMode, Pace, Schedule},
    model::{Close, ObjectKey},
    proxy::{accounting::CloseReason, view::View},
};

const SECOND: Duration = Duration::from_secs(1);

/// The `drain.shutdown` policies of listeners with connections, by listener id; `None`: connections stay for as long as
/// the process may drain.
pub type ShutdownPolicies = HashMap<u64, (ObjectKey, Option<Close>)>;

/// The current policies; for removed listeners the last declared ones.
pub fn declared(view: &View) -> ShutdownPolicies {
    let live = view.listeners.iter().filter_map(|live| Some((live, view.snapshot.listeners.get(&live.key)?.drain)));
    let draining = view.draining.iter().map(|draining| (&draining.listener, draining.drain));
    live.chain(draining).map(|(listener, drain)| (listener.id, (listener.key.object.clone(), drain.shutdown))).collect()
}

/// The drains of a worker, one for each load balancer and policy.
#[derive(Debug)]
pub struct Drains {
    begun: Instant,
    drains: Vec<ShutdownDrain>,
    /// Indexes into `drains`, by listener id.
    of: HashMap<u64, usize>,
}

#[derive(Debug)]
struct ShutdownDrain {
    schedule: Schedule,
    pace: Option<Pace>,
    /// The number of connections at the beginning.
    total: usize,
}

impl Drains {
    /// Creates the drains of one of `workers` workers, each of which closes its own connections.
    pub fn new(how: DrainMode, declared: &ShutdownPolicies, longest: Duration, workers: usize, now: Instant) -> Self {
        let mut drains = Self { begun: now, drains: Vec::new(), of: HashMap::new() };
        // Connections without a declared policy share one drain.
        drains.drains.push(ShutdownDrain::new(how.schedule(None, longest), None, workers, now));
        if how == DrainMode::UntilTheyEnd {
            return drains;
        }
        // Listeners of a load balancer share its rate. A removed listener may have had another policy.
        let mut numbers = BTreeMap::new();
        for (listener, (object, close)) in declared {
            let Some(close) = close else { continue };
            let schedule = how.schedule(Some(*close), longest);
            let number = *numbers.entry((object, schedule, close.max_per_second)).or_insert_with(|| {
                drains.drains.push(ShutdownDrain::new(schedule, close.max_per_second, workers, now));
                drains.drains.len() - 1
            });
            drains.of.insert(*listener, number);
        }
        drains
    }

    /// The number of drains.
    pub fn len(&self) -> usize {
        self.drains.len()
    }

    /// The index of the drain of a listener's connections.
    pub fn of(&self, listener: u64) -> usize {
        self.of.get(&listener).copied().unwrap_or(0)
    }

    /// Sets the number of connections of each drain at the beginning.
    pub fn begin(&mut self, open: &[usize]) {
        for (drain, open) in self.drains.iter_mut().zip(open) {
            drain.total = *open;
        }
    }

    /// The quota of each drain, from its number of open connections.
    pub fn due(&mut self, open: &[usize], now: Instant) -> Vec<CloseQuota> {
        let elapsed = now - self.begun;
        self.drains.iter_mut().zip(open).map(|(drain, open)| drain.due(*open, elapsed, now)).collect()
    }
}

impl ShutdownDrain {
    fn new(schedule: Schedule, max_per_second: Option<NonZeroU32>, workers: usize, now: Instant) -> Self {
        let pace = max_per_second.map(|most| Pace::shared_by(most.get() as usize, SECOND, workers, now));
        Self { schedule, pace, total: 0 }
    }

    fn due(&mut self, open: usize, elapsed: Duration, now: Instant) -> CloseQuota {
        let count = open.saturating_sub(self.schedule.may_remain(self.total, elapsed));
        if elapsed >= self.schedule.deadline() {
            return CloseQuota { count, reason: CloseReason::DrainDeadline };
        }
        let allowed = self.pace.as_mut().map_or(usize::MAX, |pace| pace.allows(now));
        let count = count.min(allowed);
        // The whole quota is closed.
        self.pace.iter_mut().for_each(|pace| pace.spend(count, now));
        CloseQuota { count, reason: CloseReason::Drained }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(after: u64, max_per_second: u32) -> Option<Close> {
        let after = Duration::from_secs(after);
        Some(Close { after, spread: after, max_per_second: NonZeroU32::new(max_per_second) })
    }

    /// The connections that each of these listeners still has after some time of the drain.
    fn left(listeners: &[(&str, Option<Close>, usize)], after: Duration) -> Vec<usize> {
        let now = Instant::now();
        let declared = |(id, (object, close, _)): (usize, &(&str, Option<Close>, usize))| {
            (id as u64, (ObjectKey::new("shop", object), *close))
        };
        let declared = listeners.iter().enumerate().map(declared).collect();
        let mut drains = Drains::new(DrainMode::AsDeclared, &declared, Duration::from_secs(60), 1, now);
        let mut open = vec![0; drains.len()];
        for (id, (_, _, connections)) in listeners.iter().enumerate() {
            open[drains.of(id as u64)] += connections;
        }
        drains.begin(&open);
        for tick in 0..=after.as_millis() as u64 / 100 {
            let due = drains.due(&open, now + Duration::from_millis(100 * tick));
            open.iter_mut().zip(due).for_each(|(open, quota)| *open -= quota.count);
        }
        (0..listeners.len()).map(|id| open[drains.of(id as u64)]).collect()
    }

    #[test]
    fn load_balancers_with_the_same_settings_have_separate_rates() {
        let declared = close(10, 50);
        let left = left(&[("one", declared, 400), ("other", declared, 400)], Duration::from_secs(5));
        assert!(left.iter().all(|left| (145..=205).contains(left)), "{left:?} of 400, with 50 a second for 5 s");
    }

    #[test]
    fn listeners_of_a_load_balancer_share_its_rate() {
        let declared = close(10, 50);
        let left = left(&[("one", declared, 200), ("one", declared, 200)], Duration::from_secs(5));
        assert!(left.iter().all(|left| (145..=205).contains(left)), "{left:?} of 400, with 50 a second for 5 s");
    }

    #[test]
    fn connections_without_a_policy_stay_until_the_drain_deadline() {
        let listeners = [("one", None, 10), ("other", close(1, 1000), 10)];
        assert_eq!(left(&listeners, Duration::from_secs(59)), [10, 0]);
        assert_eq!(left(&listeners, Duration::from_secs(60)), [0, 0]);
    }
}
