//! One watch, which is kept up for as long as it is wanted.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use futures::{FutureExt, StreamExt};
use kube::{
    Api, Client,
    api::DynamicObject,
    runtime::watcher::{self, Event, watcher},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::{
    interest::{Interest, Subject},
    kinds::{Change, Kept},
    store::Store,
    trouble::{Outage, Pauses, REFUSAL_DELAY, Trouble, Unreachable},
};

/// What all watches share.
#[derive(Clone)]
pub struct Common {
    pub client: Client,
    pub interest: Arc<RwLock<Interest>>,
    pub changed: Arc<watch::Sender<()>>,
    /// Statuses, and nothing else.
    pub statuses_changed: Arc<watch::Sender<()>>,
    pub outage: Arc<Outage>,
}

/// The watches of one kind of objects.
pub struct Feeds<K>(BTreeMap<Subject, Feed<K>>);

impl<K> Default for Feeds<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Kept> Feeds<K> {
    /// Begins those watches that are not there yet.
    pub fn start(&mut self, wanted: &BTreeSet<Subject>, common: &Common) {
        for subject in wanted {
            if !self.0.contains_key(subject) {
                self.0.insert(subject.clone(), Feed::start(subject.clone(), common.clone()));
            }
        }
    }

    /// Ends all others.
    pub fn retain(&mut self, wanted: &BTreeSet<Subject>) {
        self.0.retain(|subject, _| wanted.contains(subject));
    }

    pub fn of(&self, subject: &Subject) -> Option<&Feed<K>> {
        self.0.get(subject)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Subject, &Feed<K>)> {
        self.0.iter()
    }

    /// What the API server refuses, once it has to be reported: a sentence for each watch.
    pub fn refusals(&self) -> impl Iterator<Item = String> {
        self.iter().filter_map(|(subject, feed)| {
            let state = feed.state();
            let stays = if state.store.is_synced() { "; what was read before stays" } else { "" };
            state.reported().map(|why| format!("{} cannot be watched: {why}{stays}", subject.of_kind(K::KIND)))
        })
    }
}

/// A watch and what it has read. It ends with this.
pub struct Feed<K> {
    state: Arc<Mutex<State<K>>>,
    _running: AbortOnDropHandle<()>,
}

pub struct State<K> {
    pub store: Store<K>,
    broken: Option<Broken>,
}

struct Broken {
    trouble: Trouble,
    /// How often in a row.
    times: u32,
    since: Instant,
    /// A refusal that has lasted for [`REFUSAL_DELAY`].
    is_reported: bool,
    _unreachable: Option<Unreachable>,
}

/// How often a refusal is repeated before what has not been read yet is not waited for any more: an API server that
/// starts, and a right that has just been granted, make for refusals for a moment.
pub const REPEATED: u32 = 3;

impl<K: Kept> State<K> {
    /// Why the API server refuses the watch, once it has done so repeatedly.
    pub fn refused(&self) -> Option<&str> {
        self.denied(|broken| broken.times >= REPEATED)
    }

    /// Why the API server refuses the watch, once that has lasted long enough to be reported.
    pub fn reported(&self) -> Option<&str> {
        self.denied(|broken| broken.is_reported)
    }

    fn denied(&self, counts: fn(&Broken) -> bool) -> Option<&str> {
        match &self.broken.as_ref().filter(|broken| counts(broken))?.trouble {
            Trouble::Denied(why) => Some(why),
            Trouble::Unreachable(_) => None,
        }
    }

    /// Why nothing has been read yet, and how often the API server has refused it.
    pub fn unread(&self) -> Option<(&str, u32)> {
        match &self.broken {
            _ if self.store.is_synced() => None,
            None => Some(("no answer yet", 0)),
            Some(Broken { trouble: Trouble::Unreachable(why), .. }) => Some((why, 0)),
            Some(Broken { trouble: Trouble::Denied(why), times, .. }) => Some((why, *times)),
        }
    }

    pub fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    fn breaks(&mut self, trouble: Trouble, outage: &Arc<Outage>) {
        let unreachable = match &trouble {
            Trouble::Unreachable(why) => Some(outage.join(why)),
            Trouble::Denied(_) => None,
        };
        let before = self.broken.as_ref().filter(|before| before.trouble.is_denied() == trouble.is_denied());
        let times = before.map_or(1, |before| before.times + 1);
        let since = before.map_or_else(Instant::now, |before| before.since);
        let is_reported = trouble.is_denied() && since.elapsed() >= REFUSAL_DELAY;
        // What it replaces leaves the outage only now: one that goes on is told once.
        self.broken = Some(Broken { trouble, times, since, is_reported, _unreachable: unreachable });
    }
}

impl<K: Kept> Feed<K> {
    fn start(subject: Subject, common: Common) -> Self {
        let state = Arc::new(Mutex::new(State { store: Store::default(), broken: None }));
        let watching = Watching { subject, common, state: state.clone() };
        Self { state, _running: AbortOnDropHandle::new(tokio::spawn(watching.run())) }
    }

    pub fn state(&self) -> MutexGuard<'_, State<K>> {
        locked(&self.state)
    }
}

