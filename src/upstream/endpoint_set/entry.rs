use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{health::Health, outlier::Outlier, slow_start::SlowStart};
use crate::{
    model::{self, ActiveCheck, Priority},
    upstream::{
        balance::Candidate,
        endpoint::{Endpoint, HealthStatus},
    },
};

/// An endpoint of an upstream, and the state that decides whether it is usable.
#[derive(Debug)]
pub struct EndpointEntry {
    pub candidate: Candidate,
    pub health: Health,
    pub outlier: Outlier,
    /// True if it was usable at the last review.
    pub was_usable: bool,
    /// True if its first probe was still pending when others began to serve: it starts without slow start, as they did.
    pub begins_with_others: bool,
    pub slow_start: Option<SlowStart>,
}

/// A change of an endpoint, for the log.
#[derive(Debug)]
pub struct EndpointChange {
    pub endpoint: Arc<Endpoint>,
    pub event: HealthEvent,
}

#[derive(Debug)]
pub enum HealthEvent {
    Unhealthy { reason: String },
    Healthy { reason: &'static str },
    Ejected { length: Duration, failures: u32, reason: String },
    Returned { reason: &'static str },
}

impl EndpointEntry {
    pub fn new(endpoint: Arc<Endpoint>, wanted: &model::EndpointConfig, backend: &model::Backend) -> Self {
        let candidate = Candidate {
            endpoint,
            stable_id: wanted.stable_id.clone(),
            weight: wanted.weight,
            proximity: wanted.proximity,
        };
        let health = Health::of_new(backend.active_check.as_deref());
        Self {
            candidate,
            health,
            outlier: Outlier::default(),
            was_usable: false,
            begins_with_others: false,
            slow_start: None,
        }
    }

    pub fn configured(mut self, wanted: &model::EndpointConfig, backend: &model::Backend) -> Self {
        if let Some(check) = backend.active_check.as_deref() {
            self.health.check_changes(self.check().as_deref(), check);
        }
        self.candidate.stable_id.clone_from(&wanted.stable_id);
        self.candidate.weight = wanted.weight;
        self.candidate.proximity = wanted.proximity;
        self
    }

    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.candidate.endpoint
    }

    pub fn check(&self) -> Option<Arc<ActiveCheck>> {
        self.endpoint().backend().active_check.clone()
    }

    pub fn priority(&self) -> Priority {
        self.endpoint().backend().priority
    }

    pub fn is_last_resort(&self) -> bool {
        self.endpoint().backend().last_resort
    }

    pub fn backend_name(&self) -> &Arc<str> {
        &self.endpoint().key().backend
    }

    pub fn is_ejected(&self) -> bool {
        self.outlier.ejected_until().is_some()
    }

    pub fn status(&self) -> HealthStatus {
        HealthStatus {
            healthy: self.health.healthy(),
            pending_first_check: self.health.pending_first_check(),
            ejected_until: self.outlier.ejected_until(),
        }
    }

    pub fn usable(&self) -> bool {
        self.status().usable()
    }

    /// Consecutive failures since it became usable.
    pub fn failures(&self) -> u32 {
        // An endpoint that is about to return still has its previous failures.
        if self.endpoint().usable() { self.endpoint().consecutive_failures() } else { 0 }
    }

    pub fn end_ejection(&mut self, reason: &'static str, now: Instant, changes: &mut Vec<EndpointChange>) {
        if self.outlier.ejected_until().is_some() {
            self.outlier.end(now);
            changes.push(self.change(HealthEvent::Returned { reason }));
        }
    }

    pub fn change(&self, event: HealthEvent) -> EndpointChange {
        EndpointChange { endpoint: self.endpoint().clone(), event }
    }
}
