//! One watch, which is restarted until it is dropped.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{FutureExt, StreamExt};
use kube::{
    Api, Client,
    runtime::watcher::{self, Event, watcher},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::{
    kinds::{ChangeScope, WatchedObject},
    received_object::ReceivedObject,
    selector::{Interest, Selector},
    store::Store,
    watch_error::{Outage, Pauses, REFUSAL_DELAY, Unreachable, WatchError},
};
use crate::instruments::{Instruments, RunningWatch, WatchFailure};

/// The state that all watches share.
#[derive(Clone)]
pub struct Common {
    pub client: Client,
    pub interest: Arc<RwLock<Interest>>,
    pub changed: Arc<watch::Sender<()>>,
    /// Signals changes of statuses only.
    pub statuses_changed: Arc<watch::Sender<()>>,
    pub outage: Arc<Outage>,
    /// Incremented when a watch has read everything, works again, or fails.
    pub outcomes: Arc<AtomicU64>,
    /// True if a leader writes the statuses of the load balancers. They show references that cannot be read.
    pub has_statuses: bool,
    pub instruments: Arc<Instruments>,
}

impl Common {
    fn count_outcome(&self) {
        self.outcomes.fetch_add(1, Relaxed);
    }
}

/// The watches of one kind of objects.
pub struct KindWatches<K> {
    watches: BTreeMap<Selector, Watch<K>>,
    /// The number of watches that were started or ended so far.
    changes: u64,
    content_changes: Arc<Mutex<ContentChanges>>,
}

/// The changes of the objects of one kind, except of statuses and of objects that are not of interest.
#[derive(Default)]
struct ContentChanges {
    /// The number of changes so far.
    count: u64,
    /// The watches with changes that have not been gathered.
    watches: BTreeSet<Selector>,
}

/// Identifies the content of the watches of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindVersion {
    /// The number of watches started or ended.
    watches: u64,
    /// The number of changes of their objects.
    objects: u64,
}

impl KindVersion {
    /// True if no watch was started or ended in between.
    pub fn has_same_watches(self, other: Self) -> bool {
        self.watches == other.watches
    }
}

impl<K> Default for KindWatches<K> {
    fn default() -> Self {
        Self { watches: BTreeMap::new(), changes: 0, content_changes: Arc::default() }
    }
}

impl<K: WatchedObject> KindWatches<K> {
    /// Starts the wanted watches that do not run.
    pub fn start(&mut self, wanted: &BTreeSet<Selector>, common: &Common) {
        for selector in wanted {
            if !self.watches.contains_key(selector) {
                self.changes += 1;
                let watch = Watch::start(selector.clone(), common.clone(), self.content_changes.clone());
                self.watches.insert(selector.clone(), watch);
            }
        }
    }

    /// Ends all other watches.
    pub fn retain(&mut self, wanted: &BTreeSet<Selector>) {
        let before = self.watches.len();
        self.watches.retain(|selector, _| wanted.contains(selector));
        self.changes += (before - self.watches.len()) as u64;
    }

    pub fn of(&self, selector: &Selector) -> Option<&Watch<K>> {
        self.watches.get(selector)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Selector, &Watch<K>)> {
        self.watches.iter()
    }

    pub fn version(&self) -> KindVersion {
        KindVersion { watches: self.changes, objects: locked(&self.content_changes).count }
    }

    /// The number of watches that were started or ended so far.
    pub fn watch_changes(&self) -> u64 {
        self.changes
    }

    /// The version, and the watches whose objects have changed since the previous call.
    pub fn take_changes(&self) -> (KindVersion, BTreeSet<Selector>) {
        let mut changes = locked(&self.content_changes);
        let version = KindVersion { watches: self.changes, objects: changes.count };
        (version, mem::take(&mut changes.watches))
    }

    /// The reported refusals by the API server, a sentence for each watch.
    pub fn refusals(&self) -> impl Iterator<Item = String> {
        self.iter().filter_map(|(selector, watch)| {
            let state = watch.state();
            let stays = if state.store.is_synced() { "; the objects read before stay in use" } else { "" };
            state.reported().map(|why| format!("{} cannot be watched: {why}{stays}", selector.of_kind(K::KIND)))
        })
    }
}

/// A watch and the objects that it has read. Dropping it ends the watch.
pub struct Watch<K> {
    state: Arc<Mutex<WatchState<K>>>,
    _running: AbortOnDropHandle<()>,
}

pub struct WatchState<K> {
    pub store: Store<K>,
    broken: Option<WatchOutage>,
}

struct WatchOutage {
    watch_error: WatchError,
    /// The number of consecutive errors.
    times: u32,
    since: Instant,
    /// True for a refusal that has lasted for [`REFUSAL_DELAY`].
    is_reported: bool,
    _unreachable: Option<Unreachable>,
}

