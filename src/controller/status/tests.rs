use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;
use crate::api::{BackendStatus, ListenerStatus, Summary, condition};

fn status(healthy: u32) -> TcpLoadBalancerStatus {
    let ready = format!("{healthy}/5");
    TcpLoadBalancerStatus {
        observed_generation: Some(1),
        summary: Some(Summary { ready: Some(ready.clone()), status: Some("Programmed".into()), ..Summary::default() }),
        backends: vec![BackendStatus { name: "db".into(), endpoints: 5, healthy, ..BackendStatus::default() }],
        conditions: vec![
            condition("Programmed", "True", "Programmed", ""),
            condition("BackendsHealthy", "True", "Healthy", &ready),
        ],
        ..TcpLoadBalancerStatus::default()
    }
}

fn programmed(status: &str, reason: &str) -> TcpLoadBalancerStatus {
    TcpLoadBalancerStatus { conditions: vec![condition("Programmed", status, reason, "")], ..self::status(5) }
}

fn refused(reason: &str) -> TcpLoadBalancerStatus {
    TcpLoadBalancerStatus { conditions: vec![condition("Accepted", "False", reason, "")], ..status(5) }
}

fn desired(status: &TcpLoadBalancerStatus, there: Option<&TcpLoadBalancerStatus>) -> DesiredStatus {
    DesiredStatus { uid: "uid".into(), status: status.clone().into(), there: there.cloned().map(Arc::new) }
}

/// Determines when to write, and records a write that is due.
fn write(record: &mut Record, desired: &DesiredStatus, now: Instant) -> Due {
    let due = record.due(desired, now);
    if let Due::Now(status) = &due {
        record.attempted(desired, now);
        record.wrote(Arc::new(status.clone()));
    }
    due
}

#[test]
fn an_equal_status_is_not_written() {
    let (five, now) = (status(5), Instant::now());
    let mut record = Record::default();
    assert_eq!(write(&mut record, &desired(&five, Some(&five)), now), Due::Never);
    let mut later = five.clone();
    later.conditions[0].last_transition_time = Time(Timestamp::from_second(9).unwrap());
    assert_eq!(write(&mut record, &desired(&later, Some(&five)), now), Due::Never, "its status is the same");
}

#[test]
fn a_condition_keeps_the_time_of_a_written_status_that_is_not_seen_yet() {
    let at = |second, message| {
        let mut status = refused("Invalid");
        status.conditions[0].last_transition_time = Time(Timestamp::from_second(second).unwrap());
        status.conditions[0].message = String::from(message);
        status
    };
    let (old, now) = (status(5), Instant::now());
    let mut record = Record::default();
    assert_eq!(write(&mut record, &desired(&at(1, "a"), Some(&old)), now), Due::Now(at(1, "a")));
    assert_eq!(write(&mut record, &desired(&at(2, "a"), Some(&old)), now), Due::Never);
    assert_eq!(write(&mut record, &desired(&at(2, "b"), Some(&old)), now), Due::Now(at(1, "b")));
}

#[test]
fn a_written_status_is_not_written_again_before_it_is_seen() {
    let (old, new, now) = (status(5), refused("Invalid"), Instant::now());
    let mut record = Record::default();
    assert_eq!(write(&mut record, &desired(&new, Some(&old)), now), Due::Now(new.clone()));
    assert_eq!(write(&mut record, &desired(&new, Some(&old)), now), Due::Never, "not seen yet");
    assert_eq!(write(&mut record, &desired(&new, Some(&new)), now), Due::Never, "seen");
    let by_hand = refused("ByHand");
    assert_eq!(
        write(&mut record, &desired(&new, Some(&by_hand)), now),
        Due::Now(new.clone()),
        "somebody else changed it"
    );
    assert_eq!(write(&mut record, &desired(&new, Some(&new)), now), Due::Never);
    assert_eq!(write(&mut record, &desired(&new, Some(&old)), now), Due::Now(new.clone()), "somebody else put it back");
    // The status as an older schema prunes it.
    let pruned = TcpLoadBalancerStatus { backends: Vec::new(), ..new.clone() };
    let mut record = Record::default();
    assert_eq!(write(&mut record, &desired(&new, None), now), Due::Now(new.clone()));
    let later = now + Duration::from_secs(60);
    let delayed = later + Duration::from_secs(2);
    assert_eq!(write(&mut record, &desired(&new, Some(&pruned)), later), Due::At(delayed));
    assert_eq!(write(&mut record, &desired(&new, Some(&pruned)), delayed), Due::Now(new.clone()));
    assert_eq!(write(&mut record, &desired(&new, Some(&pruned)), delayed), Due::Never, "not for ever");
}

