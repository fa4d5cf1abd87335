//! Scheduled DNS lookups.

mod limits;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, ToSocketAddrs},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use tokio::{
    sync::{oneshot, watch},
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use self::limits::{LookupLimits, MAX_OF_OBJECT};
use crate::{
    instruments::{Instruments, LookupResult},
    model::ObjectKey,
    world::{Lookup, WantedName},
};

/// The wanted DNS names, each with a lookup task and its known answers.
///
/// An address that is new in an answer is used at once. An address is dropped after several answers without it. An
/// empty answer or a failing resolver changes only [`Lookup::problem`]. A name has at most [`Lookup::MAX_ADDRESSES`].
pub struct Names {
    resolver: Arc<ResolveFn>,
    limits: Arc<LookupLimits>,
    tasks: BTreeMap<Arc<str>, LookupTask>,
    known: Arc<Known>,
    changes: watch::Receiver<()>,
    instruments: Arc<Instruments>,
}

type ResolveFn = dyn Fn(Arc<str>) -> BoxFuture<'static, io::Result<BTreeSet<IpAddr>>> + Send + Sync;

struct LookupTask {
    wanted: WantedName,
    _running: AbortOnDropHandle<()>,
}

struct Known {
    states: Mutex<BTreeMap<Arc<str>, NameState>>,
    changed: watch::Sender<()>,
}

/// Asks the system's resolver (`/etc/hosts`, DNS) for the addresses of a name.
///
/// Each lookup has its own thread. On the runtime's blocking threads, hanging lookups would delay reading files.
pub async fn resolve(name: Arc<str>) -> io::Result<BTreeSet<IpAddr>> {
    let (tell, answer) = oneshot::channel();
    thread::Builder::new().name("lookup".into()).spawn(move || {
        let found = (&*name, 0).to_socket_addrs();
        let _ = tell.send(found.map(|found| found.map(|address| address.ip().to_canonical()).collect()));
    })?;
    answer.await.map_err(io::Error::other)?
}

impl Names {
    /// Starts with a resolver: [`resolve`], or a replacement.
    pub fn start<F>(resolver: impl Fn(Arc<str>) -> F + Send + Sync + 'static, instruments: Arc<Instruments>) -> Self
    where
        F: Future<Output = io::Result<BTreeSet<IpAddr>>> + Send + 'static,
    {
        let (changed, changes) = watch::channel(());
        let known = Arc::new(Known { states: Mutex::default(), changed });
        let resolver: Arc<ResolveFn> = Arc::new(move |name| Box::pin(resolver(name)));
        Self { resolver, limits: Arc::default(), tasks: BTreeMap::new(), known, changes, instruments }
    }

    /// Sets the wanted names. Each is looked up at its interval. A new name is looked up at once, unless many lookups
    /// are pending. Must be called within a tokio runtime.
    pub fn want(&mut self, wanted: BTreeMap<Arc<str>, WantedName>) {
        self.tasks.retain(|name, task| wanted.get(name) == Some(&task.wanted));
        self.known.states().retain(|name, _| wanted.contains_key(name));
        self.limits.divide(wanted.values().flat_map(|wanted| &wanted.objects));
        for (name, wanted) in wanted {
            if self.tasks.contains_key(&name) {
                continue;
            }
            self.known.states().entry(name.clone()).or_default();
            let looking_up = LookingUp {
                name: name.clone(),
                wanted: wanted.clone(),
                resolver: self.resolver.clone(),
                limits: self.limits.clone(),
                known: self.known.clone(),
                instruments: self.instruments.clone(),
            };
            let running = AbortOnDropHandle::new(tokio::spawn(looking_up.run()));
            self.tasks.insert(name, LookupTask { wanted, _running: running });
        }
    }

    /// The answers for the wanted names.
    pub fn known(&mut self) -> BTreeMap<Arc<str>, Lookup> {
        self.changes.mark_unchanged();
        self.known.states().iter().map(|(name, state)| (name.clone(), state.lookup())).collect()
    }

    /// Waits until an answer is new since the last call of [`Self::known`]. Cancel safe.
    pub async fn changed(&mut self) {
        // The receiver cannot fail, because `self` owns the sender.
        let _ = self.changes.changed().await;
    }

    /// Waits until the lookup of each wanted name has been answered or has failed, but at most for `limit`.
    pub async fn first_answers(&self, limit: Duration) {
        let mut changes = self.changes.clone();
        let all = changes.wait_for(|()| self.known.states().values().all(NameState::is_answered));
        let _ = timeout(limit, all).await;
    }
}

impl Known {
    fn states(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, NameState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn observe(&self, name: &Arc<str>, answer: Result<BTreeSet<IpAddr>, String>) {
        let change = self.states().get_mut(name).and_then(|state| state.observe(answer));
        if let Some(change) = change {
            change.log(name);
            self.changed.send_replace(());
        }
    }
}

/// The task of one name.
struct LookingUp {
    name: Arc<str>,
    wanted: WantedName,
    resolver: Arc<ResolveFn>,
    limits: Arc<LookupLimits>,
    known: Arc<Known>,
    instruments: Arc<Instruments>,
}

impl LookingUp {
    /// The time limit of an answer.
    const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