/// The number of refusals after which unread objects are no longer waited for. An API server that starts, and a
/// recently granted permission, cause a few refusals.
pub const REPEATED_REFUSALS: u32 = 3;

impl<K: WatchedObject> WatchState<K> {
    /// The reason for a repeated refusal by the API server.
    pub fn refused(&self) -> Option<&str> {
        self.denied(|broken| broken.times >= REPEATED_REFUSALS)
    }

    /// The reason for a refusal by the API server that has lasted long enough to be reported.
    pub fn reported(&self) -> Option<&str> {
        self.denied(|broken| broken.is_reported)
    }

    fn denied(&self, counts: fn(&WatchOutage) -> bool) -> Option<&str> {
        match &self.broken.as_ref().filter(|broken| counts(broken))?.watch_error {
            WatchError::Denied(why) => Some(why),
            WatchError::Unreachable(_) => None,
        }
    }

    /// The reason why nothing has been read yet, and the number of refusals by the API server.
    pub fn unread(&self) -> Option<(&str, u32)> {
        match &self.broken {
            _ if self.store.is_synced() => None,
            None => Some(("no answer yet", 0)),
            Some(WatchOutage { watch_error: WatchError::Unreachable(why), .. }) => Some((why, 0)),
            Some(WatchOutage { watch_error: WatchError::Denied(why), times, .. }) => Some((why, *times)),
        }
    }

    pub fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    fn breaks(&mut self, watch_error: WatchError, outage: &Arc<Outage>) {
        let unreachable = match &watch_error {
            WatchError::Unreachable(why) => Some(outage.join(why)),
            WatchError::Denied(_) => {
                outage.answered();
                None
            }
        };
        let before = self.broken.as_ref().filter(|before| before.watch_error.is_denied() == watch_error.is_denied());
        let times = before.map_or(1, |before| before.times + 1);
        let since = before.map_or_else(Instant::now, |before| before.since);
        let is_reported = watch_error.is_denied() && since.elapsed() >= REFUSAL_DELAY;
        // The previous error is dropped after the new one exists, so that a continuing outage is reported once.
        self.broken = Some(WatchOutage { watch_error, times, since, is_reported, _unreachable: unreachable });
    }
}

impl<K: WatchedObject> Watch<K> {
    fn start(selector: Selector, common: Common, content_changes: Arc<Mutex<ContentChanges>>) -> Self {
        let state = Arc::new(Mutex::new(WatchState { store: Store::default(), broken: None }));
        let running = common.instruments.watches.start(K::KIND);
        let watching = WatchTask { selector, common, state: state.clone(), content_changes, running };
        Self { state, _running: AbortOnDropHandle::new(tokio::spawn(watching.run())) }
    }

    pub fn state(&self) -> MutexGuard<'_, WatchState<K>> {
        locked(&self.state)
    }
}

fn locked<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

struct WatchTask<K> {
    selector: Selector,
    common: Common,
    state: Arc<Mutex<WatchState<K>>>,
    content_changes: Arc<Mutex<ContentChanges>>,
    running: RunningWatch,
}

impl<K: WatchedObject> WatchTask<K> {
    async fn run(self) {
        let mut pauses = Pauses::default();
        loop {
            // A panic while reading an object must not end the watch.
            let following = AssertUnwindSafe(self.follow(&mut pauses)).catch_unwind();
            if let Some(watch_error) = following.await.unwrap_or_else(|_| Some(WatchError::fault())) {
                self.breaks(watch_error);
            }
            sleep(pauses.after_failure()).await;
        }
    }

    /// Reads all objects, then changes, until the watch breaks. A new listing replaces the objects after it is
    /// complete.
    async fn follow(&self, pauses: &mut Pauses) -> Option<WatchError> {
        let mut events = pin!(watcher(self.api(), self.config()));
        let mut phase = Phase::Listing;
        loop {
            let event = match timeout(phase.timeout(), events.next()).await {
                Ok(Some(Ok(event))) => Some(event),
                Ok(Some(Err(error))) => return WatchError::of(error),
                Ok(None) => return None,
                Err(_) if phase == Phase::Listing => return Some(WatchError::no_answer(phase.timeout())),
                Err(_) => None,
            };
            match event {
                Some(Event::Init) => phase = Phase::Listing,
                Some(Event::InitDone) => phase = Phase::Listed,
                Some(Event::InitApply(_)) => {}
                Some(Event::Apply(_) | Event::Delete(_)) | None => {
                    if phase != Phase::Watching {
                        phase = Phase::Watching;
                        pauses.reset();
                        self.works();
                    }
                }
            }
            if let Some(event) = event {
                self.take(event);
            }
        }
    }

