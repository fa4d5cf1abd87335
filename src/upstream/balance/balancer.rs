use std::{
    net::IpAddr,
    sync::{Arc, atomic::AtomicU64},
};

use super::{
    candidate::Candidate, least_connections::LeastConnections, maglev::Maglev, power_of_two::PowerOfTwo,
    random::Random, round_robin::RoundRobin, shares::Shares,
};
use crate::{
    model::{Algorithm, Balancing, Proximity},
    upstream::endpoint::{Endpoint, TriedEndpoints},
};

#[derive(Debug)]
pub enum Balancer {
    RoundRobin(RoundRobin),
    LeastConnections(LeastConnections),
    PowerOfTwo(PowerOfTwo),
    Random(Random),
    Maglev(Maglev),
    Nearest(Box<Nearest>),
}

impl Balancer {
    /// Builds a balancer. Valid parts of `previous`, the balancer that it replaces, are reused.
    pub fn new(balancing: Balancing, candidates: &[Candidate], previous: Option<&Self>) -> Self {
        // Sticky clients get the same endpoint in every process, whatever its locality.
        if balancing.algorithm != Algorithm::Maglev
            && let Some(nearest) = Nearest::new(balancing, candidates)
        {
            return Self::Nearest(nearest.into());
        }
        let usable = || Shares::of_usable(candidates);
        match balancing.algorithm {
            Algorithm::RoundRobin => Self::RoundRobin(RoundRobin::new(usable())),
            Algorithm::LeastConnections => Self::LeastConnections(LeastConnections::new(usable())),
            Algorithm::PowerOfTwo => Self::PowerOfTwo(PowerOfTwo::new(usable())),
            Algorithm::Random => Self::Random(Random::new(usable())),
            Algorithm::Maglev => {
                let previous = if let Some(Self::Maglev(maglev)) = previous { Some(maglev) } else { None };
                let with_table = !balancing.without_table;
                Self::Maglev(Maglev::new(candidates, balancing.hash_prefix_v6, with_table, previous))
            }
        }
    }

    /// The share of each endpoint in new connections; `None`: a closed connection returns to its endpoint.
    pub fn shares(&self) -> Option<&Shares> {
        match self {
            Self::RoundRobin(balancer) => Some(balancer.shares()),
            Self::LeastConnections(balancer) => Some(balancer.shares()),
            Self::PowerOfTwo(balancer) => Some(balancer.shares()),
            Self::Random(balancer) => Some(balancer.shares()),
            Self::Nearest(balancer) => balancer.near().shares(),
            Self::Maglev(_) => None,
        }
    }

    /// Picks a usable endpoint that was not tried; `None`: there is none. `turn` counts the picks of all workers.
    pub fn pick(&self, client: IpAddr, tried: &TriedEndpoints, turn: &AtomicU64) -> Option<&Arc<Endpoint>> {
        match self {
            Self::RoundRobin(balancer) => balancer.pick(tried, turn),
            Self::LeastConnections(balancer) => balancer.pick(tried, turn),
            Self::PowerOfTwo(balancer) => balancer.pick(tried),
            Self::Random(balancer) => balancer.pick(tried),
            Self::Maglev(balancer) => balancer.pick(client, tried),
            Self::Nearest(balancer) => balancer.pick(client, tried, turn),
        }
    }
}

/// The number of further near endpoints that are tried before a remote one gets the connection.
const MOST_ASKED: usize = 8;

/// Prefers the nearest endpoints; uses remote ones if those are overloaded or were tried.
#[derive(Debug)]
pub struct Nearest {
    near: Balancer,
    farther: Balancer,
    /// The number of connections at which an endpoint is overloaded.
    overloaded_at: u32,
    /// Counts the picks of remote endpoints. With one count for both, a round would skip endpoints.
    turn: AtomicU64,
}

impl Nearest {
    /// `None`: all usable endpoints are equally near.
    pub fn new(balancing: Balancing, candidates: &[Candidate]) -> Option<Self> {
        let usable = || candidates.iter().filter(|candidate| candidate.endpoint.usable());
        let nearest = usable().map(|candidate| candidate.proximity).min()?;
        let is_near = |proximity: Proximity| proximity == nearest;
        let of = |near: bool| -> Vec<_> {
            usable().filter(|candidate| is_near(candidate.proximity) == near).cloned().collect()
        };
        let farther = of(false);
        (!farther.is_empty()).then(|| Self {
            near: Balancer::new(balancing, &of(true), None),
            farther: Balancer::new(balancing, &farther, None),
            overloaded_at: balancing.overloaded_at.map_or(u32::MAX, |limit| limit.get()),
            turn: AtomicU64::new(0),
        })
    }

    /// The balancer of the near endpoints, which get all connections as long as none is overloaded.
    pub fn near(&self) -> &Balancer {
        &self.near
    }

    pub fn pick(&self, client: IpAddr, tried: &TriedEndpoints, turn: &AtomicU64) -> Option<&Arc<Endpoint>> {
        let has_room = |endpoint: &&Arc<Endpoint>| self.has_room(endpoint);
        let near = self.near.pick(client, tried, turn);
        if near.as_ref().is_some_and(has_room) {
            return near;
        }
        if let Some(other) = near.and_then(|full| self.other_with_room(full, client, tried, turn)) {
            return Some(other);
        }
        let farther = self.farther.pick(client, tried, &self.turn);
        match near {
            // If all are overloaded, a remote endpoint is no better.
            Some(near) => farther.filter(has_room).or(Some(near)),
            None => farther,
        }
    }

    /// Picks another near endpoint with room.
    fn other_with_room(
        &self,
        full: &Endpoint,
        client: IpAddr,
        tried: &TriedEndpoints,
        turn: &AtomicU64,
    ) -> Option<&Arc<Endpoint>> {
        let mut tried = tried.clone();
        tried.insert(full);
        for _ in 0..MOST_ASKED {
            let other = self.near.pick(client, &tried, turn)?;
            if self.has_room(other) {
                return Some(other);
            }
            tried.insert(other);
        }
        None
    }

    fn has_room(&self, endpoint: &Endpoint) -> bool {
        endpoint.active() < self.overloaded_at
    }
}