fn locked<K>(state: &Mutex<State<K>>) -> MutexGuard<'_, State<K>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Watching<K> {
    subject: Subject,
    common: Common,
    state: Arc<Mutex<State<K>>>,
}

impl<K: Kept> Watching<K> {
    async fn run(self) {
        let mut pauses = Pauses::default();
        loop {
            // An object that makes the reading of it fail in an unforeseen way must not end it for good.
            let following = AssertUnwindSafe(self.follow(&mut pauses)).catch_unwind();
            if let Some(trouble) = following.await.unwrap_or_else(|_| Some(Trouble::fault())) {
                self.breaks(trouble);
            }
            sleep(pauses.after_failure()).await;
        }
    }

    /// Reads everything, and then what changes, until the watch breaks. What is read anew replaces what there was only
    /// once it is complete.
    async fn follow(&self, pauses: &mut Pauses) -> Option<Trouble> {
        let mut events = pin!(watcher(self.api(), self.config()));
        let mut phase = Phase::Listing;
        loop {
            let event = match timeout(phase.patience(), events.next()).await {
                Ok(Some(Ok(event))) => Some(event),
                Ok(Some(Err(error))) => return Trouble::of(error),
                Ok(None) => return None,
                Err(_) if phase == Phase::Listing => return Some(Trouble::no_answer(phase.patience())),
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

    fn api(&self) -> Api<DynamicObject> {
        let (client, resource) = (self.common.client.clone(), K::resource());
        match &self.subject.namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        }
    }

    /// A dead connection is noticed when the watch should have ended, so it ends often; and not all watches at once.
    fn config(&self) -> watcher::Config {
        let mut config = watcher::Config::default().timeout(fastrand::u32(45..75));
        config.label_selector = self.subject.labels();
        config.field_selector = self.subject.fields();
        config
    }

    fn take(&self, event: Event<DynamicObject>) {
        let change = {
            let interest = self.common.interest.read().unwrap_or_else(PoisonError::into_inner);
            locked(&self.state).store.take(event, &interest)
        };
        match change {
            Change::Nothing => {}
            Change::Statuses => self.common.statuses_changed.send_replace(()),
            Change::Content => self.common.changed.send_replace(()),
        }
    }

    fn works(&self) {
        let mut state = locked(&self.state);
        let (was_reported, was_refused) = (state.reported().is_some(), state.refused().is_some());
        state.broken = None;
        drop(state);
        if was_reported {
            info!("{} can be watched", self.subject.of_kind(K::KIND));
        }
        if was_reported || was_refused {
            self.common.changed.send_replace(());
        }
    }

    fn breaks(&self, trouble: Trouble) {
        let mut state = locked(&self.state);
        let shown = |state: &State<K>| [state.reported(), state.refused()].map(|why| why.map(str::to_owned));
        let before = shown(&state);
        state.breaks(trouble, &self.common.outage);
        if let (Some(why), [None, _]) = (state.reported(), &before) {
            warn!(reason = why, "{} cannot be watched", self.subject.of_kind(K::KIND));
        }
        if shown(&state) != before {
            self.common.changed.send_replace(());
        }
    }
}

/// How far a watch is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Listing,
    /// Everything has been read, and the API server may still refuse to tell what changes.
    Listed,
    Watching,
}

impl Phase {
    /// How long the next event may take; in all but the first phase it may take longer.
    fn patience(self) -> Duration {
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
    use crate::source::cluster::kinds::Reading;

    #[tokio::test(start_paused = true)]
    async fn refusals_of_a_watch_are_reported_once_they_have_lasted() {
        let outage = Arc::default();
        let refusal = || Trouble::Denied("services is forbidden".into());
        let mut state = State::<Reading<k8s_openapi::api::core::v1::Service>> { store: Store::default(), broken: None };
        let breaks = async |state: &mut State<_>, after: u64, trouble: Trouble| {
            sleep(Duration::from_millis(after)).await;
            state.breaks(trouble, &outage);
            (state.refused().is_some(), state.reported().is_some())
        };
        for (after, expected) in
            [(0, (false, false)), (250, (false, false)), (500, (true, false)), (4200, (true, false))]
        {
            assert_eq!(breaks(&mut state, after, refusal()).await, expected, "after {after} ms more");
        }
        assert_eq!(breaks(&mut state, 50, refusal()).await, (true, true), "it has lasted for 5 s");
        assert_eq!(state.reported(), Some("services is forbidden"));

        // An API server that is away and comes back refuses for a moment.
        let away = Trouble::Unreachable("no answer".into());
        assert_eq!(breaks(&mut state, 1000, away).await, (false, false));
        assert_eq!(breaks(&mut state, 9000, refusal()).await, (false, false), "counted from the first refusal");
    }
}
