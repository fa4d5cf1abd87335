//! Deferral of faults that pass by themselves while an object, new or changed, and its references are being created:
//! their condition has the reason `Pending` for a while before it has the reason of the fault, and there is no Event
//! about it.
//!
//! Objects of one `kubectl apply` arrive in any order, Kubernetes writes EndpointSlices later than Services, and pods
//! take a while to become ready. The time counts from the condition's transition to `False`, which is part of the
//! status, so that it survives a change of the leader.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{
    finding::Finding,
    input::{StatusInput, Topic},
    reason::{ConditionReason, is_waiting},
    types::{BACKENDS_HEALTHY, PROGRAMMED, RESOLVED_REFS},
};
use crate::translate::{REPORT_DELAY, Reason, Severity};

/// For Services, Secrets and ConfigMaps that are missing or incomplete.
const REFERENCES: SignedDuration = REPORT_DELAY;
/// For a Service that selects no pod, a name without addresses, and first health checks that fail.
const ENDPOINTS: SignedDuration = SignedDuration::from_secs(30);
/// For pods that exist and are not ready: they pull images and start.
const UNREADY_PODS: SignedDuration = SignedDuration::from_mins(2);
/// For the external address of a Service, which a cloud assigns to new Services and after a change of type.
const EXTERNAL_ADDRESS: SignedDuration = SignedDuration::from_mins(2);

impl StatusInput<'_> {
    /// The end of the deferral of a fault of references. `None`: it must be reported.
    pub fn references_deferred_until(&self) -> Option<Timestamp> {
        let before = self.before(RESOLVED_REFS);
        self.until(before, REFERENCES)
    }

    /// The end of the deferral of missing usable endpoints. If this declaration was served before, they must be
    /// reported at once.
    pub fn endpoints_deferred_until(&self) -> Option<Timestamp> {
        let before = self.before(BACKENDS_HEALTHY);
        let is_outage = before.is_some_and(|before| {
            before.status == "True" && before.observed_generation == Some(self.identity.generation)
        });
        let mut warnings = self.problems(Topic::Backends, Severity::Warning).peekable();
        let are_starting =
            warnings.peek().is_some() && warnings.all(|problem| problem.reason == Reason::EndpointsNotReady);
        let delay = if are_starting { UNREADY_PODS } else { ENDPOINTS };
        if is_outage { None } else { self.until(before, delay) }
    }

    /// The end of the deferral of a missing external address.
    pub fn address_deferred_until(&self) -> Option<Timestamp> {
        self.until(self.before(PROGRAMMED), EXTERNAL_ADDRESS)
    }

    /// True if the listeners that are not served lack only references whose faults are not reported yet.
    pub fn waits_for_references(&self) -> bool {
        let refuses = |topic| self.problems(topic, Severity::Refused).next().is_some();
        refuses(Topic::References) && !refuses(Topic::Declaration) && self.references_deferred_until().is_some()
    }

    fn before(&self, type_: &str) -> Option<&Condition> {
        self.status_before?.conditions.iter().find(|condition| condition.type_ == type_)
    }

    fn until(&self, before: Option<&Condition>, delay: SignedDuration) -> Option<Timestamp> {
        let since = match before {
            Some(before) if before.status == "False" && !is_waiting(before) => return None,
            Some(before) if before.status == "False" => before.last_transition_time.0,
            Some(_) | None => self.now,
        };
        let until = since.saturating_add(delay).unwrap_or(Timestamp::MAX);
        (self.now < until).then_some(until)
    }
}

impl Finding {
    /// A fault; pending until this time if it is deferred.
    pub fn no_or_pending(until: Option<Timestamp>, reason: ConditionReason, message: impl Into<String>) -> Self {
        let reason = if until.is_some() { ConditionReason::Pending } else { reason };
        Self { changes_at: until, ..Self::no(reason, message) }
    }
}
