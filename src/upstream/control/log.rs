//! Log lines for changes.

use std::sync::atomic::Ordering::Relaxed;

use tokio::time::Instant;
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

/// Logs changes of endpoints, up to the limit of the upstream.
pub fn log(upstream: &Published, changes: &[EndpointChange]) {
    let (limit, upstream, now) = (&upstream.endpoint_lines, &upstream.key, Instant::now());
    for EndpointChange { endpoint, event } in changes.iter().filter(|_| limit.allow(now)) {
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

/// Logs the number of lines that the limits of the upstream have left out, and returns the time at which further ones
/// are to be logged.
pub fn log_omitted(upstream: &Published, now: Instant) -> Option<Instant> {
    let Published { key, endpoint_lines, service_lines, .. } = upstream;
    if let Some(omitted) = endpoint_lines.take_omitted(now) {
        warn!(
            upstream = %key,
            omitted,
            "further changes of the health of endpoints were not logged: see the present states in `kubectl tcplb \
             status`, on the admin page or in `/snapshot`; if endpoints alternate, repair them, or raise \
             `healthCheck.active.healthyAfter` and `unhealthyAfter`"
        );
    }
    if let Some(omitted) = service_lines.take_omitted(now) {
        warn!(
            upstream = %key,
            omitted,
            "further lines about refused connections and failovers were not logged: see the present state in `kubectl \
             tcplb status`, on the admin page or in `/snapshot`"
        );
    }
    endpoint_lines.due().into_iter().chain(service_lines.due()).min()
}

/// Logs whether connections are refused for want of a usable endpoint.
pub fn log_service(upstream: &Published, refuses: bool, usable: usize) {
    if !upstream.service_lines.allow(Instant::now()) {
        return;
    }
    let upstream = &upstream.key;
    if refuses {
        warn!(%upstream, "no endpoint is usable: connections are refused");
    } else {
        info!(%upstream, usable, "connections are served again");
    }
}

/// Counts and logs a change of the active priority level.
pub fn record_priority_change(upstream: &Published, backends: &Backends, change: PriorityChange) {
    upstream.priority_changes.fetch_add(u64::from(change.from.is_some()), Relaxed);
    let is_logged = change.from.is_some() || change.to > change.first;
    if is_logged && upstream.service_lines.allow(Instant::now()) {
        log_priority_change(&upstream.key, backends, change);
    }
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
