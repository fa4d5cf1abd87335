//! Rates of traffic counters, and their recent history.

mod counter_sums;
mod counts;

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::{Duration, Instant},
};

pub use self::{counter_sums::CounterSums, counts::TrafficCounts};

/// Averages per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TrafficRates {
    pub connections: f64,
    pub bytes: f64,
    pub failures: f64,
}

impl TrafficRates {
    fn of(increase: TrafficCounts, elapsed: Duration) -> Self {
        let rate = |count: u64| count as f64 / elapsed.as_secs_f64();
        Self { connections: rate(increase.connections), bytes: rate(increase.bytes), failures: rate(increase.failures) }
    }
}

/// The rates of many counters in the most recent intervals.
///
/// It has no clock or task: the display passes the counters when it shows them. After a long pause, the history starts
/// again.
#[derive(Debug)]
pub struct RateHistory<K> {
    /// The maximum number of intervals that are kept.
    length: usize,
    /// The longest interval between two samples.
    max_pause: Duration,
    sampled: Option<Instant>,
    series: HashMap<K, RateSeries>,
}

/// Counters that are passed sooner than this after the last ones are ignored.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// The default of the longest interval between two samples.
const MAX_PAUSE: Duration = Duration::from_secs(15);

/// The rates of one key.
#[derive(Debug)]
struct RateSeries {
    counts: TrafficCounts,
    /// The latest is the last one. Empty: nothing has happened in all intervals.
    rates: VecDeque<TrafficRates>,
    /// True from the second sample.
    is_known: bool,
    /// True if the key was part of the latest sample.
    is_current: bool,
}

impl<K: Eq + Hash> RateHistory<K> {
    pub fn new(length: usize) -> Self {
        Self { length, max_pause: MAX_PAUSE, sampled: None, series: HashMap::new() }
    }

    /// The same with another longest interval between two samples.
    pub fn with_max_pause(self, max_pause: Duration) -> Self {
        Self { max_pause, ..self }
    }

    /// Adds an interval that ends now, unless the last one has just ended. Keys that are absent are forgotten.
    pub fn sample(&mut self, now: Instant, counts: impl IntoIterator<Item = (K, TrafficCounts)>) {
        let elapsed = self.sampled.map(|sampled| now.saturating_duration_since(sampled));
        if elapsed.is_some_and(|elapsed| elapsed < MIN_INTERVAL) {
            return;
        }
        self.sampled = Some(now);
        if elapsed.is_none_or(|elapsed| elapsed > self.max_pause) {
            self.series.clear();
        }
        for (key, counts) in counts {
            match self.series.get_mut(&key) {
                Some(series) => series.push(counts, elapsed.unwrap_or(MIN_INTERVAL), self.length),
                None => drop(self.series.insert(key, RateSeries::starting_with(counts))),
            }
        }
        self.series.retain(|_, series| std::mem::take(&mut series.is_current));
    }

    /// True if there are counters of at least one moment.
    #[cfg(test)]
    pub fn has_samples(&self) -> bool {
        self.sampled.is_some()
    }

    /// The rates of the latest interval. `None`: they are not known yet.
    pub fn latest(&self, key: &K) -> Option<TrafficRates> {
        let series = self.series.get(key).filter(|series| series.is_known)?;
        Some(series.rates.back().copied().unwrap_or_default())
    }

    /// The rates of the recent intervals; the latest is the last one. Empty: nothing has happened.
    pub fn recent(&self, key: &K) -> impl ExactSizeIterator<Item = TrafficRates> + Clone {
        self.series.get(key).map(|series| series.rates.iter().copied()).unwrap_or_default()
    }
}

impl RateSeries {
    fn starting_with(counts: TrafficCounts) -> Self {
        Self { counts, rates: VecDeque::new(), is_known: false, is_current: true }
    }

    fn push(&mut self, counts: TrafficCounts, elapsed: Duration, length: usize) {
        let rates = TrafficRates::of(counts.since(self.counts), elapsed);
        (self.counts, self.is_known, self.is_current) = (counts, true, true);
        if rates == TrafficRates::default() && self.rates.iter().all(|rates| *rates == TrafficRates::default()) {
            self.rates.clear();
            return;
        }
        if self.rates.len() >= length {
            self.rates.pop_front();
        }
        self.rates.push_back(rates);
    }
}

/// A number of bytes in binary units: `1.5 MiB`.
pub fn bytes(count: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let power = (count.max(1.0).log2() / 10.0).floor().min(4.0);
    let decimals = usize::from(power > 0.0);
    format!("{:.decimals$} {}", count / 1024f64.powf(power), units[power as usize])
}

/// A number of events per second with about three digits: `0`, `0.25`, `12.5`, `1500`.
pub fn per_second(rate: f64) -> String {
    let decimals = match rate {
        0.0 => 0,
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{rate:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(connections: u64) -> TrafficCounts {
        TrafficCounts { connections, bytes: connections * 100, failures: 0 }
    }

    fn recent(history: &RateHistory<u8>, key: u8) -> Vec<f64> {
        history.recent(&key).map(|rates| rates.connections).collect()
    }

    #[test]
    fn rates_are_averages_of_intervals_and_the_oldest_are_dropped() {
        let (start, mut history) = (Instant::now(), RateHistory::new(3));
        for (second, connections) in [(0, 7), (2, 27), (4, 27), (6, 29), (8, 33)] {
            history.sample(start + Duration::from_secs(second), [(1, counts(connections))]);
            assert_eq!(history.latest(&1).is_some(), second > 0, "after {second} s");
        }
        assert_eq!(recent(&history, 1), [0.0, 1.0, 2.0]);
        assert_eq!(history.latest(&1).unwrap().bytes, 200.0);
    }

    #[test]
    fn counters_that_come_at_once_or_after_a_pause_give_no_rate() {
        let (start, mut history) = (Instant::now(), RateHistory::new(3));
        history.sample(start, [(1, counts(0))]);
        history.sample(start + Duration::from_millis(999), [(1, counts(1000))]);
        assert_eq!(history.latest(&1), None);
        history.sample(start + Duration::from_secs(2), [(1, counts(1000))]);
        assert_eq!(recent(&history, 1), [500.0]);
        history.sample(start + Duration::from_secs(99), [(1, counts(9000))]);
        assert_eq!((history.latest(&1), recent(&history, 1).len()), (None, 0));
    }

    #[test]
    fn idle_reset_and_removed_counters_have_no_history() {
        let (start, mut history) = (Instant::now(), RateHistory::new(2));
        history.sample(start, [(1, counts(50)), (2, counts(5))]);
        history.sample(start + Duration::from_secs(1), [(1, counts(3))]);
        assert_eq!(history.latest(&1), Some(TrafficRates::default()), "a counter that was reset");
        assert_eq!((recent(&history, 1).len(), history.latest(&2)), (0, None));
    }

    #[test]
    fn numbers_have_units_and_few_digits() {
        let texts = [0.0, 1023.0, 1536.0, 5e9].map(bytes);
        assert_eq!(texts, ["0 B", "1023 B", "1.5 KiB", "4.7 GiB"]);
        assert_eq!([0.0, 0.25, 12.54, 1500.4].map(per_second), ["0", "0.25", "12.5", "1500"]);
    }
}
