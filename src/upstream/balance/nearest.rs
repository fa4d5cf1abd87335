use std::{
    net::IpAddr,
    sync::{Arc, atomic::AtomicU64},
};

use super::{Balancer, Candidate, Endpoint, Tried};
use crate::model::{Balancing, Distance};

/// How many near ones are asked besides the one whose turn it is, before a farther one gets the connection.
const MOST_ASKED: usize = 8;

/// The nearest ones first; the others where those are overloaded, or were tried.
#[derive(Debug)]
pub struct Nearest {
    near: Balancer,
    farther: Balancer,
    /// An endpoint with so many connections is overloaded.
    overloaded_at: u32,
    /// Of those that are farther. With one count for both, a round would skip those whose turn went to the others.
    turn: AtomicU64,
}

impl Nearest {
    /// `None`: all that are usable are equally far.
    pub fn new(balancing: Balancing, candidates: &[Candidate]) -> Option<Self> {
        let usable = || candidates.iter().filter(|candidate| candidate.endpoint.usable());
        let nearest = usable().map(|candidate| candidate.distance).min()?;
        let is_near = |distance: Distance| distance == nearest;
        let of = |near: bool| -> Vec<_> {
            usable().filter(|candidate| is_near(candidate.distance) == near).cloned().collect()
        };
        let farther = of(false);
        (!farther.is_empty()).then(|| Self {
            near: Balancer::new(balancing, &of(true), None),
            farther: Balancer::new(balancing, &farther, None),
            overloaded_at: balancing.overloaded_at.map_or(u32::MAX, |limit| limit.get()),
            turn: AtomicU64::new(0),
        })
    }

    /// Among whom connections are shared as long as none is overloaded.
    pub fn near(&self) -> &Balancer {
        &self.near
    }

    pub fn pick(&self, client: IpAddr, tried: &Tried, turn: &AtomicU64) -> Option<&Arc<Endpoint>> {
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
            // Where all are overloaded, there is nothing to be gained far away.
            Some(near) => farther.filter(has_room).or(Some(near)),
            None => farther,
        }
    }

    /// Another near one than this.
    fn other_with_room(
        &self,
        full: &Endpoint,
        client: IpAddr,
        tried: &Tried,
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
