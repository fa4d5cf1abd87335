//! Load balancers as they are declared, and what they refer to.

use std::{fmt, path::PathBuf, sync::Arc};

use jiff::Timestamp;

use crate::{
    api::{RefKind, Reference, TcpLoadBalancerSpec, TcpLoadBalancerStatus},
    model::ObjectKey,
};

/// The origin of what flags and the environment declare.
pub const COMMAND_LINE: &str = "command line";

/// A load balancer as it is declared.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared {
    /// The latest that could be read. `None`: none could since the start.
    pub spec: Option<Arc<TcpLoadBalancerSpec>>,
    /// The reasons why the present text cannot be read, each a sentence that names the field; empty when `spec` is the
    /// present text.
    pub problems: Vec<String>,
    /// The origin of the declaration in messages: a file, or [`COMMAND_LINE`].
    pub origin: Arc<str>,
    /// The base of relative paths.
    pub folder: PathBuf,
    /// The identity in the API server. `None`: it does not come from there.
    pub identity: Option<Identity>,
    /// The present status.
    pub status: Option<Arc<TcpLoadBalancerStatus>>,
}

impl Declared {
    /// The uid that the API server gave it.
    pub fn uid(&self) -> Option<&str> {
        self.identity.as_ref().map(|identity| &*identity.uid)
    }

    /// The path of a file that the manifest names: its key in [`World::files`](super::World::files).
    pub fn path_of(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }
}

/// The identity of an object in the API server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    pub created: Timestamp,
    pub uid: Arc<str>,
    /// Counts changes of the spec; that of the present text, whether it can be read or not.
    pub generation: i64,
}

/// An object with certificates that load balancers refer to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Referred {
    pub kind: RefKind,
    pub key: ObjectKey,
}

impl Referred {
    /// An object in the namespace of a load balancer.
    pub fn by(object: &ObjectKey, Reference { kind, name }: Reference) -> Self {
        Self { kind, key: ObjectKey { namespace: object.namespace.clone(), name: name.into() } }
    }
}

impl fmt::Display for Referred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.key)
    }
}
