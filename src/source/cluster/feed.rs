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
    store::Store,
    trouble::{Outage, Pauses, Trouble, Unreachable},
};

/// What all watches share.
#[derive(Clone)]
pub struct Common {
    pub client: Client,
    pub interest: Arc<RwLock<Interest>>,
    pub changed: Arc<watch::Sender<()>>,
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

impl<K> State<K> {
    /// Why the API server refuses the watch.
    pub fn denied(&self) -> Option<&str>
    where
        K: Kept,
    {
        let broken = self.broken.as_ref()?;
        match &broken.trouble {
            Trouble::Denied(why) if !self.store.is_synced() || broken.times >= REPEATED => Some(why),
            _ => None,
        }
    }

    /// Why the watch does not work at the moment, and how often it has failed.
    pub fn trouble(&self) -> Option<(&Trouble, u32)> {
        self.broken.as_ref().map(|broken| (&broken.trouble, broken.times))
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
    /// How long a page of a listing may take.
    const ANSWER: Duration = Duration::from_secs(30);

    async fn run(self) {
        let mut pauses = Pauses::default();
        loop {
            // An object that makes the reading of it fail in an unforeseen way must not end it for good.
            let following = AssertUnwindSafe(self.follow(&mut pauses)).catch_unwind();
            if let Some(trouble) = following.await.unwrap_or_else(|_| Some(Trouble::fault())) {
                self.note(trouble);
            }
            sleep(pauses.after_failure()).await;
        }
    }

    /// Reads everything, and then what changes, until the watch breaks. What is read anew replaces what there was only
    /// once it is complete.
    async fn follow(&self, pauses: &mut Pauses) -> Option<Trouble> {
        let mut events = pin!(watcher(self.api(), self.config()));
        let mut listing = true;
        loop {
            let next = match listing {
                true => timeout(Self::ANSWER, events.next()).await,
                // The watcher itself notices when nothing comes any more.
                false => Ok(events.next().await),
            };
            match next {
                Err(_) => return Some(Trouble::no_answer(Self::ANSWER)),
                Ok(None) => return None,
                Ok(Some(Err(error))) => return Trouble::of(error),
                Ok(Some(Ok(event))) => {
                    match event {
                        Event::Init => listing = true,
                        Event::InitDone => {
                            listing = false;
                            pauses.reset();
                            self.works();
                        }
                        _ => {}
                    }
                    self.take(event);
                }
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
        let changed = {
            let interest = self.common.interest.read().unwrap_or_else(PoisonError::into_inner);
            locked(&self.state).store.take(event, &interest)
        };
        if changed {
            self.common.changed.send_replace(());
        }
    }

    fn works(&self) {
        let broken = locked(&self.state).broken.take();
        let Some(broken) = broken else { return };
        if let Trouble::Denied(_) = broken.trouble {
            info!("{} can be watched again", self.subject.of_kind(K::KIND));
        }
        self.common.changed.send_replace(());
    }

    fn note(&self, trouble: Trouble) {
        let mut state = locked(&self.state);
        let told = state.denied().map(str::to_owned);
        let before = state.broken.take();
        let times = before.as_ref().map_or(1, |before| before.times + 1);
        let unreachable = match &trouble {
            Trouble::Unreachable(why) => Some(self.common.outage.join(why)),
            Trouble::Denied(_) => None,
        };
        let is_denied = matches!(trouble, Trouble::Denied(_));
        let was_denied = before.is_some_and(|before| matches!(before.trouble, Trouble::Denied(_)));
        if let (Trouble::Denied(why), false) = (&trouble, was_denied) {
            warn!(reason = why, "{} cannot be watched", self.subject.of_kind(K::KIND));
        }
        state.broken = Some(Broken { trouble, times, _unreachable: unreachable });
        if state.denied() != told.as_deref() || is_denied && times == REPEATED {
            self.common.changed.send_replace(());
        }
    }
}
