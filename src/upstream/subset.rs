use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, mem,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tracing::{info, warn};

use super::{
    backends::Backends,
    balance::{Balancer, Candidate},
    endpoint::{ActiveConnection, Endpoint, Tried},
    priority::{ActivePriority, PriorityChange, PriorityLevels},
    published::Published,
};
use crate::model::{self, ActiveCheck, EndpointKey, Priority};

/// For how long clients that have waited go on to, once one endpoint is usable, for its others: all of them would go to
/// the one that was probed first.
const OTHERS: Duration = Duration::from_millis(250);

/// The candidates of an upstream, by the names of their backends.
#[derive(Default)]
pub(super) struct Candidates(BTreeMap<Arc<str>, Vec<Candidate>>);

impl Candidates {
    pub fn new(all: Vec<Candidate>) -> Self {
        let mut by_backend: BTreeMap<Arc<str>, Vec<Candidate>> = BTreeMap::new();
        for candidate in all {
            match by_backend.get_mut(&candidate.endpoint.key().backend) {
                Some(candidates) => candidates.push(candidate),
                None => drop(by_backend.insert(candidate.endpoint.key().backend.clone(), vec![candidate])),
            }
        }
        Self(by_backend)
    }

    fn of(&self, backends: &Backends) -> Vec<Candidate> {
        let own = self.0.iter().filter(|(name, _)| backends.contain(name));
        own.flat_map(|(_, candidates)| candidates).cloned().collect()
    }

    /// Those with one of these addresses.
    fn at(&self, addresses: &BTreeSet<(SocketAddr, Option<Arc<str>>)>) -> Vec<Candidate> {
        let all = self.0.values().flatten();
        all.filter(|candidate| addresses.contains(&address_of(candidate.endpoint.key()))).cloned().collect()
    }
}

/// The endpoints of an upstream that are of some of its backends, live: what connections are balanced over. Each subset
/// takes its own turns; what is known of an endpoint is the same in all.
pub struct Subset {
    upstream: Arc<Published>,
    backends: Backends,
    current: ArcSwap<Current>,
    /// Counts picks. Not part of `current`, so that a change does not start the round again.
    turn: AtomicU64,
    /// Apart from `current`, to wake those that wait.
    pending: watch::Sender<PendingChecks>,
}

/// Of whom probes are wanting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PendingChecks {
    None,
    /// Others of the group that serves: their first ones.
    Others,
    /// Nobody serves before, be it that nobody can or that it is too early to tell who is to.
    Deciding,
}

/// What connections see; replaced whole.
struct Current {
    usable: usize,
    pending: PendingChecks,
    /// Whether connections were refused when somebody was last known to be usable or not.
    refuses: bool,
    /// The group that connections are balanced over. `None`: it is too early to tell.
    serving: Option<Priority>,
    balancer: Balancer,
    /// All its endpoints, of whatever priority.
    endpoints: Vec<Arc<Endpoint>>,
}

impl Subset {
    pub(super) fn new(
        upstream: Arc<Published>,
        backends: Backends,
        settings: &model::Upstream,
        candidates: &Candidates,
        serving: &mut ActivePriority,
    ) -> (Self, Option<PriorityChange>) {
        let (current, change) = Current::of(&backends, settings, candidates, None, serving);
        let pending = watch::Sender::new(current.pending);
        let current = ArcSwap::from_pointee(current);
        (Self { upstream, backends, current, turn: AtomicU64::new(0), pending }, change)
    }

    /// How connections to its endpoints are made.
    pub fn connect(&self) -> model::Connect {
        self.upstream.connect()
    }

    /// Chooses a usable endpoint that was not tried, and counts the connection until the answer is dropped. `None`:
    /// there is none (left).
    pub fn pick(&self, client: IpAddr, tried: &Tried) -> Option<ActiveConnection> {
        let current = self.current.load();
        // Some may be usable and yet not be the ones to serve.
        if current.pending == PendingChecks::Deciding {
            return None;
        }
        current.balancer.pick(client, tried, &self.turn).map(ActiveConnection::begin)
    }

