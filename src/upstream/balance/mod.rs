//! Which endpoint a connection gets.
//!
//! A [`Balancer`] is built for one set of usable endpoints and never changes; another is built when the set does. What
//! goes on from one to the next (whose turn it is) is outside of it.
//!
//! A new algorithm is one file here and one arm in each `match` below.

mod least_connections;
mod maglev;
mod nearest;
mod power_of_two;
mod random;
mod round_robin;
mod shares;
#[cfg(test)]
mod tests;

use std::{
    net::IpAddr,
    sync::{Arc, atomic::AtomicU64},
};

use self::{
    least_connections::LeastConnections, maglev::Maglev, nearest::Nearest, power_of_two::PowerOfTwo, random::Random,
    round_robin::RoundRobin, shares::Shares,
};
use super::endpoint::{Endpoint, Tried};
use crate::model::{Algorithm, Balancing, Distance, Weight};

/// An endpoint as balancing sees it. Whether it is usable is asked when a balancer is built.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub endpoint: Arc<Endpoint>,
    /// What sticky balancing hashes.
    pub stable_id: Arc<str>,
    pub weight: Weight,
    pub distance: Distance,
}

#[derive(Debug)]
pub(super) enum Balancer {
    RoundRobin(RoundRobin),
    LeastConnections(LeastConnections),
    PowerOfTwo(PowerOfTwo),
    Random(Random),
    Maglev(Maglev),
    Nearest(Box<Nearest>),
}

impl Balancer {
    /// `previous` is the balancer this one replaces: parts of it that stay valid are used again.
    pub fn new(balancing: Balancing, candidates: &[Candidate], previous: Option<&Self>) -> Self {
        // Who is sticky has the same endpoint everywhere.
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

    /// Who gets connections, and how many of all; `None`: whoever got one gets it again.
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

    /// A usable endpoint that was not tried; `None`: there is none. `turn` counts the picks of all workers.
    pub fn pick(&self, client: IpAddr, tried: &Tried, turn: &AtomicU64) -> Option<&Arc<Endpoint>> {
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
