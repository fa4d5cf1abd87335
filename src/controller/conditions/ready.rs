//! `Ready` and the two conditions that kstatus reads before it: `Reconciling` and `Stalled`, each present only while it
//! is true. Helm, Flux and Argo CD wait by these.

use super::{ACCEPTED, CLIENT_ADDRESS_PRESERVED, ConditionReason, Finding, Holds};

pub const READY: &str = "Ready";
pub const RECONCILING: &str = "Reconciling";
pub const STALLED: &str = "Stalled";

/// The first of the conditions that is not as it should be.
pub fn first_fault<'a>(conditions: &'a [(&'static str, Finding)]) -> Option<(&'static str, &'a Finding)> {
    // `ClientAddressPreserved` describes a choice, and pods with sidecars have a readiness of their own.
    let counts = |type_: &str, finding: &Finding| {
        type_ != CLIENT_ADDRESS_PRESERVED
            && finding.holds != Holds::True
            && finding.reason != ConditionReason::ServedInPods
    };
    conditions.iter().find(|(type_, finding)| counts(type_, finding)).map(|(type_, finding)| (*type_, finding))
}

/// The conditions that sum up all others.
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

/// True if a condition only repeats what another one says.
pub fn is_summary(type_: &str) -> bool {
    [READY, RECONCILING, STALLED].contains(&type_)
}
