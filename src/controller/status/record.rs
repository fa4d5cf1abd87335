//! The schedule for writing the status of one object. Pure.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    api::TcpLoadBalancerStatus,
    controller::{
        calls::failure::{ApiFailure, Failures},
        conditions::{ACCEPTED, BACKENDS_HEALTHY, is_summary, is_waiting, steady},
    },
    shared::SharedObject,
};

/// The minimum interval between writes of changes in counts only.
const COUNTS_REST: Duration = Duration::from_secs(5);
/// The delay before changed counts are reported: an endpoint that is replaced stays for a second, after which the counts
/// are often as before.
const COUNTS_DELAY: Duration = Duration::from_secs(2);
/// The minimum interval between writes of the progress of an object that waits, so that starting many load balancers
/// takes few writes of each.
const PROGRESS_REST: Duration = Duration::from_secs(10);
/// The delay before a condition that stops being true is reported: replicas and watches differ briefly while a change
/// reaches them, and a state that the controller is about to fix is not a fault.
const FAULT_DELAY: Duration = Duration::from_secs(1);

/// The writes of one status.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The status that was last written.
    written: Option<Arc<TcpLoadBalancerStatus>>,
    /// The status that was seen before the last write, until the written one is seen.
    seen: Option<Arc<TcpLoadBalancerStatus>>,
    /// True if the written status has been seen since.
    arrived: bool,
    /// True while a write is in progress: a status that is seen then may be from before or after it.
    under_way: bool,
    /// The number of changes by another writer, and the start of that count.
    overwritten: (u32, Option<Instant>),
    attempted: Option<Instant>,
    /// The time since which only counts have differed.
    recounted: Option<Instant>,
    /// The time since which the desired status has had a fault that is not reported yet.
    faulty: Option<Instant>,
    failures: Failures,
}

#[derive(Debug, PartialEq)]
pub enum Due {
    Never,
    At(Instant),
    Now(TcpLoadBalancerStatus),
}

/// Changes by another writer are counted within this time.
const CONTEST: Duration = Duration::from_secs(600);

/// The difference between the desired and the present status.
#[derive(Debug, PartialEq, Eq)]
enum StatusChange {
    None,
    Counts,
    /// The object still waits. Apart from counts, only addresses, ports and the messages of waiting conditions differ.
    Progress,
    /// Among other changes, a condition is new or was true, and is not true now.
    Worse,
    More,
}

impl Record {
    /// The present status, as known here: the last write may not have been seen yet.
    pub fn current<'a>(&'a self, desired: &'a DesiredStatus) -> Option<&'a Arc<TcpLoadBalancerStatus>> {
        match &self.written {
            Some(written) if !self.arrived && desired.there == self.seen => Some(written),
            // The write has been seen, or another writer has changed the status since.
            _ => desired.there.as_ref(),
        }
    }

    pub fn due(&mut self, desired: &DesiredStatus, now: Instant) -> Due {
        if self.written.is_some() && desired.there == self.written {
            self.arrived = true;
            // The same status does not take memory twice.
            self.written.clone_from(&desired.there);
            if !self.under_way {
                self.seen = None;
            }
        }
        if self.arrived && !self.under_way && desired.there != self.written {
            self.written = None;
            self.arrived = false;
            self.overwritten(now);
        }
        let current = self.current(desired).map(|current| &**current);
        let wanted = steady((**desired.status).clone(), current);
        let change = change(current, &wanted);
        if change != StatusChange::Worse {
            self.faulty = None;
        }
        if change != StatusChange::Counts {
            self.recounted = None;
        }
        let due = match change {
            StatusChange::None => return Due::Never,
            StatusChange::More => now,
            StatusChange::Counts => {
                let delayed = *self.recounted.get_or_insert(now) + COUNTS_DELAY;
                self.attempted.map_or(delayed, |attempted| delayed.max(attempted + COUNTS_REST))
            }
            StatusChange::Progress => self.attempted.map_or(now, |attempted| attempted + PROGRESS_REST),
            StatusChange::Worse => *self.faulty.get_or_insert(now) + FAULT_DELAY,
        };
        if due > now { Due::At(due) } else { Due::Now(wanted) }
    }

