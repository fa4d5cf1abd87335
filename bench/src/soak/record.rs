//! The result of a client connection.

use std::{fmt, net::SocketAddr, sync::Arc, time::Instant};

use super::{balancer::LoadBalancer, timeline::Incarnation};

/// The behavior of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ClientKind {
    /// A few messages, then a clean end.
    Short,
    /// Like [`Self::Short`], but the client resets the connection.
    Reset,
    /// One byte at random intervals, for a limited time.
    Long,
    /// One byte at random intervals, until the run ends.
    Permanent,
    /// Much data in both directions at once.
    Bulk,
}

impl fmt::Display for ClientKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Short => "short",
            Self::Reset => "reset",
            Self::Long => "long",
            Self::Permanent => "permanent",
            Self::Bulk => "bulk",
        })
    }
}

/// A client connection from its start to its end.
#[derive(Clone)]
pub struct ClientRecord {
    pub balancer: Arc<LoadBalancer>,
    pub kind: ClientKind,
    pub opened: Instant,
    pub ended: Instant,
    /// The client's address.
    pub local: SocketAddr,
    /// The version of the certificate. `None`: without TLS, or a resumed session.
    pub certificate: Option<usize>,
    pub backend: Option<Incarnation>,
    /// Bytes sent to the backend.
    pub sent: u64,
    /// Bytes from the backend, including its first line.
    pub received: u64,
    pub end: ClientEnd,
}

/// The end of a connection, as its client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEnd {
    /// All data arrived, and both directions ended cleanly.
    Complete,
    /// The client reset the connection.
    Reset,
    /// The TCP connection was refused, so tcplb cannot have accepted it.
    Refused,
    /// The connection ended or failed early.
    Failed(String),
    /// Other bytes arrived than were expected.
    Corrupt(String),
}

impl ClientRecord {
    pub fn begin(balancer: Arc<LoadBalancer>, kind: ClientKind, local: SocketAddr) -> Self {
        let now = Instant::now();
        Self {
            balancer,
            kind,
            opened: now,
            ended: now,
            local,
            certificate: None,
            backend: None,
            sent: 0,
            received: 0,
            end: ClientEnd::Refused,
        }
    }
}
