//! `Ready`, `Reconciling` and `Stalled`: the conditions that deployment tools wait for.
//!
//! Helm 4 and Flux use kstatus (sigs.k8s.io/cli-utils, `pkg/kstatus/status`). For kinds that it does not know it
//! evaluates, in this order: `metadata.deletionTimestamp` (Terminating), an `observedGeneration` that differs from
//! `metadata.generation` (InProgress), the first of `Reconciling` (InProgress) and `Stalled` (Failed) in the list that
//! is `True`, then `Ready`: `True` is Current, anything else InProgress. Without any of these, an object is Current.
//! Therefore:
//!
//! - `Ready` is always present, and a new object has the `observedGeneration` -1, or it would be Current before a
//!   controller has seen it.
//! - At most one of `Reconciling` and `Stalled` is present, and only while it is `True`, so their order has no effect.
//! - `Stalled` is only for faults that need a change by a user or the administrator: Helm stops waiting for a Failed
//!   object.
//!
//! `kubectl wait --for=condition=Ready` compares the condition's own `observedGeneration` with `metadata.generation`.
//! Argo CD has a script in docs/kubernetes.md.

use super::{
    finding::{Finding, Holds},
    reason::ConditionReason,
    types::{ACCEPTED, CLIENT_ADDRESS_PRESERVED, READY, RECONCILING, STALLED},
};

/// The first condition with a fault.
pub fn first_fault<'a>(conditions: &'a [(&'static str, Finding)]) -> Option<(&'static str, &'a Finding)> {
    // `ClientAddressPreserved` describes a choice, and pods with sidecars have their own readiness.
    let counts = |type_: &str, finding: &Finding| {
        type_ != CLIENT_ADDRESS_PRESERVED
            && finding.holds != Holds::True
            && finding.reason != ConditionReason::ServedInPods
    };
    conditions.iter().find(|(type_, finding)| counts(type_, finding)).map(|(type_, finding)| (*type_, finding))
}

/// The conditions that summarise all others.
pub fn summarised(conditions: &[(&'static str, Finding)]) -> Vec<(&'static str, Finding)> {
    let Some((type_, fault)) = first_fault(conditions) else {
        let in_pods = conditions.iter().any(|(_, finding)| finding.reason == ConditionReason::ServedInPods);
        let ready = match in_pods {
            true => {
                Finding::yes(ConditionReason::ServedInPods, "the declaration is valid; the pods with sidecars serve it")
            }
            false => Finding::yes(ConditionReason::Ready, "connections are served as declared"),
        };
        return vec![(READY, ready)];
    };
    let message = format!("{type_}: {}", fault.message);
    let mut summarised = vec![(READY, Finding { message: message.clone(), ..fault.clone() })];
    if type_ == ACCEPTED && matches!(fault.reason, ConditionReason::Invalid | ConditionReason::NotPermitted) {
        summarised.push((STALLED, Finding::yes(fault.reason, message)));
    } else if fault.reason.is_waiting() {
        summarised.push((RECONCILING, Finding::yes(fault.reason, message)));
    }
    summarised
}
