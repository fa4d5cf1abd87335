use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::time::Instant;

use super::shares::{LoadRatio, Shares, golden_part};
use crate::upstream::endpoint::{Endpoint, TriedEndpoints};

/// The maximum number of endpoints that each pick compares.
const MAX_COMPARED: usize = 32;
/// With more endpoints, one comparison plans as many picks as the number of endpoints divided by this.
const PLAN_DIVISOR: usize = 8;
/// The maximum age of a plan.
const MAX_PLAN_AGE: Duration = Duration::from_millis(100);

/// Picks the endpoint with the fewest connections for its weight. Equal endpoints take turns by weight.
///
/// With many endpoints, one comparison plans the next picks. They are the same as if each compared all endpoints,
/// except that connections that have ended since are not noticed.
#[derive(Debug)]
pub struct LeastConnections {
    shares: Shares,
    plan: ArcSwapOption<PickPlan>,
}

impl LeastConnections {
    pub fn new(shares: Shares) -> Self {
        Self { shares, plan: ArcSwapOption::empty() }
    }

    pub fn shares(&self) -> &Shares {
        &self.shares
    }

    pub fn pick(&self, tried: &TriedEndpoints, turn: &AtomicU64) -> Option<&Arc<Endpoint>> {
        if self.shares.endpoints().len() > MAX_COMPARED && tried.is_empty() {
            return Some(self.pick_planned(turn));
        }
        self.pick_compared(tried, turn)
    }

    fn pick_planned(&self, turn: &AtomicU64) -> &Arc<Endpoint> {
        let now = Instant::now();
        let planned = self.plan.load().as_ref().and_then(|plan| plan.next(now));
        let index = planned.unwrap_or_else(|| {
            let (plan, first) = PickPlan::new(&self.shares, turn.fetch_add(1, Relaxed), now);
            self.plan.store(Some(Arc::new(plan)));
            first
        });
        &self.shares.endpoints()[index]
    }

    fn pick_compared(&self, tried: &TriedEndpoints, turn: &AtomicU64) -> Option<&Arc<Endpoint>> {
        let endpoints = self.shares.endpoints();
        let untried = || (0..endpoints.len()).filter(|index| !tried.contains(&endpoints[*index]));

        let (mut least, mut index_of_least, mut tied_weight) = (None, 0, 0);
        for index in untried() {
            let load = LoadRatio::now(&self.shares, index);
            match least.map_or(Ordering::Less, |least| load.compare(least)) {
                Ordering::Less => (least, index_of_least, tied_weight) = (Some(load), index, self.shares.weight(index)),
                Ordering::Equal => tied_weight += self.shares.weight(index),
                Ordering::Greater => {}
            }
        }
        let least = least?;

        let turn = turn.fetch_add(1, Relaxed);
        let mut point = if self.shares.are_equal() { turn % tied_weight } else { golden_part(turn, tied_weight) };
        let chosen = untried().find(|index| {
            if LoadRatio::now(&self.shares, *index).compare(least).is_gt() {
                return false;
            }
            let weight = self.shares.weight(*index);
            let covers = point < weight;
            point = point.saturating_sub(weight);
            covers
        });
        // Counts change concurrently: no endpoint is found if all equal ones have got another connection.
        Some(&endpoints[chosen.unwrap_or(index_of_least)])
    }
}

/// The next picks, as indices of endpoints.
struct PickPlan {
    picks: Box<[u32]>,
    next: AtomicUsize,
    made: Instant,
}

impl PickPlan {
    /// Plans the next picks. Returns those after the first, and the index of the first. There must be endpoints.
    fn new(shares: &Shares, turn: u64, now: Instant) -> (Self, usize) {
        let count = shares.endpoints().len();
        let start = usize::try_from(golden_part(turn, count as u64)).unwrap_or(0);
        let load = |index: usize| {
            let weight = shares.weight(index) as f64;
            // Endpoints of the same weight take turns. A random position divided by the weight comes first as often as
            // the weight demands.
            let position = match shares.are_equal() {
                true => ((index + count - start) % count) as f64 / count as f64,
                false => fastrand::f64(),
            };
            Reverse(PlannedLoad { load: LoadRatio::now(shares, index), position: position / weight, weight, index })
        };
        let mut heap: BinaryHeap<_> = (0..count).map(load).collect();
        let mut pick = || {
            let mut top = heap.peek_mut();
            let Some(Reverse(least)) = top.as_deref_mut() else { return 0 };
            least.load = least.load.with_another();
            least.position += 1.0 / least.weight;
            least.index
        };
        let first = pick();
        let picks = (1..count / PLAN_DIVISOR).map(|_| u32::try_from(pick()).unwrap_or(0)).collect();
        (Self { picks, next: AtomicUsize::new(0), made: now }, first)
    }

    /// The index of the next pick. `None`: the plan is used up, or too old.
    fn next(&self, now: Instant) -> Option<usize> {
        if now.saturating_duration_since(self.made) > MAX_PLAN_AGE {
            return None;
        }
        self.picks.get(self.next.fetch_add(1, Relaxed)).map(|index| *index as usize)
    }
}

impl fmt::Debug for PickPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PickPlan").field("next", &self.next).finish_non_exhaustive()
    }
}

/// The load of an endpoint after the picks planned so far.
struct PlannedLoad {
    load: LoadRatio,
    /// The order among endpoints of the same load.
    position: f64,
    weight: f64,
    index: usize,
}

impl Ord for PlannedLoad {
    fn cmp(&self, other: &Self) -> Ordering {
        self.load.compare(other.load).then(self.position.total_cmp(&other.position))
    }
}

impl PartialOrd for PlannedLoad {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for PlannedLoad {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for PlannedLoad {}
