use std::{collections::BTreeSet, fmt, sync::Arc};

use imbl::OrdMap;

use crate::{
    model::ObjectKey,
    printable::printable,
    world::{MAX_PROBLEMS, ObjectIdentity, more_problems},
};

/// Verdicts of one translation by load balancer.
pub type Verdicts = OrdMap<ObjectKey, Verdict>;

/// Problems of one load balancer. Without problems it is served as declared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The file or API object that declares it.
    pub origin: Arc<str>,
    /// Its identity in the API server.
    pub identity: Option<ObjectIdentity>,
    pub problems: Vec<Problem>,
}

impl Verdict {
    /// True if something is not served as declared.
    pub fn refuses(&self) -> bool {
        self.refused().next().is_some()
    }

    /// True if a setting of the managed Service is refused. An existing Service then stays unchanged, and a missing one
    /// is not created.
    pub fn refuses_service(&self) -> bool {
        self.refused().any(|problem| problem.part.is_service())
    }

    /// True if a rule about clients is refused. Listeners then keep their previous rule, which may have another meaning
    /// for clients that connect through a new Service.
    pub fn refuses_rules_about_clients(&self) -> bool {
        self.refused().any(|problem| problem.part.is_client_rule())
    }

    /// True if a reference has no target, or a Service has no matching EndpointSlice. Both happen briefly while these
    /// objects are replaced.
    pub fn has_unresolved_references(&self) -> bool {
        let unresolved = [Reason::RefNotFound, Reason::InvalidCertificateRef, Reason::EndpointsPending];
        self.problems.iter().any(|problem| unresolved.contains(&problem.reason))
    }

    /// Problems because of which something is not served as declared.
    pub fn refused(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(|problem| problem.severity == Severity::Refused)
    }

    /// Drops problems beyond [`MAX_PROBLEMS`], except for the first one of each kind and part of the object, which
    /// conditions depend on.
    pub(super) fn limit(&mut self) {
        if self.problems.len() <= MAX_PROBLEMS {
            return;
        }
        let (mut number, mut seen) = (0, BTreeSet::new());
        let mut left_out = Vec::new();
        self.problems.retain(|problem| {
            number += 1;
            let stays = seen.insert(problem.kind()) || number <= MAX_PROBLEMS;
            if !stays {
                left_out.push(problem.severity);
            }
            stays
        });
        if let Some(severity) = left_out.iter().min() {
            self.problems.push(Problem {
                severity: *severity,
                reason: Reason::Invalid,
                part: Part::Object,
                field: String::new(),
                message: more_problems(left_out.len()),
            });
        }
    }
}

/// One problem and its effect on connections.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub severity: Severity,
    pub reason: Reason,
    pub part: Part,
    /// Path of the field (`spec.listeners[0].tls`), prefixed with its command-line flag if there is one. Empty: the
    /// whole object.
    pub field: String,
    /// A sentence that states the problem, the correction and the fallback.
    pub message: String,
}

/// Limits of displayed field paths and messages, in bytes.
const MAX_FIELD: usize = 512;
const MAX_MESSAGE: usize = 4096;

impl Problem {
    /// The properties that verdicts are queried for.
    fn kind(&self) -> (Severity, Reason, Part) {
        (self.severity, self.reason, self.part.for_queries())
    }
}

/// Text for users. Content written by the object's author is escaped and shortened.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", printable(&self.field, MAX_FIELD))?;
        }
        f.write_str(&printable(&self.message, MAX_MESSAGE))
    }
}

/// The part of a load balancer that a problem concerns. Numbers are indices in the lists of listeners and backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The whole object.
    Object,
    Timeouts,
    TcpKeepalive,
    Drain,
    LoadBalancing,
    HealthCheck,
    Connect,
    Preconnect,
    Rebalance,
    /// The settings of the managed Service.
    Service,
    /// The list of listeners.
    Listeners,
    /// A listener as a whole, which is beyond a quota.
    WholeListener(usize),
    /// A part of a listener that is none of the following.
    Listener(usize),
    ListenerTls(usize),
    /// A rule of a listener about its clients: an access list, or a limit per source.
    ClientRule(usize),
    /// The node port of a listener, a setting of the managed Service.
    NodePort(usize),
    /// The list of backends.
    Backends,
    Backend(usize),
}

impl Part {
    /// True for settings of the managed Service.
    fn is_service(self) -> bool {
        matches!(self, Self::Service | Self::NodePort(_))
    }

    /// True for settings that treat clients by their addresses.
    fn is_client_rule(self) -> bool {
        matches!(self, Self::ClientRule(_) | Self::LoadBalancing)
    }

    /// The listener that contains the part.
    pub fn listener(self) -> Option<usize> {
        match self {
            Self::WholeListener(index)
            | Self::Listener(index)
            | Self::ListenerTls(index)
            | Self::ClientRule(index)
            | Self::NodePort(index) => Some(index),
            Self::Object
            | Self::Timeouts
            | Self::TcpKeepalive
            | Self::Drain
            | Self::LoadBalancing
            | Self::HealthCheck
            | Self::Connect
            | Self::Preconnect
            | Self::Rebalance
            | Self::Service
            | Self::Listeners
            | Self::Backends
            | Self::Backend(_) => None,
        }
    }

    /// The part, without distinctions that only matter for messages.
    fn for_queries(self) -> Self {
        if let Self::ListenerTls(index) = self {
            Self::Listener(index)
        } else if self == Self::Preconnect {
            Self::Connect
        } else {
            self
        }
    }
}

/// The path of the field that contains the part.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = match self {
            Self::Object => "",
            Self::Timeouts => "spec.timeouts",
            Self::TcpKeepalive => "spec.tcpKeepalive",
            Self::Drain => "spec.drain",
            Self::LoadBalancing => "spec.loadBalancing",
            Self::HealthCheck => "spec.healthCheck",
            Self::Connect => "spec.connect",
            Self::Preconnect => "spec.connect.preconnect",
            Self::Rebalance => "spec.rebalance",
            Self::Service => "spec.service",
            Self::Listeners => "spec.listeners",
            Self::Backends => "spec.backends",
            Self::WholeListener(index) | Self::Listener(index) | Self::ClientRule(index) => {
                return write!(f, "spec.listeners[{index}]");
            }
            Self::ListenerTls(index) => return write!(f, "spec.listeners[{index}].tls"),
            Self::NodePort(index) => return write!(f, "spec.listeners[{index}].nodePort"),
            Self::Backend(index) => return write!(f, "spec.backends[{index}]"),
        };
        f.write_str(field)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The declared part is not served, or not as declared.
    Refused,
    /// The declared part is served, but needs attention.
    Warning,
}

/// The class of a problem, named after a Gateway API condition reason where one exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    Invalid,
    RefNotFound,
    InvalidCertificateRef,
    CertificateExpired,
    /// The certificate of an authority has expired, or its list of revoked certificates is too old. Both still count.
    AuthorityExpired,
    PortConflict,
    NameNotResolved,
    NoEndpoints,
    /// No EndpointSlice of a Service matches it yet.
    EndpointsPending,
    /// The pods of a Service are not ready.
    EndpointsNotReady,
    /// The administrator does not allow it.
    NotPermitted,
    /// No port is allocated to it yet.
    Pending,
    /// The node or zone of this process is unknown, or has no endpoint. Other replicas may have a different result.
    UnknownPlace,
    /// It depends on an object that was not read, see [`World::unread`](crate::world::World::unread).
    Unknown,
}
