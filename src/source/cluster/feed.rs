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
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::{
    interest::{Interest, Subject},
    kinds::Kept,
    store::{Change, Store},
    trouble::{Outage, Pauses, Trouble, Unreachable},
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
    _unreachable: Option<Unreachable>,
}

/// How often a refusal is repeated before it counts for good: an API server that starts, and a right that has just
/// been granted, make for refusals for a moment.
pub const REPEATED: u32 = 3;

impl<K: Kept> State<K> {
    /// Why the API server refuses the watch.
    pub fn denied(&self) -> Option<&str> {
        let broken = self.broken.as_ref()?;
        match &broken.trouble {
            Trouble::Denied(why) if broken.times >= REPEATED => Some(why),
            Trouble::Denied(_) | Trouble::Unreachable(_) => None,
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
        // What it replaces leaves the outage only now: one that goes on is told once.
        self.broken = Some(Broken { trouble, times, _unreachable: unreachable });
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
        let was_told = state.denied().is_some();
        state.broken = None;
        drop(state);
        if was_told {
            info!("{} can be watched", self.subject.of_kind(K::KIND));
            self.common.changed.send_replace(());
        }
    }

    fn breaks(&self, trouble: Trouble) {
        let mut state = locked(&self.state);
        let told = |state: &State<K>| (state.denied().map(str::to_owned), state.unread().is_some_and(is_lasting));
        let before = told(&state);
        state.breaks(trouble, &self.common.outage);
        if let (Some(why), (None, _)) = (state.denied(), &before) {
            warn!(reason = why, "{} cannot be watched", self.subject.of_kind(K::KIND));
        }
        if told(&state) != before {
            self.common.changed.send_replace(());
        }
    }
}

/// Whether what has not been read yet has been refused for good.
fn is_lasting((_, refusals): (&str, u32)) -> bool {
    refusals >= REPEATED
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
