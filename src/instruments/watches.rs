//! Metrics of watches.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};

use super::label_values::label_values;

label_values! {
    /// The reason why a watch failed.
    WatchFailure {
        /// The API server refuses the watch.
        Refused = "refused",
        /// The API server does not answer, or its answer is invalid.
        Unreachable = "unreachable",
    }
}

/// The watches by kind.
#[derive(Debug, Default)]
pub struct WatchInstruments {
    pub failures: Family<WatchFailureLabels, Counter>,
    running: Mutex<WatchEntries>,
}

#[derive(Debug, Default)]
struct WatchEntries {
    watches: BTreeMap<u64, WatchEntry>,
    next_id: u64,
}

#[derive(Debug)]
struct WatchEntry {
    kind: &'static str,
    /// The time since which the watch has failed without having worked.
    failing_since: Option<Instant>,
}

/// The watches of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchTotals {
    pub working: usize,
    pub failing: usize,
    /// The time since the first of the failing watches failed. Zero if all work.
    pub outage_age: Duration,
}

impl WatchInstruments {
    /// Adds a watch, until the result is dropped. It counts as working until it fails.
    pub fn start(self: &Arc<Self>, kind: &'static str) -> RunningWatch {
        let mut running = self.running();
        running.next_id += 1;
        let id = running.next_id;
        running.watches.insert(id, WatchEntry { kind, failing_since: None });
        RunningWatch { instruments: self.clone(), kind, id }
    }

    /// The totals of each kind with a watch.
    pub fn totals(&self, now: Instant) -> BTreeMap<&'static str, WatchTotals> {
        let mut totals = BTreeMap::<_, WatchTotals>::new();
        for WatchEntry { kind, failing_since } in self.running().watches.values() {
            let totals = totals.entry(*kind).or_default();
            match failing_since {
                Some(since) => {
                    totals.failing += 1;
                    totals.outage_age = totals.outage_age.max(now.saturating_duration_since(*since));
                }
                None => totals.working += 1,
            }
        }
        totals
    }

    fn running(&self) -> MutexGuard<'_, WatchEntries> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running watch.
#[derive(Debug)]
pub struct RunningWatch {
    instruments: Arc<WatchInstruments>,
    kind: &'static str,
    id: u64,
}

impl RunningWatch {
    pub fn failed(&self, reason: WatchFailure) {
        let watches = &self.instruments;
        watches.failures.get_or_create(&WatchFailureLabels { kind: self.kind, reason }).inc();
        if let Some(entry) = watches.running().watches.get_mut(&self.id) {
            entry.failing_since.get_or_insert_with(Instant::now);
        }
    }

    pub fn works(&self) {
        if let Some(entry) = self.instruments.running().watches.get_mut(&self.id) {
            entry.failing_since = None;
        }
    }
}

impl Drop for RunningWatch {
    fn drop(&mut self) {
        self.instruments.running().watches.remove(&self.id);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WatchFailureLabels {
    kind: &'static str,
    reason: WatchFailure,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outage_age_of_a_kind_counts_from_its_first_failing_watch() {
        let instruments = Arc::new(WatchInstruments::default());
        let [first, second] = ["Secret"; 2].map(|kind| instruments.start(kind));
        let _services = instruments.start("Service");
        first.failed(WatchFailure::Unreachable);
        let failed = Instant::now();
        second.failed(WatchFailure::Refused);
        second.failed(WatchFailure::Refused);
        let totals = instruments.totals(failed + Duration::from_secs(9));
        assert_eq!((totals["Secret"].working, totals["Secret"].failing), (0, 2));
        assert!(totals["Secret"].outage_age >= Duration::from_secs(9), "{totals:?}");
        assert_eq!(totals["Service"], WatchTotals { working: 1, ..WatchTotals::default() });

        first.works();
        drop(second);
        assert_eq!(instruments.totals(Instant::now())["Secret"].outage_age, Duration::ZERO);
        let failures =
            |reason| instruments.failures.get_or_create(&WatchFailureLabels { kind: "Secret", reason }).get();
        assert_eq!([failures(WatchFailure::Unreachable), failures(WatchFailure::Refused)], [1, 2]);
    }
}