    pub fn attempted(&mut self, desired: &DesiredStatus, now: Instant) {
        self.attempted = Some(now);
        self.under_way = true;
        self.seen.clone_from(&desired.there);
    }

    pub fn wrote(&mut self, status: Arc<TcpLoadBalancerStatus>) {
        self.written = Some(status);
        self.arrived = false;
        self.under_way = false;
    }

    fn overwritten(&mut self, now: Instant) {
        let (count, since) = &mut self.overwritten;
        if since.is_none_or(|since| now > since + CONTEST) {
            (*count, *since) = (0, Some(now));
        }
        *count = count.saturating_add(1);
    }

    /// True if a conflict with another writer must be reported now.
    pub fn is_contested(&mut self) -> bool {
        // One or two changes may be manual edits.
        const ALWAYS: u32 = 3;
        let (count, _) = &mut self.overwritten;
        let is_due = *count == ALWAYS;
        *count = count.saturating_add(is_due.into());
        is_due
    }

    /// Records a failed write. Returns true if the failure must be reported.
    pub fn failed(&mut self, failure: &ApiFailure, now: Instant) -> bool {
        self.under_way = false;
        self.failures.failed(failure.clone(), now)
    }

    /// Records a successful write. Returns true if a failure was reported before.
    pub fn succeeded(&mut self) -> bool {
        self.failures.succeeded()
    }
}

fn change(there: Option<&TcpLoadBalancerStatus>, wanted: &TcpLoadBalancerStatus) -> StatusChange {
    match there {
        Some(there) if there == wanted => StatusChange::None,
        Some(there) if without_counts(there) == without_counts(wanted) => StatusChange::Counts,
        Some(there) if without_progress(there) == without_progress(wanted) => StatusChange::Progress,
        _ if becomes_worse(there, wanted) => StatusChange::Worse,
        _ => StatusChange::More,
    }
}

/// The status without counts; if the object waits, also without addresses, ports, and the messages of waiting
/// conditions.
fn without_progress(status: &TcpLoadBalancerStatus) -> TcpLoadBalancerStatus {
    let mut status = without_counts(status);
    if !status.conditions.iter().any(is_waiting) {
        return status;
    }
    status.addresses.clear();
    if let Some(summary) = &mut status.summary {
        (summary.ports, summary.address) = (None, None);
    }
    for listener in &mut status.listeners {
        (listener.bound_port, listener.node_port) = (None, None);
    }
    let of_listeners = status.listeners.iter_mut().flat_map(|listener| &mut listener.conditions);
    let conditions = status.conditions.iter_mut().chain(of_listeners);
    conditions.filter(|condition| is_waiting(condition)).for_each(|condition| condition.message.clear());
    status
}

fn without_counts(status: &TcpLoadBalancerStatus) -> TcpLoadBalancerStatus {
    let mut status = TcpLoadBalancerStatus { backends: Vec::new(), ..status.clone() };
    if let Some(summary) = &mut status.summary {
        summary.ready = None;
    }
    let has_counts = |type_: &str| type_ == BACKENDS_HEALTHY || is_summary(type_);
    for condition in status.conditions.iter_mut().filter(|condition| has_counts(&condition.type_)) {
        condition.message.clear();
    }
    status
}

/// True if there is a new fault that may resolve itself. A refused declaration does not, and is reported at once.
fn becomes_worse(there: Option<&TcpLoadBalancerStatus>, wanted: &TcpLoadBalancerStatus) -> bool {
    let before = there.map_or(&[][..], |there| &there.conditions);
    // Summaries only repeat other conditions.
    let faults =
        wanted.conditions.iter().filter(|condition| condition.status != "True" && !is_summary(&condition.type_));
    let mut new = faults.filter(|fault| {
        let before = before.iter().find(|before| before.type_ == fault.type_);
        before.is_none_or(|before| before.status == "True" || is_waiting(fault) && !is_waiting(before))
    });
    new.clone().next().is_some() && new.all(|fault| fault.type_ != ACCEPTED)
}

/// The desired status of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredStatus {
    pub uid: Arc<str>,
    pub status: SharedObject<TcpLoadBalancerStatus>,
    /// The status that was last seen.
    pub there: Option<Arc<TcpLoadBalancerStatus>>,
}
