//! When the status of one object is to be written. Pure.

use std::{sync::Arc, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tokio::time::Instant;

use super::{
    super::conditions::{BACKENDS_HEALTHY, PENDING, steady},
    Wish,
};
use crate::api::TcpLoadBalancerStatus;

/// Numbers that change alone are written this seldom.
const COUNTS_REST: Duration = Duration::from_secs(5);
/// What is expected to come about without anybody's doing is given this long before it is told.
const PENDING_RESTS: Duration = Duration::from_secs(1);

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
    /// Since when something is wanted that is only expected to come about.
    pending: Option<Instant>,
    problem: Option<String>,
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
    Pending,
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
            pending: None,
            problem: None,
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
        if change != Change::Pending {
            self.pending = None;
        }
        let due = match change {
            Change::None => return Due::Never,
            Change::More => now,
            Change::Counts => self.attempted.map_or(now, |attempted| attempted + COUNTS_REST),
            Change::Pending => *self.pending.get_or_insert(now) + PENDING_RESTS,
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
    pub fn failed(&mut self, problem: &str) -> bool {
        self.under_way = false;
        self.problem.replace(problem.to_owned()).is_none_or(|before| before != problem)
    }

    /// Whether that is news.
    pub fn succeeded(&mut self) -> bool {
        self.problem.take().is_some()
    }
}

fn change(there: Option<&TcpLoadBalancerStatus>, wanted: &TcpLoadBalancerStatus) -> Change {
    match there {
        Some(there) if there == wanted => Change::None,
        Some(there) if without_counts(there) == without_counts(wanted) => Change::Counts,
        _ if becomes_pending(there, wanted) => Change::Pending,
        _ => Change::More,
    }
}

fn without_counts(status: &TcpLoadBalancerStatus) -> TcpLoadBalancerStatus {
    let mut status = TcpLoadBalancerStatus { backends: Vec::new(), ..status.clone() };
    if let Some(summary) = &mut status.summary {
        summary.ready = None;
    }
    for condition in status.conditions.iter_mut().filter(|condition| condition.type_ == BACKENDS_HEALTHY) {
        condition.message.clear();
    }
    status
}

/// Whether the news is, among others, that something is waited for.
fn becomes_pending(there: Option<&TcpLoadBalancerStatus>, wanted: &TcpLoadBalancerStatus) -> bool {
    let conditions = there.map_or(&[][..], |there| &there.conditions);
    let news = |condition: &&Condition| {
        conditions.iter().all(|before| before.type_ != condition.type_ || before.reason != PENDING)
    };
    wanted.conditions.iter().filter(|condition| condition.reason == PENDING).any(|condition| news(&condition))
}
