use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use crate::{
    model::ObjectKey,
    printable::printable,
    world::{Identity, MAX_PROBLEMS, more_problems},
};

/// What the translation thinks of each load balancer.
pub type Verdicts = BTreeMap<ObjectKey, Verdict>;

/// What the translation thinks of one load balancer. No problem: it is served as declared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Where it is declared.
    pub origin: Arc<str>,
    /// What the API server knows it by.
    pub identity: Option<Identity>,
    pub problems: Vec<Problem>,
}

impl Verdict {
    /// Whether something that was declared is not served as declared.
    pub fn refuses(&self) -> bool {
        self.refused().next().is_some()
    }

    /// Whether something that is asked of the kept Service is refused: it stays as it is, and is not made if there is
    /// none.
    pub fn refuses_service(&self) -> bool {
        self.refused().any(Problem::concerns_service)
    }

    /// Whether a rule about clients is refused: what was served before goes on with the one before, which may mean
    /// something else to those who come through another Service.
    pub fn refuses_rules_about_clients(&self) -> bool {
        self.refused().any(Problem::concerns_rules_about_clients)
    }

    /// True if a reference has no target, or a Service no EndpointSlice that matches it. Both are so for a moment while
    /// these objects are replaced.
    pub fn has_unresolved_references(&self) -> bool {
        let unresolved = [Reason::RefNotFound, Reason::InvalidCertificateRef, Reason::EndpointsPending];
        self.problems.iter().any(|problem| unresolved.contains(&problem.reason))
    }

    /// What is not served as declared.
    pub fn refused(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(|problem| problem.severity == Severity::Refused)
    }

    /// Leaves out problems beyond [`MAX_PROBLEMS`], but for the first one of each kind and part of the object: others go by
    /// these.
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
                field: String::new(),
                message: more_problems(left_out.len()),
            });
        }
    }
}

/// One thing that is wrong, and what it means for those who connect.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub severity: Severity,
    pub reason: Reason,
    /// The field it is about, as a path (`spec.listeners[0].tls`), with the flag it comes from in front if there is one;
    /// empty: the whole object.
    pub field: String,
    /// A sentence that says what is wrong, what to write instead, and what is served meanwhile.
    pub message: String,
}

/// The longest field's path and message that are shown, in bytes.
const MAX_FIELD: usize = 512;
const MAX_MESSAGE: usize = 4096;

impl Problem {
    fn concerns_service(&self) -> bool {
        let field = &*self.field;
        field == "spec.service" || field.starts_with("spec.service.") || field.ends_with(".nodePort")
    }

    fn concerns_rules_about_clients(&self) -> bool {
        const RULES: [&str; 4] = ["access", "maxConnectionsPerSource", "newConnectionsPerSource", "loadBalancing"];
        self.field.split(['.', '[']).any(|part| RULES.contains(&part))
    }

    /// Severity, reason, part of the object (`spec.listeners[0]`), and what else a verdict is asked about.
    fn kind(&self) -> (Severity, Reason, String, bool, bool) {
        let part = self.field.split('.').take(2).collect::<Vec<_>>().join(".");
        (self.severity, self.reason, part, self.concerns_service(), self.concerns_rules_about_clients())
    }
}

/// For people: what the object's author wrote is escaped and bounded.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", printable(&self.field, MAX_FIELD))?;
        }
        f.write_str(&printable(&self.message, MAX_MESSAGE))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something declared is not served, or not as declared.
    Refused,
    /// Served as declared, but somebody should look.
    Warning,
}

/// The class of a problem: Gateway API's condition reasons where it has one.
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
    /// This process is in no place that could be near anything, as far as it knows: others may know better.
    UnknownPlace,
    /// It depends on an object of which nothing is known: see [`World::unread`](crate::world::World::unread).
    Unknown,
}