    fn api(&self) -> Api<ReceivedObject> {
        let (client, resource) = (self.common.client.clone(), K::resource());
        match &self.selector.namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        }
    }

    /// A dead connection is noticed at the end of the watch. Watches are therefore short, and their random lengths keep
    /// them from ending all at once.
    fn config(&self) -> watcher::Config {
        let mut config = watcher::Config::default().timeout(fastrand::u32(45..75));
        config.label_selector = self.selector.labels();
        config.field_selector = self.selector.fields();
        config
    }

    fn take(&self, event: Event<ReceivedObject>) {
        let change = {
            let interest = self.common.interest.read().unwrap_or_else(PoisonError::into_inner);
            let mut state = locked(&self.state);
            let was_synced = state.store.is_synced();
            let change = state.store.take(event, &interest);
            if state.store.is_synced() != was_synced {
                self.common.count_outcome();
            }
            change
        };
        match change {
            ChangeScope::Nothing => {}
            ChangeScope::Statuses => self.common.statuses_changed.send_replace(()),
            ChangeScope::Content => {
                let mut changes = locked(&self.content_changes);
                changes.count += 1;
                changes.watches.insert(self.selector.clone());
                drop(changes);
                self.common.changed.send_replace(());
            }
        }
    }

    fn works(&self) {
        let mut state = locked(&self.state);
        let (was_reported, was_refused) = (state.reported().is_some(), state.refused().is_some());
        self.common.outage.answered();
        state.broken = None;
        drop(state);
        self.running.works();
        self.common.count_outcome();
        if was_reported {
            info!("{} can be watched", self.selector.of_kind(K::KIND));
        }
        if was_reported || was_refused {
            self.common.changed.send_replace(());
        }
    }

    fn breaks(&self, watch_error: WatchError) {
        let mut state = locked(&self.state);
        // A status does not show that an object which was read before is now refused.
        let is_in_status = K::IS_REFERENCE && self.common.has_statuses && !state.store.is_synced();
        match &watch_error {
            WatchError::Denied(_) if is_in_status => self.running.refused_reference(),
            WatchError::Denied(_) => self.running.failed(WatchFailure::Refused),
            WatchError::Unreachable(_) => self.running.failed(WatchFailure::Unreachable),
        }
        let shown = |state: &WatchState<K>| [state.reported(), state.refused()].map(|why| why.map(str::to_owned));
        let before = shown(&state);
        state.breaks(watch_error, &self.common.outage);
        self.common.count_outcome();
        if let (Some(why), [None, _]) = (state.reported(), &before) {
            warn!(reason = why, "{} cannot be watched", self.selector.of_kind(K::KIND));
        }
        if shown(&state) != before {
            self.common.changed.send_replace(());
        }
    }
}

/// The phase of a watch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Listing,
    /// All objects have been read, but the API server may still refuse to send changes.
    Listed,
    Watching,
}

impl Phase {
    /// The expected time until the next event. It is a limit only in the first phase.
    fn timeout(self) -> Duration {
        match self {
            Self::Listing => Duration::from_secs(30),
            Self::Listed => Duration::from_secs(1),
            // The watcher itself notices a dead connection.
            Self::Watching => Duration::from_hours(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::cluster::kinds::CachedObject;

    #[tokio::test(start_paused = true)]
    async fn refusals_of_a_watch_are_reported_once_they_have_lasted() {
        let outage = Arc::default();
        let refusal = || WatchError::Denied("services is forbidden".into());
        let mut state =
            WatchState::<CachedObject<k8s_openapi::api::core::v1::Service>> { store: Store::default(), broken: None };
        let breaks = async |state: &mut WatchState<_>, after: u64, watch_error: WatchError| {
            sleep(Duration::from_millis(after)).await;
            state.breaks(watch_error, &outage);
            (state.refused().is_some(), state.reported().is_some())
        };
        for (after, expected) in
            [(0, (false, false)), (250, (false, false)), (500, (true, false)), (4200, (true, false))]
        {
            assert_eq!(breaks(&mut state, after, refusal()).await, expected, "after {after} ms more");
        }
        assert_eq!(breaks(&mut state, 50, refusal()).await, (true, true), "it has lasted for 5 s");
        assert_eq!(state.reported(), Some("services is forbidden"));

        // An API server that returns after an outage refuses requests for a short time.
        let away = WatchError::Unreachable("no answer".into());
        assert_eq!(breaks(&mut state, 1000, away).await, (false, false));
        assert_eq!(breaks(&mut state, 9000, refusal()).await, (false, false), "counted from the first refusal");
    }
}