    /// The same for an attempt that may follow others: then endpoints that failed the last time that anybody tried them are
    /// only chosen if there are no others. Where many have just gone, as when a Service is scaled down, each attempt would
    /// meet another of those otherwise.
    pub fn pick_again(&self, client: IpAddr, tried: &Tried) -> Option<ActiveConnection> {
        let proven = if tried.is_empty() { None } else { self.pick(client, &tried.with_failing()) };
        proven.or_else(|| self.pick(client, tried))
    }

    /// Waits while nobody serves only because probes are wanting that say who is to. Answers whether there was something
    /// to wait for.
    pub async fn wait_for_first_checks(&self) -> bool {
        let mut pending = self.pending.subscribe();
        if *pending.borrow() != PendingChecks::Deciding {
            return false;
        }
        // Fails only without a sender, which is here.
        let _ = pending.wait_for(|pending| *pending != PendingChecks::Deciding).await;
        let _ = timeout(OTHERS, pending.wait_for(|pending| *pending == PendingChecks::None)).await;
        true
    }

    /// Nobody is to be waited for any more: its upstream is gone.
    pub(super) fn retire(&self) {
        self.pending.send_replace(PendingChecks::None);
    }

    /// Whether somebody serves, or that is about to turn out.
    pub fn may_serve(&self) -> bool {
        // In this order: what is awaited is told last.
        *self.pending.borrow() == PendingChecks::Deciding || self.current.load().usable > 0
    }

    /// Tells what connections see from what they saw before.
    #[cfg(test)]
    pub fn published(&self) -> *const () {
        Arc::as_ptr(&self.current.load()).cast()
    }

    /// How many endpoints are usable.
    #[cfg(test)]
    pub fn usable(&self) -> usize {
        self.current.load().usable
    }

    /// All its endpoints, sorted by key.
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        let all = self.upstream.endpoints();
        all.iter().filter(|endpoint| self.backends.have(endpoint.key())).cloned().collect()
    }

    /// Who gets its connections, and how many of all.
    pub(super) fn shares(&self) -> Vec<(Arc<Endpoint>, u64)> {
        let current = self.current.load();
        let shares = current.balancer.shares().into_iter();
        shares.flat_map(|shares| shares.iter().map(|(endpoint, weight)| (endpoint.clone(), weight))).collect()
    }

    pub(super) fn backends(&self) -> &Backends {
        &self.backends
    }

    /// The group that its connections go to; with nothing usable the first. `None`: it has none.
    pub(super) fn serving(&self) -> Option<Priority> {
        self.current.load().serving
    }

    /// Whether its connections may go to this endpoint now. `None`: it is none of its own.
    pub(super) fn is_served_by(&self, endpoint: &Endpoint) -> Option<bool> {
        self.backends.have(endpoint.key()).then(|| self.serving() == Some(endpoint.backend().priority))
    }

    /// Whether its connections go to others because these have a lower priority. `None`: it is none of its own.
    pub(super) fn prefers_others_to(&self, endpoint: &Endpoint) -> Option<bool> {
        let current = self.current.load();
        // With nothing usable, none serves.
        let serving = current.serving.filter(|_| current.usable > 0);
        let preferred = || serving.is_some_and(|serving| serving < endpoint.backend().priority);
        self.backends.have(endpoint.key()).then(preferred)
    }

    /// Has connections see these candidates of the upstream as they are now. Answers whether another group serves.
    pub(super) fn publish(
        &self,
        settings: &model::Upstream,
        candidates: &Candidates,
        serving: &mut ActivePriority,
    ) -> Option<PriorityChange> {
        let before = self.current.load_full();
        let (current, change) = Current::of(&self.backends, settings, candidates, Some(&before), serving);
        if let Backends::Of(backends) = &self.backends {
            let (upstream, usable) = (&self.upstream.key, current.usable);
            match (before.refuses, current.refuses) {
                (false, true) => {
                    warn!(%upstream, ?backends, "no endpoint of a route is usable, its connections are refused");
                }
                (true, false) => info!(%upstream, ?backends, usable, "a route's connections are served again"),
                _ => {}
            }
        }
        let pending = current.pending;
        self.current.store(Arc::new(current));
        self.pending.send_if_modified(|before| mem::replace(before, pending) != pending);
        change
    }
}

