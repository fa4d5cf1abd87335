use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::model::UpstreamKey;

/// The number of remembered changes.
const MAX_CHANGES: usize = 1024;

/// The latest changes of the usable or draining endpoints of upstreams, so that a change costs nothing for the others.
#[derive(Debug, Default)]
pub struct ChangeLog {
    /// The number of changes so far.
    count: watch::Sender<u64>,
    latest: Mutex<VecDeque<UpstreamKey>>,
}

impl ChangeLog {
    /// Records a change, which must be visible already.
    pub fn note(&self, upstream: &UpstreamKey) {
        let mut latest = self.latest();
        if latest.len() == MAX_CHANGES {
            latest.pop_front();
        }
        latest.push_back(upstream.clone());
        self.count.send_modify(|count| *count += 1);
    }

    /// The number of changes so far, and the upstreams that have changed since there were `seen` changes. `None`: these
    /// are no longer remembered.
    pub fn since(&self, seen: u64) -> (u64, Option<BTreeSet<UpstreamKey>>) {
        let latest = self.latest();
        let count = *self.count.borrow();
        let missed = usize::try_from(count.saturating_sub(seen)).unwrap_or(usize::MAX);
        let changed = latest.len().checked_sub(missed).map(|first| latest.range(first..).cloned().collect());
        (count, changed)
    }

    /// The number of changes so far.
    pub fn total(&self) -> u64 {
        *self.count.borrow()
    }

    /// The number of changes, as it changes.
    pub fn count(&self) -> watch::Receiver<u64> {
        self.count.subscribe()
    }

    fn latest(&self) -> MutexGuard<'_, VecDeque<UpstreamKey>> {
        // Each step leaves the state consistent.
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectKey;

    #[test]
    fn the_changes_since_a_count_are_known_up_to_a_limit() {
        let upstream = |number: usize| UpstreamKey { object: ObjectKey::new("shop", &number.to_string()) };
        let log = ChangeLog::default();
        assert_eq!(log.since(0), (0, Some(BTreeSet::new())));
        for number in [1, 2, 1] {
            log.note(&upstream(number));
        }
        assert_eq!(log.since(0), (3, Some([upstream(1), upstream(2)].into())));
        assert_eq!(log.since(2), (3, Some([upstream(1)].into())));
        assert_eq!(log.since(3), (3, Some(BTreeSet::new())));
        for number in 0..MAX_CHANGES {
            log.note(&upstream(number));
        }
        let (count, changed) = log.since(3);
        assert_eq!((count, changed.map(|changed| changed.len())), (3 + MAX_CHANGES as u64, Some(MAX_CHANGES)));
        assert_eq!(log.since(2).1, None, "one of them is forgotten");
    }
}
