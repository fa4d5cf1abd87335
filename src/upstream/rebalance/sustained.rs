use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

/// The time after which an excess counts: short-lived connections cause a brief excess at most ticks.
pub const SUSTAINED_AFTER: Duration = Duration::from_secs(3);

/// The endpoints with a sustained excess, by id.
#[derive(Clone, Debug, Default)]
pub struct SustainedExcess(BTreeMap<u64, Overload>);

#[derive(Clone, Copy, Debug)]
struct Overload {
    since: Instant,
    closed: Option<Instant>,
}

impl SustainedExcess {
    /// The sustained part of the excesses of these endpoints. Must be called at every tick.
    pub fn of(&mut self, excesses: &[(u64, u32)], now: Instant) -> Vec<u32> {
        let of_endpoint = |(id, count): &(u64, u32)| {
            if *count == 0 {
                // Closed connections may return to the same endpoint: this is still the same excess.
                let is_over = |excess: &Overload| excess.closed.is_none_or(|closed| now >= closed + SUSTAINED_AFTER);
                if self.0.get(id).is_some_and(is_over) {
                    self.0.remove(id);
                }
                return 0;
            }
            let excess = self.0.entry(*id).or_insert(Overload { since: now, closed: None });
            if now >= excess.since + SUSTAINED_AFTER { *count } else { 0 }
        };
        excesses.iter().map(of_endpoint).collect()
    }

    /// Records that connections of this endpoint were closed.
    pub fn closed(&mut self, id: u64, now: Instant) {
        if let Some(excess) = self.0.get_mut(&id) {
            excess.closed = Some(now);
        }
    }

    /// Removes the endpoints that are not known.
    pub fn retain(&mut self, is_known: impl Fn(u64) -> bool) {
        self.0.retain(|id, _| is_known(*id));
    }
}