#[test]
fn a_written_status_that_is_seen_takes_no_memory() {
    let (there, now) = (Arc::new(status(5)), Instant::now());
    let mut record = Record::default();
    assert_eq!(write(&mut record, &desired(&status(5), None), now), Due::Now(status(5)));
    let seen = DesiredStatus { there: Some(there.clone()), ..desired(&status(5), None) };
    assert_eq!(record.due(&seen, now), Due::Never);
    drop(seen);
    assert_eq!(Arc::strong_count(&there), 2, "the record shares it");
}

#[test]
fn numbers_alone_are_written_every_five_seconds() {
    let now = Instant::now();
    let after = |seconds| now + Duration::from_secs(seconds);
    let mut record = Record::default();
    assert_eq!(write(&mut record, &desired(&status(4), Some(&status(5))), now), Due::At(after(2)));
    assert_eq!(write(&mut record, &desired(&status(4), Some(&status(5))), after(2)), Due::Now(status(4)));
    assert_eq!(write(&mut record, &desired(&status(3), Some(&status(4))), after(3)), Due::At(after(7)));
    let refused = condition("Accepted", "False", "Invalid", "");
    let wrong = TcpLoadBalancerStatus { conditions: vec![refused], ..status(3) };
    assert_eq!(
        write(&mut record, &desired(&wrong, Some(&status(4))), after(4)),
        Due::Now(wrong.clone()),
        "more than numbers"
    );
    assert_eq!(write(&mut record, &desired(&wrong, Some(&wrong)), after(5)), Due::Never);
}

#[test]
fn numbers_that_are_soon_as_before_are_not_written() {
    let now = Instant::now();
    let after = |milliseconds| now + Duration::from_millis(milliseconds);
    let mut record = Record::default();
    assert_eq!(write(&mut record, &desired(&status(6), Some(&status(5))), now), Due::At(after(2000)));
    assert_eq!(write(&mut record, &desired(&status(5), Some(&status(5))), after(1100)), Due::Never);
    assert_eq!(write(&mut record, &desired(&status(6), Some(&status(5))), after(1500)), Due::At(after(3500)));
    assert_eq!(write(&mut record, &desired(&status(4), Some(&status(5))), after(3500)), Due::Now(status(4)));
}

#[test]
fn the_progress_of_an_object_that_waits_is_written_every_ten_seconds() {
    let now = Instant::now();
    let after = |seconds| now + Duration::from_secs(seconds);
    let waiting = |message: &str, bound_port| {
        let conditions = vec![condition("Programmed", "False", "Pending", message)];
        let listener =
            ListenerStatus { port: 1, name: None, bound_port, node_port: None, conditions: conditions.clone() };
        TcpLoadBalancerStatus { listeners: vec![listener], conditions, ..status(5) }
    };
    let (first, second) = (waiting("no port", None), waiting("no Service", Some(20000)));
    let mut record = Record::default();
    assert_eq!(write(&mut record, &desired(&first, None), now), Due::At(after(1)));
    assert_eq!(write(&mut record, &desired(&first, None), after(1)), Due::Now(first.clone()));
    assert_eq!(write(&mut record, &desired(&second, Some(&first)), after(2)), Due::At(after(11)));
    let good = programmed("True", "Programmed");
    assert_eq!(write(&mut record.clone(), &desired(&good, Some(&first)), after(3)), Due::Now(good), "it has come");
    assert_eq!(write(&mut record, &desired(&second, Some(&first)), after(11)), Due::Now(second));
}

