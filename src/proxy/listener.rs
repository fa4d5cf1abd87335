//! Listeners: the configuration and the state that serve accepted connections.

pub mod routes;

use std::sync::Arc;

use arc_swap::ArcSwap;

use self::routes::Routes;
use super::{
    access_log::{ListenerLabel, QueuedEvents},
    accounting::ListenerCounters,
    admission::Admission,
    postgres::Cancels,
    stream::{handshake_memory::HandshakeShare, relay_memory::RelayShare},
    tls::ServerTls,
};
use crate::{
    capacity::Share,
    log_limit::LogLimiter,
    model::{self, ListenerKey},
    upstream::{Subset, Upstream},
};

/// The part of a listener that outlives changes of its configuration.
#[derive(Debug)]
pub struct ListenerState {
    pub key: ListenerKey,
    /// Unique in this process, also among earlier listeners with the same key.
    pub id: u64,
    pub counters: ListenerCounters,
    pub admission: Arc<Admission>,
    /// The share of its load balancer in the process's connections.
    pub share: Arc<Share>,
    /// The handshake memory of its load balancer.
    pub handshakes: Arc<HandshakeShare>,
    /// The relay memory of its load balancer.
    pub relay_memory: Arc<RelayShare>,
    /// The events of its load balancer in the queue of the access log.
    pub queued_events: Arc<QueuedEvents>,
    /// Limits the warning about refusals because the process is full.
    pub process_full_log: LogLimiter,
    /// The requests to cancel queries that are in progress, of all listeners.
    pub cancels: Arc<Cancels>,
}

/// The configuration of a connection, frozen when it is accepted.
#[derive(Debug)]
pub struct ListenerConfig {
    pub listener: Arc<model::Listener>,
    pub label: Arc<ListenerLabel>,
    pub state: Arc<ListenerState>,
    pub upstream: Arc<Upstream>,
    pub tls_handling: TlsHandling,
}

/// The treatment of TLS, and the endpoints that connections go to.
#[derive(Debug)]
pub enum TlsHandling {
    Plaintext(Arc<Subset>),
    /// All connections are decrypted, and go to the same endpoints.
    Terminate {
        tls: Arc<ServerTls>,
        subset: Arc<Subset>,
    },
    /// The server name in the ClientHello selects a route.
    SniRouting {
        tls: Arc<ServerTls>,
        routes: Routes,
    },
}

/// The current configuration of the sockets of one address.
pub type ListenerSlot = ArcSwap<ListenerConfig>;
