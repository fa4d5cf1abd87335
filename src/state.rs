//! The state of the process, for its admin pages and metrics.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use tokio::sync::watch;

use crate::{
    instruments::Instruments,
    model::ObjectKey,
    translate::{Severity, Verdicts},
};

/// The readiness of the process, and the result of its manifests.
#[derive(Debug, Default)]
pub struct ReadinessState {
    ready: AtomicBool,
    leaving: AtomicBool,
    configuration: watch::Sender<Arc<Configuration>>,
    instruments: Arc<Instruments>,
}

/// The result of the latest compilation of the manifests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// The generation of the resulting snapshot.
    pub generation: u64,
    pub verdicts: Arc<Verdicts>,
    /// Problems that belong to no load balancer.
    pub problems: Vec<String>,
    /// The zone of this process, if it is known.
    pub zone: Option<Arc<str>>,
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
    pub fn new(instruments: Arc<Instruments>) -> Self {
        Self { instruments, ..Self::default() }
    }

    /// The metrics of the control plane.
    pub fn instruments(&self) -> &Arc<Instruments> {
        &self.instruments
    }

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

    pub fn is_ready(&self) -> bool {
        self.ready.load(Relaxed)
    }

    pub fn takes_new_connections(&self) -> bool {
        self.is_ready() && !self.leaving.load(Relaxed)
    }
}