    async fn run(self) {
        let mut was_answered = false;
        loop {
            was_answered = self.look_up(was_answered).await;
            sleep(self.wanted.interval.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
        }
    }

    /// Looks up the name once. Returns true if there was an answer in time.
    async fn look_up(&self, was_answered: bool) -> bool {
        let Self { name, wanted: WantedName { objects, .. }, resolver, limits, known, instruments } = self;
        let mut turn = pin!(limits.turn(objects, was_answered));
        let turn = match timeout(Self::ANSWER_TIMEOUT, &mut turn).await {
            Ok(turn) => turn,
            Err(_) => {
                known.observe(name, Err(waits(objects)));
                turn.await
            }
        };
        let started = Instant::now();
        // The lookup continues when this task ends and keeps its permit until then, because the system's resolver
        // cannot be interrupted.
        let mut answer = tokio::spawn({
            let answer = resolver(name.clone());
            async move {
                let answer = answer.await;
                drop(turn);
                answer
            }
        });
        match timeout(Self::ANSWER_TIMEOUT, &mut answer).await {
            Ok(answer) => {
                let answer = answer.unwrap_or_else(|fault| Err(io::Error::other(fault)));
                let answered = answer.is_ok();
                instruments.count_lookup(lookup_result(&answer), started.elapsed());
                known.observe(name, answer.map_err(|error| description(&error)));
                answered
            }
            Err(_) => {
                instruments.count_lookup(LookupResult::Timeout, started.elapsed());
                known.observe(name, Err(format!("no answer within {} s", Self::ANSWER_TIMEOUT.as_secs())));
                // A late failure adds no information.
                if let Ok(Ok(late)) = answer.await {
                    known.observe(name, Ok(late));
                }
                false
            }
        }
    }
}

fn lookup_result(answer: &io::Result<BTreeSet<IpAddr>>) -> LookupResult {
    match answer {
        Ok(addresses) if addresses.is_empty() => LookupResult::Empty,
        Ok(_) => LookupResult::Found,
        Err(_) => LookupResult::Failed,
    }
}

fn waits(objects: &[ObjectKey]) -> String {
    let of = objects.first().map(|object| format!("{MAX_OF_OBJECT} of {object} or ")).unwrap_or_default();
    format!(
        "its lookup waits, because {of}as many lookups as its namespace may have are pending without an answer: \
         correct the names that do not exist, or check the DNS server"
    )
}

/// A resolver's error without the common prefix.
fn description(error: &io::Error) -> String {
    let text = error.to_string();
    text.strip_prefix("failed to lookup address information: ").unwrap_or(&text).to_owned()
}

/// The answers for one name.
#[derive(Debug, Default)]
struct NameState {
    answered: bool,
    /// The addresses in use, each with the number of answers without it since the last answer with it.
    addresses: BTreeMap<IpAddr, u8>,
    is_truncated: bool,
    problem: Option<Arc<str>>,
}

impl NameState {
    /// The number of consecutive answers without an address after which it is dropped. Resolvers return a part of the
    /// addresses, or temporarily omit one.
    const ANSWERS_WITHOUT: u8 = 3;

    fn lookup(&self) -> Lookup {
        Lookup {
            addresses: self.addresses.keys().copied().collect(),
            is_truncated: self.is_truncated,
            problem: self.problem.clone(),
        }
    }

    fn is_answered(&self) -> bool {
        self.answered
    }

    /// Adds an answer. Returns the change.
    fn observe(&mut self, answer: Result<BTreeSet<IpAddr>, String>) -> Option<LookupChange> {
        self.answered = true;
        let before = self.lookup();
        match answer {
            Err(why) => self.problem = Some(format!("cannot be resolved: {why}").into()),
            Ok(answer) if answer.is_empty() => self.problem = Some("has no address".into()),
            Ok(answer) => {
                self.problem = None;
                self.addresses.retain(|address, without| {
                    *without = if answer.contains(address) { 0 } else { *without + 1 };
                    *without < Self::ANSWERS_WITHOUT
                });
                for address in answer {
                    self.addresses.entry(address).or_default();
                }
                self.is_truncated = self.addresses.len() > Lookup::MAX_ADDRESSES;
                self.limit_addresses();
            }
        }
        let after = self.lookup();
        (before != after).then_some(LookupChange { before, after })
    }

    /// Drops the addresses beyond the maximum: first those that the last answer did not have, then the highest ones.
    fn limit_addresses(&mut self) {
        let mut by_age: Vec<_> = self.addresses.iter().map(|(address, without)| (*without, *address)).collect();
        by_age.sort_unstable();
        for (_, address) in by_age.iter().skip(Lookup::MAX_ADDRESSES) {
            self.addresses.remove(address);
        }
    }
}

/// The changes by an answer.
#[derive(Debug, PartialEq, Eq)]
struct LookupChange {
    before: Lookup,
    after: Lookup,
}

impl LookupChange {
    fn log(&self, name: &str) {
        let Self { before, after } = self;
        if before.addresses != after.addresses {
            let joined: Vec<_> = after.addresses.difference(&before.addresses).collect();
            let left: Vec<_> = before.addresses.difference(&after.addresses).collect();
            tracing::info!(name, ?joined, ?left, "addresses of a DNS name changed");
        }
        match (&before.problem, &after.problem) {
            (None, Some(reason)) if after.addresses.is_empty() => {
                tracing::warn!(name, %reason, "DNS lookup failed: the name has no addresses until a lookup succeeds");
            }
            (None, Some(reason)) => {
                let addresses = after.addresses.len();
                tracing::warn!(name, %reason, addresses, "DNS lookup failed: the last known addresses stay in use");
            }
            (Some(_), None) => tracing::info!(name, "DNS lookup succeeds again"),
            _ => {}
        }
    }
}
