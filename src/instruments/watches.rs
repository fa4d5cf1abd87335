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
    is_failing: bool,
    /// The time since which the watch has failed without having worked. `None`: it works, or its failure is no outage.
    outage_since: Option<Instant>,
}

/// The watches of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchTotals {
    pub working: usize,
    pub failing: usize,
    /// The time since the first of the failing watches failed, without refused references. Zero if all others work.
    pub outage_age: Duration,
}

impl WatchInstruments {
    /// Adds a watch, until the result is dropped. It counts as working until it fails.
    pub fn start(self: &Arc<Self>, kind: &'static str) -> RunningWatch {
        let mut running = self.running();
        running.next_id += 1;
        let id = running.next_id;
        running.watches.insert(id, WatchEntry { kind, is_failing: false, outage_since: None });
        RunningWatch { instruments: self.clone(), kind, id }
    }

    /// The totals of each kind with a watch.
    pub fn totals(&self, now: Instant) -> BTreeMap<&'static str, WatchTotals> {
        let mut totals = BTreeMap::<_, WatchTotals>::new();
        for WatchEntry { kind, is_failing, outage_since } in self.running().watches.values() {
            let totals = totals.entry(*kind).or_default();
            if *is_failing {
                totals.failing += 1;
            } else {
                totals.working += 1;
            }
            if let Some(since) = outage_since {
                totals.outage_age = totals.outage_age.max(now.saturating_duration_since(*since));
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
        self.count(reason);
        self.update(|entry| {
            entry.is_failing = true;
            entry.outage_since.get_or_insert_with(Instant::now);
        });
    }

    /// Counts a refusal to read an object that a load balancer refers to. It is no outage, because the status of the
    /// load balancer shows it.
    pub fn refused_reference(&self) {
        self.count(WatchFailure::Refused);
        self.update(|entry| {
            entry.is_failing = true;
            entry.outage_since = None;
        });
    }

    pub fn works(&self) {
        self.update(|entry| {
            entry.is_failing = false;
            entry.outage_since = None;
        });
    }

    fn count(&self, reason: WatchFailure) {
        self.instruments.failures.get_or_create(&WatchFailureLabels { kind: self.kind, reason }).inc();
    }

    fn update(&self, change: impl FnOnce(&mut WatchEntry)) {
        if let Some(entry) = self.instruments.running().watches.get_mut(&self.id) {
            change(entry);
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

    #[test]
    fn a_refused_reference_fails_without_an_outage() {
        let instruments = Arc::new(WatchInstruments::default());
        let watch = instruments.start("Secret");
        let totals = || instruments.totals(Instant::now() + Duration::from_secs(9))["Secret"];
        for _ in 0..2 {
            watch.refused_reference();
            assert_eq!(totals(), WatchTotals { failing: 1, ..WatchTotals::default() });
            watch.failed(WatchFailure::Unreachable);
            assert!(totals().failing == 1 && totals().outage_age >= Duration::from_secs(9), "{:?}", totals());
        }
        let labels = WatchFailureLabels { kind: "Secret", reason: WatchFailure::Refused };
        assert_eq!(instruments.failures.get_or_create(&labels).get(), 2);
    }
}
