//! The open connections of a worker, and the order in which they are closed.

use std::{cell::RefCell, cmp::Reverse, collections::BTreeMap, ops::Range, rc::Rc};

use slab::Slab;
use tokio::{task::AbortHandle, time::Instant};

use crate::proxy::{accounting::CloseReason, connection::record::Session};

/// The endpoint or listener that connections belong to, by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DrainTarget {
    Endpoint(u64),
    Listener(u64),
}

/// The connections to close, by target.
pub type CloseRequests = BTreeMap<DrainTarget, CloseRequest>;

#[derive(Clone, Copy, Debug)]
pub struct CloseRequest {
    /// The maximum number of connections.
    pub count: usize,
    pub reason: CloseReason,
    pub criteria: CloseCriteria,
}

/// The criteria for the connections that may be closed, and their order.
#[derive(Clone, Copy, Debug, Default)]
pub struct CloseCriteria {
    pub order: CloseOrder,
    /// Only those accepted before; `None`: all.
    pub accepted_before: Option<Instant>,
    /// Only those without a byte since then; `None`: all.
    pub silent_since: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CloseOrder {
    /// The least recently active connections first.
    #[default]
    LeastRecentlyActive,
    Oldest,
}

/// The number of connections that a drain closes now, and the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseQuota {
    pub count: usize,
    pub reason: CloseReason,
}

impl CloseCriteria {
    fn matches(&self, session: &Session) -> bool {
        self.accepted_before.is_none_or(|before| session.accepted_at < before)
            && self.silent_since.is_none_or(|since| session.last_activity() <= since)
    }

    /// Connections with an earlier rank are closed first.
    fn rank(&self, session: &Session) -> Instant {
        match self.order {
            CloseOrder::LeastRecentlyActive => session.last_activity(),
            CloseOrder::Oldest => session.accepted_at,
        }
    }
}

/// The open connections of a worker.
#[derive(Debug, Default)]
pub struct Sessions(RefCell<Slab<SessionEntry>>);

#[derive(Debug)]
struct SessionEntry {
    session: Rc<Session>,
    task: AbortHandle,
}

impl SessionEntry {
    fn close(&self, reason: CloseReason) {
        self.session.cancel(reason);
        self.task.abort();
    }
}

impl Sessions {
    /// Adds a connection. `start` gets its place and spawns its task.
    pub fn add(&self, session: Rc<Session>, start: impl FnOnce(usize) -> AbortHandle) {
        let mut sessions = self.0.borrow_mut();
        let place = sessions.vacant_entry();
        let task = start(place.key());
        place.insert(SessionEntry { session, task });
    }

    pub fn remove(&self, place: usize) {
        self.0.borrow_mut().remove(place);
    }

    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// Visits the connections that are not being closed already.
    pub fn for_each(&self, mut seen: impl FnMut(&Session)) {
        let sessions = self.0.borrow();
        let open = sessions.iter().map(|(_, entry)| entry).filter(|entry| !entry.session.is_cancelled());
        open.for_each(|entry| seen(&entry.session));
    }

    /// Visits the connections at some places, also those that are being closed. Returns false at the end of all places.
    pub fn visit(&self, places: Range<usize>, mut seen: impl FnMut(&Session)) -> bool {
        let sessions = self.0.borrow();
        let end = places.end;
        places.filter_map(|place| sessions.get(place)).for_each(|entry| seen(&entry.session));
        end < sessions.capacity()
    }

    pub fn close_all(&self, reason: CloseReason) {
        let sessions = self.0.borrow();
        let open = sessions.iter().map(|(_, entry)| entry).filter(|entry| !entry.session.is_cancelled());
        open.for_each(|entry| entry.close(reason));
    }

    /// Closes the quota of each drain, the least recently active connections first. `of` maps a connection to its
    /// drain.
    pub fn close_first(&self, quotas: &[CloseQuota], of: impl Fn(&Session) -> usize) {
        if quotas.iter().all(|quota| quota.count == 0) {
            return;
        }
        let sessions = self.0.borrow();
        let mut open: Vec<Vec<&SessionEntry>> = quotas.iter().map(|_| Vec::new()).collect();
        for (_, entry) in sessions.iter().filter(|(_, entry)| !entry.session.is_cancelled()) {
            let place = of(&entry.session);
            if quotas[place].count > 0 {
                open[place].push(entry);
            }
        }
        for (mut open, quota) in open.into_iter().zip(quotas) {
            open.sort_by_key(|entry| entry.session.last_activity());
            open.iter().take(quota.count).for_each(|entry| entry.close(quota.reason));
        }
    }

