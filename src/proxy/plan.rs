//! What is to be done to the listening sockets.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use super::socket;
use crate::model::{Listener, ListenerKey};

/// The way from the addresses that are open to the listeners that are wanted.
///
/// Sockets belong to addresses: an address that another listener takes over keeps its sockets.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub open: Vec<Opening>,
    /// Addresses that stay open, each with its listener.
    pub keep: Vec<(SocketAddr, ListenerKey)>,
    pub close: Vec<SocketAddr>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Opening {
    pub address: SocketAddr,
    pub listener: ListenerKey,
    /// An address that is open now, or is opened too, competes for the same connections: the sockets must be able to
    /// exist side by side.
    pub overlaps: bool,
}

pub fn plan(open: &BTreeSet<SocketAddr>, wanted: &BTreeMap<ListenerKey, Arc<Listener>>) -> Plan {
    let mut owners = BTreeMap::new();
    for (key, listener) in wanted {
        owners.entry(listener.bind).or_insert(key);
    }
    let mut plan = Plan::default();
    for (&address, &listener) in &owners {
        let listener = listener.clone();
        if open.contains(&address) {
            plan.keep.push((address, listener));
        } else {
            let overlaps = open.iter().any(|other| socket::overlap(*other, address));
            plan.open.push(Opening { address, listener, overlaps });
        }
    }
    plan.close = open.iter().copied().filter(|address| !owners.contains_key(address)).collect();
    plan
}
