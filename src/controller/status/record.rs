//! When the status of one object is to be written. Pure.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    api::TcpLoadBalancerStatus,
    controller::{
        conditions::{ACCEPTED, BACKENDS_HEALTHY, is_summary, is_waiting, steady},
        failure::{Failure, Failures},
    },
};

/// Numbers that change alone are written this seldom.
const COUNTS_REST: Duration = Duration::from_secs(5);
/// A condition that stops being true is reported after this time: replicas and watches differ for moments while a change
/// reaches them, and what the controller itself is about to reach is no fault.
const FAULT_DELAY: Duration = Duration::from_secs(1);

/// What was done about the status of one object.
#[derive(Debug)]
pub struct Record {
    uid: Arc<str>,
    /// What was last written, and what there was to be seen of the object then.
    written: Option<Arc<TcpLoadBalancerStatus>>,
    seen: Option<Arc<TcpLoadBalancerStatus>>,
    /// Whether what was written has been seen since.
    arrived: bool,
    /// Whether a write is under way: what is seen meanwhile may be of before or of after it.
    under_way: bool,
    /// How often somebody else has changed what was written, and since when that is counted.
    overwritten: (u32, Option<Instant>),
    attempted: Option<Instant>,
    /// Since when the wanted status has a fault that is not reported yet.
    faulty: Option<Instant>,
    failures: Failures,
}

#[derive(Debug, PartialEq)]
pub enum Due {
    Never,
    At(Instant),
    Now(TcpLoadBalancerStatus),
}

/// Within this time it counts how often somebody else changes a status.
const CONTEST: Duration = Duration::from_secs(600);

/// How what is wanted differs from what is there.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    None,
    Counts,
    /// Among others, a condition is not true that was, or that is new.
    Worse,
    More,
}

impl Record {
    pub fn new(uid: Arc<str>) -> Self {
        Self {
            uid,
            written: None,
            seen: None,
            arrived: false,
            under_way: false,
            overwritten: (0, None),
            attempted: None,
            faulty: None,
            failures: Failures::default(),
        }
    }

    pub fn uid(&self) -> &Arc<str> {
        &self.uid
    }

    /// What the status is, as far as is known: what was written last may not have been seen yet.
    pub fn current<'a>(&'a self, wish: &'a Wish) -> Option<&'a TcpLoadBalancerStatus> {
        match &self.written {
            Some(written) if !self.arrived && wish.there == self.seen => Some(written),
            // It is there, or somebody else has changed it since.
            _ => wish.there.as_deref(),
        }
    }

    pub fn due(&mut self, wish: &Wish, now: Instant) -> Due {
        self.arrived |= self.written.is_some() && wish.there == self.written;
        if self.arrived && !self.under_way && wish.there != self.written {
            self.written = None;
            self.arrived = false;
            self.overwritten(now);
        }
        let wanted = steady((*wish.status).clone(), self.current(wish));
        let change = change(self.current(wish), &wanted);
        if change != Change::Worse {
            self.faulty = None;
        }
        let due = match change {
            Change::None => return Due::Never,
            Change::More => now,
            Change::Counts => self.attempted.map_or(now, |attempted| attempted + COUNTS_REST),
            Change::Worse => *self.faulty.get_or_insert(now) + FAULT_DELAY,
        };
        if due > now { Due::At(due) } else { Due::Now(wanted) }
    }

    pub fn attempted(&mut self, wish: &Wish, now: Instant) {
        self.attempted = Some(now);
        self.under_way = true;
        self.seen.clone_from(&wish.there);
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

    /// Whether somebody else writes the status too, and it is to be told now.
    pub fn is_contested(&mut self) -> bool {
        // By hand it may be changed once or twice.
        const ALWAYS: u32 = 3;
        let (count, _) = &mut self.overwritten;
        let told = *count == ALWAYS;
        *count = count.saturating_add(told.into());
        told
    }

    /// Whether that is news.
    pub fn failed(&mut self, failure: &Failure, now: Instant) -> bool {
        self.under_way = false;
        self.failures.failed(failure.clone(), now)
    }

    /// Whether that is news.
    pub fn succeeded(&mut self) -> bool {
        self.failures.succeeded()
    }
}

fn change(there: Option<&TcpLoadBalancerStatus>, wanted: &TcpLoadBalancerStatus) -> Change {
    match there {
        Some(there) if there == wanted => Change::None,
        Some(there) if without_counts(there) == without_counts(wanted) => Change::Counts,
        _ if becomes_worse(there, wanted) => Change::Worse,
        _ => Change::More,
    }
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

/// True if a fault is new that may pass by itself. A declaration that is refused does not, and is reported at once.
fn becomes_worse(there: Option<&TcpLoadBalancerStatus>, wanted: &TcpLoadBalancerStatus) -> bool {
    let before = there.map_or(&[][..], |there| &there.conditions);
    // A summary is as bad as what it sums up.
    let faults =
        wanted.conditions.iter().filter(|condition| condition.status != "True" && !is_summary(&condition.type_));
    let mut new = faults.filter(|fault| {
        let before = before.iter().find(|before| before.type_ == fault.type_);
        before.is_none_or(|before| before.status == "True" || is_waiting(fault) && !is_waiting(before))
    });
    new.clone().next().is_some() && new.all(|fault| fault.type_ != ACCEPTED)
}

/// What the status of an object is to be.
#[derive(Clone, Debug)]
pub struct Wish {
    pub uid: Arc<str>,
    pub status: Arc<TcpLoadBalancerStatus>,
    /// What it was when it was last seen.
    pub there: Option<Arc<TcpLoadBalancerStatus>>,
}