impl Current {
    fn of(
        backends: &Backends,
        settings: &model::Upstream,
        candidates: &Candidates,
        before: Option<&Self>,
        serving: &mut ActivePriority,
    ) -> (Self, Option<PriorityChange>) {
        let own = match before {
            // Who was on the way to their addresses may still go there.
            Some(before) if backends.are_renamed(settings) => {
                candidates.at(&before.endpoints.iter().map(|endpoint| address_of(endpoint.key())).collect())
            }
            _ => candidates.of(backends),
        };
        let levels = priority_levels(backends, settings, &own);
        let (serving, change) = serving.settle(&levels, &settings.balancing.failover, Instant::now());
        let may_serve = |candidate: &Candidate| candidate.endpoint.usable() || candidate.endpoint.pending_first_check();
        let too_early_to_tell = serving.is_none() && own.iter().any(may_serve);
        // With nothing usable, sticky balancing keeps its table at least.
        let balanced = serving.or_else(|| levels.keys().next().copied());
        let serving = balanced.filter(|_| !too_early_to_tell);
        let usable = own.iter().filter(|candidate| candidate.endpoint.usable()).count();
        let endpoints = own.iter().map(|candidate| candidate.endpoint.clone()).collect();
        let mut group = own;
        group.retain(|candidate| balanced == Some(priority(settings, candidate)));
        let pending = if too_early_to_tell {
            PendingChecks::Deciding
        } else if group.iter().any(|candidate| candidate.endpoint.pending_first_check()) {
            PendingChecks::Others
        } else {
            PendingChecks::None
        };
        let refuses = match pending {
            PendingChecks::Deciding => before.is_some_and(|before| before.refuses),
            PendingChecks::None | PendingChecks::Others => usable == 0,
        };
        let balancer = Balancer::new(settings.balancing, &group, before.map(|before| &before.balancer));
        (Self { usable, pending, refuses, serving, balancer, endpoints }, change)
    }
}

fn priority_levels(backends: &Backends, settings: &model::Upstream, own: &[Candidate]) -> PriorityLevels {
    let mut levels = PriorityLevels::new();
    for (name, backend) in settings.backends.iter().filter(|(name, _)| backends.contain(name)) {
        let group = levels.entry(backend.priority).or_default();
        group.backends.push(name.clone());
        let seen_within = backend.active_check.as_deref().map_or(Duration::ZERO, ActiveCheck::sees_recovery_within);
        // For clients that wait there is then time left to be connected.
        group.seen_within = group.seen_within.max(seen_within).min(settings.connect.deadline / 2);
        group.endpoints += backend.unready;
    }
    for candidate in own {
        let group = levels.entry(priority(settings, candidate)).or_default();
        let usable = usize::from(candidate.endpoint.usable());
        if settings.backends[&candidate.endpoint.key().backend].last_resort {
            group.last_resort += usable;
        } else {
            group.endpoints += 1;
            group.usable += usable;
            group.pending += usize::from(candidate.endpoint.pending_first_check());
        }
    }
    levels
}

fn priority(settings: &model::Upstream, candidate: &Candidate) -> Priority {
    settings.backends[&candidate.endpoint.key().backend].priority
}

fn address_of(key: &EndpointKey) -> (SocketAddr, Option<Arc<str>>) {
    (key.address, key.uid.clone())
}

impl fmt::Debug for Subset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subset")
            .field("upstream", &self.upstream.key)
            .field("backends", &self.backends)
            .finish_non_exhaustive()
    }
}
