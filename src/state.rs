//! What the process knows of itself, for its admin pages and metrics.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use tokio::sync::watch;

use crate::{
    model::ObjectKey,
    translate::{Severity, Verdicts},
};

/// Whether the process serves, and what it thinks of its manifests.
#[derive(Debug, Default)]
pub struct State {
    ready: AtomicBool,
    leaving: AtomicBool,
    configuration: watch::Sender<Arc<Configuration>>,
}

/// What came of the manifests when they were last read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// That of the snapshot that came of them.
    pub generation: u64,
    pub verdicts: Arc<Verdicts>,
    /// What is wrong with no load balancer in particular.
    pub problems: Vec<String>,
}

impl Configuration {
    /// Where a load balancer is declared, for people.
    pub fn origin_of(&self, object: &ObjectKey) -> Arc<str> {
        self.verdicts.get(object).map(|verdict| verdict.origin.clone()).unwrap_or_default()
    }

    /// How many problems of this kind there are; those of no load balancer in particular count as refusals.
    pub fn problems_of(&self, severity: Severity) -> usize {
        let of_objects = self.verdicts.values().flat_map(|verdict| &verdict.problems);
        let general = if severity == Severity::Refused { self.problems.len() } else { 0 };
        general + of_objects.filter(|problem| problem.severity == severity).count()
    }
}

impl State {
    /// Whether connections are served: true from the first applied snapshot until the listeners close.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Relaxed);
    }

    /// From now on `/lb-ready` fails: new connections had better go elsewhere.
    pub fn leave(&self) {
        self.leaving.store(true, Relaxed);
    }

    pub fn set_configuration(&self, configuration: Configuration) {
        self.configuration.send_replace(Arc::new(configuration));
    }

    pub fn configuration(&self) -> Arc<Configuration> {
        self.configuration.borrow().clone()
    }

    /// What came of the manifests, whenever they were thought over.
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
