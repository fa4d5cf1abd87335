use super::*;
use crate::api::condition;

fn conditions(all: &[(&str, &str, &str)]) -> Vec<Condition> {
    all.iter().map(|(type_, status, reason)| condition(type_, status, reason, "why")).collect()
}

fn events(before: &[(&str, &str, &str)], now: &[(&str, &str, &str)]) -> Vec<String> {
    let events = transitions(&conditions(before), &conditions(now));
    events.iter().map(|event| format!("{:?} {} {}", event.type_, event.action, event.reason)).collect()
}

#[test]
fn only_transitions_are_published() {
    const GOOD: (&str, &str, &str) = ("Programmed", "True", "Programmed");
    const WAITING: (&str, &str, &str) = ("Programmed", "False", "Pending");
    const PARTIAL: (&str, &str, &str) = ("Programmed", "False", "PartiallyBound");
    const UNAVAILABLE: (&str, &str, &str) = ("Programmed", "False", "PortUnavailable");
    const ACCEPTED: (&str, &str, &str) = ("Accepted", "True", "Accepted");
    const INVALID: (&str, &str, &str) = ("Accepted", "False", "Invalid");
    let nothing: [&str; 0] = [];
    assert_eq!(events(&[], &[ACCEPTED, GOOD]), ["Normal Programmed Programmed"]);
    assert_eq!(events(&[], &[INVALID, WAITING]), ["Warning Accepted Invalid"]);
    assert_eq!(events(&[ACCEPTED, GOOD], &[ACCEPTED, GOOD]), nothing);
    assert_eq!(events(&[GOOD], &[WAITING]), nothing);
    assert_eq!(events(&[WAITING], &[GOOD]), ["Normal Programmed Programmed"]);
    assert_eq!(events(&[GOOD], &[PARTIAL]), ["Warning Programmed PartiallyBound"]);
    assert_eq!(events(&[PARTIAL], &[UNAVAILABLE]), ["Warning Programmed PortUnavailable"]);
    assert_eq!(events(&[PARTIAL], &[PARTIAL]), nothing);
    assert_eq!(events(&[INVALID, GOOD], &[ACCEPTED, GOOD]), ["Normal Accepted Accepted"]);
    assert_eq!(events(&[], &[("Programmed", "Unknown", "ServedInPods")]), nothing);
    assert_eq!(events(&[GOOD], &[("Programmed", "False", "ServiceTerminating")]), nothing);
    let seen = |status, reason| [("ClientAddressPreserved", status, reason)];
    assert_eq!(events(&[], &seen("False", "ClusterTrafficPolicy")), nothing, "a choice, and no fault");
    let changed = events(&seen("True", "LocalTrafficPolicy"), &seen("False", "ClusterTrafficPolicy"));
    assert_eq!(changed, ["Normal ClientAddressPreserved ClusterTrafficPolicy"]);
    let summaries = [("Ready", "False", "Invalid"), ("Stalled", "True", "Invalid"), ("Reconciling", "True", "Pending")];
    assert_eq!(events(&[], &summaries), nothing, "they repeat what other conditions say");
}

#[test]
fn notes_are_as_long_as_the_api_server_takes_them() {
    let long = condition("Accepted", "False", "Invalid", &"ä".repeat(2000));
    assert!(event(&long).note.unwrap().len() <= MAX_NOTE);
}
