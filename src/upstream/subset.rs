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
    endpoint::{ActiveConnection, Endpoint, TriedEndpoints},
    priority::{ActivePriority, PriorityChange, PriorityLevels},
    published::Published,
};
use crate::{
    log_limit::LogLimiter,
    model::{self, ActiveCheck, EndpointKey, Priority},
};

/// The time for which waiting clients wait for further endpoints once one is usable. Without it, all of them would
/// connect to the endpoint that was probed first.
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

    /// The candidates with one of these addresses.
    fn at(&self, addresses: &BTreeSet<(SocketAddr, Option<Arc<str>>)>) -> Vec<Candidate> {
        let all = self.0.values().flatten();
        all.filter(|candidate| addresses.contains(&address_of(candidate.endpoint.key()))).cloned().collect()
    }
}

/// The endpoints of some backends of an upstream, which connections are balanced over. Each subset counts its own
/// picks; the state of an endpoint is shared by all subsets.
pub struct Subset {
    upstream: Arc<Published>,
    backends: Backends,
    current: ArcSwap<SubsetState>,
    /// Counts picks. Not part of `current`, so that a change does not restart the round.
    turn: AtomicU64,
    /// Separate from `current`, to wake waiting clients.
    pending: watch::Sender<PendingChecks>,
}

/// The pending first checks of a subset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PendingChecks {
    None,
    /// Further endpoints of the active priority level are pending.
    Others,
    /// Endpoints that decide which level serves are pending: no level is active yet.
    Deciding,
}

/// The state that connections see; replaced as a whole.
struct SubsetState {
    usable: usize,
    pending: PendingChecks,
    /// True if connections were refused when the state was last certain.
    refuses: bool,
    /// The active priority. `None`: pending first checks decide.
    serving: Option<Priority>,
    balancer: Balancer,
    /// All endpoints of the subset, of any priority.
    endpoints: Vec<Arc<Endpoint>>,
}

impl Subset {
    pub(super) fn new(
        upstream: Arc<Published>,
        backends: Backends,
        settings: &model::UpstreamConfig,
        candidates: &Candidates,
        serving: &mut ActivePriority,
    ) -> (Self, Option<PriorityChange>) {
        let (current, change) = SubsetState::of(&backends, settings, candidates, None, serving);
        let pending = watch::Sender::new(current.pending);
        let current = ArcSwap::from_pointee(current);
        (Self { upstream, backends, current, turn: AtomicU64::new(0), pending }, change)
    }

    /// The settings for connecting to its endpoints.
    pub fn connect(&self) -> model::Connect {
        self.upstream.connect()
    }

    /// Limits the warning about failed dials for want of a local resource.
    pub fn local_fault_log(&self) -> &LogLimiter {
        &self.upstream.local_fault_log
    }

    /// Picks a usable endpoint that was not tried, and counts the connection until the result is dropped. `None`: there
    /// is none left.
    pub fn pick(&self, client: IpAddr, tried: &TriedEndpoints) -> Option<ActiveConnection> {
        let current = self.current.load();
        // Usable endpoints may be of an inactive level.
        if current.pending == PendingChecks::Deciding {
            return None;
        }
        current.balancer.pick(client, tried, &self.turn).map(ActiveConnection::begin)
    }

    /// Like [`pick`](Self::pick), for an attempt that may follow others: a retry prefers endpoints whose last attempt,
    /// for any connection, did not fail. Without this preference, when many endpoints have just disappeared (a Service
    /// was scaled down), each attempt would try another dead one.
    pub fn pick_again(&self, client: IpAddr, tried: &TriedEndpoints) -> Option<ActiveConnection> {
        let proven = if tried.is_empty() { None } else { self.pick(client, &tried.with_failing()) };
        proven.or_else(|| self.pick(client, tried))
    }

    /// Waits for pending first checks while they decide which level serves. Returns true if it had to wait.
    pub async fn wait_for_first_checks(&self) -> bool {
        let mut pending = self.pending.subscribe();
        if *pending.borrow() != PendingChecks::Deciding {
            return false;
        }
        // Fails only without a sender, which `self` holds.
        let _ = pending.wait_for(|pending| *pending != PendingChecks::Deciding).await;
        let _ = timeout(OTHERS, pending.wait_for(|pending| *pending == PendingChecks::None)).await;
        true
    }

    /// Ends all waiting: the upstream is removed.
    pub(super) fn retire(&self) {
        self.pending.send_replace(PendingChecks::None);
    }

    /// True if an endpoint is usable, or pending first checks may make one usable.
    pub fn may_serve(&self) -> bool {
        // In this order: pending checks are published last.
        *self.pending.borrow() == PendingChecks::Deciding || self.current.load().usable > 0
    }

