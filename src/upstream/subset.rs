use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, atomic::AtomicU64},
};

use arc_swap::ArcSwap;
use tracing::{info, warn};

use super::{
    Upstream,
    balance::{Balancer, Candidate},
    endpoint::{ActiveConnection, Endpoint, Tried},
};
use crate::model::{Balancing, EndpointKey};

/// Some of the backends of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backends {
    All,
    /// By name.
    Of(Arc<[Arc<str>]>),
}

impl Backends {
    pub(super) fn have(&self, endpoint: &EndpointKey) -> bool {
        match self {
            Self::All => true,
            Self::Of(names) => names.contains(&endpoint.backend),
        }
    }
}

/// The endpoints of an upstream that are of some of its backends, live: what connections are balanced over. Each subset
/// takes its own turns; what is known of an endpoint is the same in all.
pub struct Subset {
    upstream: Arc<Upstream>,
    backends: Backends,
    current: ArcSwap<Current>,
    /// Counts picks. Not part of `current`, so that a change does not start the round again.
    turn: AtomicU64,
}

/// What connections see; replaced whole.
struct Current {
    usable: usize,
    balancer: Balancer,
}

impl Subset {
    pub(super) fn new(
        upstream: Arc<Upstream>,
        backends: Backends,
        balancing: Balancing,
        candidates: &[Candidate],
    ) -> Self {
        let current = ArcSwap::from_pointee(Current::of(&backends, balancing, candidates, None));
        Self { upstream, backends, current, turn: AtomicU64::new(0) }
    }

    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Chooses a usable endpoint that was not tried, and counts the connection until the answer is dropped. `None`:
    /// there is none (left).
    pub fn pick(&self, client: IpAddr, tried: &Tried) -> Option<ActiveConnection> {
        self.current.load().balancer.pick(client, tried, &self.turn).map(ActiveConnection::begin)
    }

    /// How many endpoints are usable.
    pub fn usable(&self) -> usize {
        self.current.load().usable
    }

    /// All its endpoints, sorted by key.
    pub fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        let all = self.upstream.endpoints();
        all.iter().filter(|endpoint| self.backends.have(endpoint.key())).cloned().collect()
    }

    pub(super) fn backends(&self) -> &Backends {
        &self.backends
    }

    /// Has connections see these candidates of the upstream as they are now.
    pub(super) fn publish(&self, balancing: Balancing, candidates: &[Candidate]) {
        let before = self.current.load_full();
        let current = Current::of(&self.backends, balancing, candidates, Some(&before.balancer));
        if let Backends::Of(backends) = &self.backends {
            match (before.usable, current.usable) {
                (1.., 0) => {
                    let upstream = self.upstream.key();
                    warn!(%upstream, ?backends, "no endpoint of a route is usable, its connections are refused");
                }
                (0, usable @ 1..) => {
                    info!(upstream = %self.upstream.key(), ?backends, usable, "a route's connections are served again");
                }
                _ => {}
            }
        }
        self.current.store(Arc::new(current));
    }
}

impl Current {
    fn of(backends: &Backends, balancing: Balancing, candidates: &[Candidate], before: Option<&Balancer>) -> Self {
        let own: Vec<_> =
            candidates.iter().filter(|candidate| backends.have(candidate.endpoint.key())).cloned().collect();
        Self {
            usable: own.iter().filter(|candidate| candidate.endpoint.usable()).count(),
            balancer: Balancer::new(balancing, &own, before),
        }
    }
}

impl fmt::Debug for Subset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subset")
            .field("upstream", self.upstream.key())
            .field("backends", &self.backends)
            .finish_non_exhaustive()
    }
}
