//! What accepted connections are served with.

pub mod routes;

use std::sync::Arc;

use arc_swap::ArcSwap;

use self::routes::Routes;
use super::{access_log::Label, accounting::ListenerCounters, admission::Admission, postgres::Cancels, tls::ServerTls};
use crate::{
    capacity::Share,
    model::{self, ListenerKey},
    upstream::{Subset, Upstream},
};

/// The part of a listener that outlives changes of its configuration.
#[derive(Debug)]
pub struct ListenerState {
    pub key: ListenerKey,
    /// Tells it from every other one of this process, also from an earlier one with the same key.
    pub id: u64,
    pub counters: ListenerCounters,
    pub admission: Arc<Admission>,
    /// The share of its load balancer in the connections that the process has room for.
    pub share: Arc<Share>,
    /// The requests to cancel queries that are under way, those of other listeners among them.
    pub cancels: Arc<Cancels>,
}

/// Everything that a connection is served with, frozen when it is accepted.
#[derive(Debug)]
pub struct ListenerConfig {
    pub listener: Arc<model::Listener>,
    pub label: Arc<Label>,
    pub state: Arc<ListenerState>,
    pub upstream: Arc<Upstream>,
    pub tls_handling: TlsHandling,
}

/// How connections find their endpoints.
#[derive(Debug)]
pub enum TlsHandling {
    Plaintext(Arc<Subset>),
    /// All of them are decrypted, and go to the same endpoints.
    Terminate {
        tls: Arc<ServerTls>,
        subset: Arc<Subset>,
    },
    /// By what the ClientHello says.
    SniRouting {
        tls: Arc<ServerTls>,
        routes: Routes,
    },
}

/// The sockets of one address, whichever listener they serve at the moment.
pub type ListenerSlot = ArcSwap<ListenerConfig>;