    /// Identifies the published state.
    #[cfg(test)]
    pub fn published(&self) -> *const () {
        Arc::as_ptr(&self.current.load()).cast()
    }

    /// The number of usable endpoints.
    #[cfg(test)]
    pub fn usable(&self) -> usize {
        self.current.load().usable
    }

    /// All its endpoints, sorted by key.
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        let all = self.upstream.endpoints();
        all.iter().filter(|endpoint| self.backends.have(endpoint.key())).cloned().collect()
    }

    /// The share of each endpoint in new connections.
    pub(super) fn shares(&self) -> Vec<(Arc<Endpoint>, u64)> {
        let current = self.current.load();
        let shares = current.balancer.shares().into_iter();
        shares.flat_map(|shares| shares.iter().map(|(endpoint, weight)| (endpoint.clone(), weight))).collect()
    }

    pub(super) fn backends(&self) -> &Backends {
        &self.backends
    }

    /// The active priority; without usable endpoints the first one. `None`: undecided, or no endpoints.
    pub(super) fn serving(&self) -> Option<Priority> {
        self.current.load().serving
    }

    /// True if the endpoint's priority is active. `None`: it is not in this subset.
    pub(super) fn is_served_by(&self, endpoint: &Endpoint) -> Option<bool> {
        self.backends.have(endpoint.key()).then(|| self.serving() == Some(endpoint.backend().priority))
    }

    /// True if a preferred priority is active instead of the endpoint's. `None`: it is not in this subset.
    pub(super) fn prefers_others_to(&self, endpoint: &Endpoint) -> Option<bool> {
        let current = self.current.load();
        // Without usable endpoints, no level serves.
        let serving = current.serving.filter(|_| current.usable > 0);
        let preferred = || serving.is_some_and(|serving| serving < endpoint.backend().priority);
        self.backends.have(endpoint.key()).then(preferred)
    }

    /// Publishes the current state of these candidates. Returns a change of the active level.
    pub(super) fn publish(
        &self,
        settings: &model::UpstreamConfig,
        candidates: &Candidates,
        serving: &mut ActivePriority,
    ) -> Option<PriorityChange> {
        let before = self.current.load_full();
        let (current, change) = SubsetState::of(&self.backends, settings, candidates, Some(&before), serving);
        if let Backends::Of(backends) = &self.backends
            && before.refuses != current.refuses
            && self.upstream.service_lines.allow(Instant::now())
        {
            let (upstream, usable) = (&self.upstream.key, current.usable);
            if current.refuses {
                warn!(%upstream, ?backends, "no endpoint of a route is usable: its connections are refused");
            } else {
                info!(%upstream, ?backends, usable, "connections of a route are served again");
            }
        }
        let pending = current.pending;
        self.current.store(Arc::new(current));
        self.pending.send_if_modified(|before| mem::replace(before, pending) != pending);
        change
    }
}

/// Without the subset, other endpoints may drain.
impl Drop for Subset {
    fn drop(&mut self) {
        self.upstream.attention.notify_one();
    }
}

impl SubsetState {
    fn of(
        backends: &Backends,
        settings: &model::UpstreamConfig,
        candidates: &Candidates,
        before: Option<&Self>,
        serving: &mut ActivePriority,
    ) -> (Self, Option<PriorityChange>) {
        let own = match before {
            // Connections in progress may still use their addresses.
            Some(before) if backends.are_renamed(settings) => {
                candidates.at(&before.endpoints.iter().map(|endpoint| address_of(endpoint.key())).collect())
            }
            _ => candidates.of(backends),
        };
        let levels = priority_levels(backends, settings, &own);
        let (serving, change) = serving.settle(&levels, &settings.balancing.failover, Instant::now());
        let may_serve = |candidate: &Candidate| candidate.endpoint.usable() || candidate.endpoint.pending_first_check();
        let too_early_to_tell = serving.is_none() && own.iter().any(may_serve);
        // Without usable endpoints, sticky balancing still keeps its table.
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

fn priority_levels(backends: &Backends, settings: &model::UpstreamConfig, own: &[Candidate]) -> PriorityLevels {
    let mut levels = PriorityLevels::new();
    for (name, backend) in settings.backends.iter().filter(|(name, _)| backends.contain(name)) {
        let group = levels.entry(backend.priority).or_default();
        group.backends.push(name.clone());
        let seen_within = backend.active_check.as_deref().map_or(Duration::ZERO, ActiveCheck::sees_recovery_within);
        // Leave time for waiting clients to connect.
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

fn priority(settings: &model::UpstreamConfig, candidate: &Candidate) -> Priority {
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
