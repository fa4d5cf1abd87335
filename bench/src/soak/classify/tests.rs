use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use super::*;
use crate::soak::{
    balancer::{LoadBalancer, VARIANTS},
    record::ClientKind,
    timeline::Incarnation,
};

const BACKEND: Incarnation = Incarnation { backend: 3, number: 1 };

/// A connection that has ended as given, and its line of the access log with this reason.
fn ended(timeline: &Arc<Timeline>, end: ClientEnd, reason: &str) -> (ClientRecord, LogEntry) {
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let balancer = Arc::new(LoadBalancer::new("a", VARIANTS[0], address, Path::new("."), timeline.clone()));
    let mut record = ClientRecord::begin(balancer, ClientKind::Long, address);
    (record.backend, record.end) = (Some(BACKEND), end);
    (record.sent, record.received) = (5, 17);
    let entry = LogEntry {
        listener: "default/a-plain-0:1".into(),
        peer: address,
        endpoint: Some(backends::address(BACKEND.backend)),
        reason: reason.into(),
        bytes_to_backend: 5,
        bytes_to_client: 17,
    };
    (record, entry)
}

fn failed() -> ClientEnd {
    ClientEnd::Failed("idle: reset".into())
}

#[test]
fn a_complete_connection_has_the_logged_bytes_and_backend() {
    let timeline = Arc::new(Timeline::new());
    let (record, entry) = ended(&timeline, ClientEnd::Complete, "complete");
    assert_eq!(classify(&record, Some(&entry), &timeline), Ok(EndClass::Complete));
    let more = LogEntry { bytes_to_client: 18, ..entry.clone() };
    assert!(classify(&record, Some(&more), &timeline).is_err());
    let other = LogEntry { endpoint: Some(backends::address(4)), ..entry.clone() };
    assert!(classify(&record, Some(&other), &timeline).is_err());
    let reset = LogEntry { reason: "backend_reset".into(), ..entry };
    assert!(classify(&record, Some(&reset), &timeline).is_err());
    assert!(classify(&record, None, &timeline).is_err());
}

#[test]
fn only_the_kill_of_its_own_backend_excuses_a_lost_connection() {
    let timeline = Arc::new(Timeline::new());
    let (mut record, entry) = ended(&timeline, failed(), "backend_reset");
    timeline.begin_kill(Incarnation { number: 0, ..BACKEND });
    timeline.begin_kill(Incarnation { backend: 4, ..BACKEND });
    record.ended = Instant::now();
    assert!(classify(&record, Some(&entry), &timeline).is_err());
    timeline.begin_kill(BACKEND);
    assert!(classify(&record, Some(&entry), &timeline).is_err(), "it had ended before");
    record.ended = Instant::now();
    assert_eq!(classify(&record, Some(&entry), &timeline), Ok(EndClass::BackendKilled));
}

#[test]
fn no_kill_excuses_corrupt_data() {
    let timeline = Arc::new(Timeline::new());
    let (mut record, entry) = ended(&timeline, ClientEnd::Corrupt("byte 0 differs".into()), "complete");
    timeline.begin_kill(BACKEND);
    record.ended = Instant::now();
    assert!(classify(&record, Some(&entry), &timeline).is_err());
}

#[test]
fn an_absent_listener_excuses_only_connections_that_were_not_accepted() {
    let timeline = Arc::new(Timeline::new());
    let (record, entry) = ended(&timeline, failed(), "complete");
    let mut refused = ClientRecord { backend: None, end: ClientEnd::Refused, ..record.clone() };
    assert!(classify(&refused, None, &timeline).is_err());
    timeline.remove_balancer("a-plain-0");
    refused.ended = Instant::now();
    assert_eq!(classify(&refused, None, &timeline), Ok(EndClass::Refused));
    refused.end = failed();
    assert_eq!(classify(&refused, None, &timeline), Ok(EndClass::NotAccepted));
    assert!(classify(&refused, Some(&entry), &timeline).is_err());
    assert!(classify(&ClientRecord { ended: refused.ended, ..record }, None, &timeline).is_err());
}

#[test]
fn a_removed_endpoint_may_be_used_for_a_while() {
    let timeline = Arc::new(Timeline::new());
    let (mut record, entry) = ended(&timeline, ClientEnd::Complete, "complete");
    timeline.remove_endpoint("a-plain-0", BACKEND.backend);
    assert!(classify(&record, Some(&entry), &timeline).is_ok());
    record.opened = Instant::now() + EDIT_GRACE + Duration::from_secs(1);
    assert!(classify(&record, Some(&entry), &timeline).is_err());
    timeline.add_endpoint("a-plain-0", BACKEND.backend);
    assert!(classify(&record, Some(&entry), &timeline).is_ok());
}
