//! The state of the process, for its admin pages and metrics.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use tokio::sync::watch;

use crate::{
    model::ObjectKey,
    translate::{Severity, Verdicts},
};

/// The readiness of the process, and the result of its manifests.
#[derive(Debug, Default)]
pub struct ReadinessState {
    ready: AtomicBool,
    leaving: AtomicBool,
    configuration: watch::Sender<Arc<Configuration>>,
    mismatches: AtomicU64,
}

/// The result of the latest compilation of the manifests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// The generation of the resulting snapshot.
    pub generation: u64,
    pub verdicts: Arc<Verdicts>,
    /// Problems that belong to no load balancer.
    pub problems: Vec<String>,
}

impl Configuration {
    /// The place where a load balancer is declared, for messages.
    pub fn origin_of(&self, object: &ObjectKey) -> Arc<str> {
        self.verdicts.get(object).map(|verdict| verdict.origin.clone()).unwrap_or_default()
    }

    /// The number of problems of a severity. Problems that belong to no load balancer count as refused.
    pub fn problems_of(&self, severity: Severity) -> usize {
        let of_objects = self.verdicts.values().flat_map(|verdict| &verdict.problems);
        let general = if severity == Severity::Refused { self.problems.len() } else { 0 };
        general + of_objects.filter(|problem| problem.severity == severity).count()
    }
}

impl ReadinessState {
    /// Sets the readiness. It is true from the first applied snapshot until the listeners close.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Relaxed);
    }

    /// Makes `/lb-ready` fail from now on, so that load balancers in front send no new connections.
    pub fn leave(&self) {
        self.leaving.store(true, Relaxed);
    }

    pub fn set_configuration(&self, configuration: Configuration) {
        self.configuration.send_replace(Arc::new(configuration));
    }

    pub fn configuration(&self) -> Arc<Configuration> {
        self.configuration.borrow().clone()
    }

    /// The result of each compilation.
    pub fn configurations(&self) -> watch::Receiver<Arc<Configuration>> {
        self.configuration.subscribe()
    }

    /// Counts a reused result that differs from a full translation.
    pub fn count_mismatch(&self) {
        self.mismatches.fetch_add(1, Relaxed);
    }

    /// The number of translations with reused results that differed from a full translation.
    pub fn mismatches(&self) -> u64 {
        self.mismatches.load(Relaxed)
    }

    pub fn is_ready(&self) -> bool {
        self.ready.load(Relaxed)
    }

    pub fn takes_new_connections(&self) -> bool {
        self.is_ready() && !self.leaving.load(Relaxed)
    }
}
