use std::{
    fmt::{self, Display},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use jiff::{Timestamp, Unit};
use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use crate::proxy::{accounting::CloseReason, labeled_enum::labeled_enum, tls::ClientTls};

/// The access log event of a connection, at its start or end.
#[derive(Clone, Debug)]
pub struct Event {
    pub kind: Kind,
    pub at: SystemTime,
    pub id: ConnectionId,
    pub listener: Arc<ListenerLabel>,
    /// The other end of the TCP connection.
    pub peer: SocketAddr,
    /// The client as a PROXY header announced it; otherwise the peer.
    pub client: SocketAddr,
    pub tls: Option<Arc<ClientTls>>,
    /// The route that the server name selected; `None`: none, or the listener has a single route for all clients.
    pub route: Option<Arc<str>>,
    /// The backend of the endpoint.
    pub backend: Option<Arc<str>>,
    pub endpoint: Option<SocketAddr>,
    pub attempts: Attempts,
    pub bytes_to_backend: u64,
    pub bytes_to_client: u64,
    /// The time from choosing the first endpoint to an established connection, including failed attempts.
    pub connect: Option<Duration>,
    pub duration: Duration,
}

impl Event {
    /// A short description without text from outside.
    pub fn message(&self) -> String {
        match self.kind {
            Kind::Start => "connection start".to_owned(),
            Kind::End(reason) => format!("connection end: {}", reason.label()),
        }
    }
}

/// Identifies a connection in its process: its worker, and its number among the worker's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionId {
    pub worker: u16,
    pub number: u64,
}

/// The attempts to connect to endpoints for one client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempts {
    pub count: u16,
    /// In the order of the attempts; at most as many as `connect.attempts` allows, which is 10.
    pub failed: Vec<FailedEndpoint>,
}

/// An endpoint that could not be reached.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FailedEndpoint {
    /// The address of the endpoint.
    #[schemars(with = "String")]
    #[serde(rename = "endpoint")]
    pub address: SocketAddr,
    /// The reason.
    #[schemars(with = "String", extend("enum" = ConnectFault::ALL.map(ConnectFault::label)))]
    #[serde(rename = "reason")]
    pub fault: ConnectFault,
}

labeled_enum! {
    /// The reason why an attempt to connect to an endpoint failed.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum ConnectFault {
        /// The endpoint refused the connection: nothing listens on its port.
        Refused = "refused",
        /// No answer within `connect.timeout`.
        Timeout = "timeout",
        /// `connect.deadline` ended the attempt before `connect.timeout`.
        Deadline = "deadline",
        /// No route to the endpoint.
        Unreachable = "unreachable",
        /// The endpoint reset the connection.
        Reset = "reset",
        /// The TLS handshake with the endpoint failed.
        Tls = "tls",
        /// The TLS handshake with the endpoint did not finish within `connect.timeout`.
        TlsTimeout = "tls_timeout",
        /// This host had no free local port.
        NoLocalPort = "no_local_port",
        /// This host had no file descriptor or memory.
        LocalFailure = "local_failure",
        /// Another error; the endpoint's last failure has it.
        Other = "other",
    }
}

impl Serialize for ConnectFault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
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

    pub fn reason(self) -> Option<CloseReason> {
        match self {
            Self::Start => None,
            Self::End(reason) => Some(reason),
        }
    }

    /// True at the end of a connection that failed.
    pub fn is_failure(self) -> bool {
        self.reason().is_some_and(CloseReason::is_failure)
    }
}

/// A listener as the origin of events.
#[derive(Clone, Debug)]
pub struct ListenerLabel {
    /// `namespace/name:port`.
    pub label: Box<str>,
    /// `namespace/name`.
    pub load_balancer: Box<str>,
    pub name: Box<str>,
}

/// The process that writes the log.
#[derive(Clone, Debug)]
pub struct ProcessIdentity {
    /// The name of the pod or host.
    pub replica: Box<str>,
    /// The time at which the process started, in hexadecimal milliseconds since 1970.
    pub started: Box<str>,
}

impl ProcessIdentity {
    /// A process that starts now.
    pub fn new(replica: &str) -> Self {
        let started = Timestamp::now().as_millisecond();
        Self { replica: replica.into(), started: format!("{started:x}").into() }
    }
}

/// A connection id that is unique together with the replica: `START-WORKER-NUMBER`.
#[derive(Clone, Copy)]
pub struct FullConnectionId<'a> {
    pub process: &'a ProcessIdentity,
    pub id: ConnectionId,
}

impl Display for FullConnectionId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.process.started, self.id.worker, self.id.number)
    }
}

impl Serialize for FullConnectionId<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A timestamp, to the microsecond.
pub fn timestamp(at: SystemTime) -> Timestamp {
    Timestamp::try_from(at).unwrap_or_default().round(Unit::Microsecond).unwrap_or_default()
}

/// A duration in seconds, to the microsecond.
pub fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e6
}
