//! Log lines for changes.

use std::sync::atomic::Ordering::Relaxed;

use tracing::{info, warn};

use crate::{
    model::UpstreamKey,
    upstream::{
        backends::Backends,
        endpoint_set::{EndpointChange, HealthEvent},
        priority::PriorityChange,
        published::Published,
    },
};

pub fn log(upstream: &UpstreamKey, changes: &[EndpointChange]) {
    for EndpointChange { endpoint, event } in changes {
        let endpoint = endpoint.key();
        match event {
            HealthEvent::Unhealthy { reason } => warn!(%upstream, %endpoint, reason, "endpoint unhealthy"),
            HealthEvent::Healthy { reason } => info!(%upstream, %endpoint, reason, "endpoint healthy"),
            HealthEvent::Ejected { length, failures, reason } => {
                warn!(%upstream, %endpoint, ?length, failures, reason, "endpoint ejected");
            }
            HealthEvent::Returned { reason } => info!(%upstream, %endpoint, reason, "endpoint no longer ejected"),
        }
    }
}

/// Counts and logs a change of the active priority level.
pub fn record_priority_change(upstream: &Published, backends: &Backends, change: PriorityChange) {
    upstream.priority_changes.fetch_add(u64::from(change.from.is_some()), Relaxed);
    log_priority_change(&upstream.key, backends, change);
}

/// `backends` are the backends of a route, or all.
fn log_priority_change(
    upstream: &UpstreamKey,
    backends: &Backends,
    PriorityChange { from, to, first }: PriorityChange,
) {
    let backends = match backends {
        Backends::All => None,
        Backends::Of(names) => Some(names.join(", ")),
    };
    match from {
        Some(from) if from < to => {
            warn!(%upstream, backends, %from, %to, "failed over: new connections go to endpoints of another priority");
        }
        Some(from) => {
            info!(%upstream, backends, %from, %to, "failed back: new connections go to endpoints of another priority");
        }
        None if to > first => {
            warn!(%upstream, backends, %to, "failed over: new connections go to endpoints of a higher priority number");
        }
        None => {}
    }
}