#[test]
fn a_fault_that_may_pass_by_itself_is_reported_after_a_second() {
    let now = Instant::now();
    let after = |milliseconds| now + Duration::from_millis(milliseconds);
    let (good, pending) = (programmed("True", "Programmed"), programmed("False", "Pending"));
    let mut record = Record::default();
    assert_eq!(write(&mut record, &desired(&pending, Some(&good)), now), Due::At(after(1000)));
    assert_eq!(write(&mut record, &desired(&good, Some(&good)), after(300)), Due::Never, "it came about");
    assert_eq!(write(&mut record, &desired(&pending, Some(&good)), after(600)), Due::At(after(1600)));
    assert_eq!(write(&mut record, &desired(&pending, Some(&good)), after(1600)), Due::Now(pending.clone()));
    assert_eq!(write(&mut record, &desired(&good, Some(&pending)), after(1700)), Due::Now(good.clone()));
    assert_eq!(Record::default().due(&desired(&pending, None), now), Due::At(after(1000)), "a new object");
    let partial = programmed("False", "PartiallyBound");
    let (mut record, mut other) = (Record::default(), Record::default());
    assert_eq!(write(&mut record, &desired(&partial, Some(&good)), now), Due::At(after(1000)));
    assert_eq!(write(&mut record, &desired(&partial, Some(&good)), after(1000)), Due::Now(partial.clone()));
    assert_eq!(write(&mut other, &desired(&partial, Some(&pending)), now), Due::Now(partial), "it was a fault before");
    assert_eq!(Record::default().due(&desired(&refused("Invalid"), None), now), Due::Now(refused("Invalid")));
}

#[test]
fn another_writer_of_a_status_is_reported_once() {
    let (ours, theirs) = (programmed("True", "Programmed"), programmed("False", "Theirs"));
    let contested = |pause: Duration| {
        let (mut record, mut now) = (Record::default(), Instant::now());
        write(&mut record, &desired(&ours, None), now);
        let mut change = |_| {
            now += pause;
            write(&mut record, &desired(&ours, Some(&ours)), now);
            assert_eq!(write(&mut record, &desired(&ours, Some(&theirs)), now), Due::Now(ours.clone()));
            record.is_contested()
        };
        (0..6).map(&mut change).collect::<Vec<_>>()
    };
    assert_eq!(contested(Duration::from_secs(1)), [false, false, true, false, false, false]);
    assert_eq!(contested(Duration::from_mins(11)), [false; 6], "by hand, now and then");
}

#[test]
fn a_status_seen_before_the_answer_of_its_write_is_no_conflict() {
    let now = Instant::now();
    let mut record = Record::default();
    write(&mut record, &desired(&programmed("True", "0"), None), now);
    for turn in 1..20 {
        let [before, after] = [turn - 1, turn].map(|turn| programmed("True", &turn.to_string()));
        record.due(&desired(&after, Some(&before)), now);
        record.attempted(&desired(&after, Some(&before)), now);
        record.due(&desired(&after, Some(&after)), now);
        record.wrote(Arc::new(after.clone()));
        record.due(&desired(&after, Some(&after)), now);
        assert!(!record.is_contested(), "{turn}");
    }
}

#[test]
fn only_new_failures_are_reported() {
    let mut record = Record::default();
    assert!(!record.succeeded());
    let now = Instant::now();
    assert!(record.failed(&"out of order".into(), now));
    assert!(!record.failed(&"out of order".into(), now));
    assert!(record.failed(&"no answer".into(), now));
    assert!(record.succeeded());
}