    /// The number of established connections of each endpoint, by its id.
    pub fn established(&self) -> BTreeMap<u64, u32> {
        let mut counts = BTreeMap::new();
        self.for_each(|session| *counts.entry(session.endpoint()).or_insert(0) += 1);
        counts
    }

    /// The ranks of the connections of this worker that would be closed first, in order.
    pub fn first_to_close(&self, requests: &CloseRequests) -> BTreeMap<DrainTarget, Vec<Instant>> {
        let sessions = self.0.borrow();
        let ranks = |chosen: Vec<(Instant, usize)>| chosen.into_iter().map(|(rank, _)| rank).collect();
        chosen(&sessions, requests).into_iter().map(|(target, chosen)| (target, ranks(chosen))).collect()
    }

    /// Closes the requested connections, and returns their number by target.
    pub fn close(&self, requests: &CloseRequests) -> BTreeMap<DrainTarget, usize> {
        let sessions = self.0.borrow();
        let close = |(target, places): (DrainTarget, Vec<(Instant, usize)>)| {
            let entries = places.iter().map(|(_, place)| &sessions[*place]);
            // A connection may belong to two targets.
            let open: Vec<_> = entries.filter(|entry| !entry.session.is_cancelled()).collect();
            open.iter().for_each(|entry| entry.close(requests[&target].reason));
            (target, open.len())
        };
        chosen(&sessions, requests).into_iter().map(close).collect()
    }
}

/// The places of the connections to close first, with their ranks, in order.
fn chosen(sessions: &Slab<SessionEntry>, requests: &CloseRequests) -> BTreeMap<DrainTarget, Vec<(Instant, usize)>> {
    let mut chosen: BTreeMap<DrainTarget, Vec<_>> = BTreeMap::new();
    for (place, entry) in sessions.iter().filter(|(_, entry)| !entry.session.is_cancelled()) {
        let session = &entry.session;
        for target in [DrainTarget::Endpoint(session.endpoint()), DrainTarget::Listener(session.listener)] {
            if let Some(request) = requests.get(&target).filter(|request| request.criteria.matches(session)) {
                chosen.entry(target).or_default().push((request.criteria.rank(session), place));
            }
        }
    }
    for (target, places) in &mut chosen {
        places.sort_unstable();
        places.truncate(requests[target].count);
    }
    chosen
}

/// Divides the requests among the workers, so that all together close the connections with the earliest ranks: `ranks`
/// has those of each worker, in order.
pub fn divide_requests(requests: &CloseRequests, ranks: &[BTreeMap<DrainTarget, Vec<Instant>>]) -> Vec<CloseRequests> {
    let mut shares = vec![CloseRequests::new(); ranks.len()];
    for (target, request) in requests {
        let of_worker = |(worker, ranks): (usize, &BTreeMap<DrainTarget, Vec<Instant>>)| {
            let ranks = ranks.get(target).cloned().unwrap_or_default();
            ranks.into_iter().map(move |rank| (rank, worker)).collect::<Vec<_>>()
        };
        let mut all: Vec<_> = ranks.iter().enumerate().flat_map(of_worker).collect();
        all.sort_by_key(|(rank, worker)| (*rank, Reverse(*worker)));
        for (_, worker) in all.into_iter().take(request.count) {
            shares[worker].entry(*target).or_insert(CloseRequest { count: 0, ..*request }).count += 1;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn workers_together_close_the_least_recently_active_connections_first() {
        let (now, target) = (Instant::now(), DrainTarget::Endpoint(7));
        let ranks = |seconds: &[u64]| {
            let ranks = seconds.iter().map(|seconds| now + Duration::from_secs(*seconds)).collect();
            BTreeMap::from([(target, ranks)])
        };
        let workers = [ranks(&[1, 2, 9]), ranks(&[3, 4, 5]), BTreeMap::new()];
        for (count, expected) in [(0, [0, 0, 0]), (1, [1, 0, 0]), (3, [2, 1, 0]), (5, [2, 3, 0]), (9, [3, 3, 0])] {
            let request =
                CloseRequest { count, reason: CloseReason::EndpointRemoved, criteria: CloseCriteria::default() };
            let shares = divide_requests(&CloseRequests::from([(target, request)]), &workers);
            let counts: Vec<usize> =
                shares.iter().map(|share| share.values().map(|request| request.count).sum()).collect();
            assert_eq!(counts, expected, "{count} of all");
        }
    }
}
