use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use jiff::{Timestamp, Unit};

use crate::proxy::{accounting::CloseReason, tls::ClientTls};

/// The access log event of a connection, at its start or end.
#[derive(Clone, Debug)]
pub struct Event {
    pub kind: Kind,
    pub at: SystemTime,
    pub listener: Arc<ListenerLabel>,
    /// The other end of the TCP connection.
    pub peer: SocketAddr,
    /// The client as a PROXY header announced it; otherwise the peer.
    pub client: SocketAddr,
    pub tls: Option<Arc<ClientTls>>,
    pub endpoint: Option<SocketAddr>,
    /// The number of endpoints tried.
    pub attempts: u16,
    pub bytes_to_backend: u64,
    pub bytes_to_client: u64,
    /// The time from choosing the first endpoint to an established connection, including failed attempts.
    pub connect: Option<Duration>,
    pub duration: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Start,
    End(CloseReason),
}

impl Kind {
    pub fn label(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::End(_) => "end",
        }
    }

    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Start => None,
            Self::End(reason) => Some(reason.label()),
        }
    }
}

/// The names of a listener in logs and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerLabel {
    /// `namespace/name:port`.
    pub label: Box<str>,
    pub name: Box<str>,
}

/// A timestamp, to the microsecond.
pub fn timestamp(at: SystemTime) -> Timestamp {
    Timestamp::try_from(at).unwrap_or_default().round(Unit::Microsecond).unwrap_or_default()
}
