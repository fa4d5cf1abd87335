//! Parts of a status that stay as they were, so that a status is written only after a relevant change.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::api::{BackendStatus, LastFailure, TcpLoadBalancerStatus};

/// The interval at which a continuing failure is updated.
const FAILURE_LASTS: SignedDuration = SignedDuration::from_mins(5);

/// The new status, with the transition times of unchanged conditions and the continuing failures of the status
/// `before`.
pub fn steady(mut status: TcpLoadBalancerStatus, before: Option<&TcpLoadBalancerStatus>) -> TcpLoadBalancerStatus {
    let Some(before) = before else { return status };
    status = with_times_of(status, before);
    for backend in &mut status.backends {
        if let Some(before) = before.backends.iter().find(|before| before.name == backend.name) {
            keep_failure(backend, before);
        }
    }
    status
}

/// The new status, with the transition times of unchanged conditions of the status `before`.
pub fn with_times_of(mut status: TcpLoadBalancerStatus, before: &TcpLoadBalancerStatus) -> TcpLoadBalancerStatus {
    keep_times(&mut status.conditions, &before.conditions);
    for listener in &mut status.listeners {
        if let Some(before) = before.listeners.iter().find(|before| before.port == listener.port) {
            keep_times(&mut listener.conditions, &before.conditions);
        }
    }
    status
}

fn keep_times(conditions: &mut [Condition], before: &[Condition]) {
    for condition in conditions {
        let same = |before: &&Condition| before.type_ == condition.type_ && before.status == condition.status;
        if let Some(before) = before.iter().find(same) {
            condition.last_transition_time = before.last_transition_time.clone();
        }
    }
}

fn keep_failure(backend: &mut BackendStatus, before: &BackendStatus) {
    let time = |failure: &LastFailure| failure.time.parse::<Timestamp>().ok();
    let (Some(now), Some(then)) = (&backend.last_failure, &before.last_failure) else { return };
    let counts_the_same = (backend.endpoints, backend.healthy) == (before.endpoints, before.healthy);
    let recent = time(now).zip(time(then)).is_some_and(|(now, then)| now.duration_since(then) < FAILURE_LASTS);
    if counts_the_same && recent {
        backend.last_failure.clone_from(&before.last_failure);
    }
}
