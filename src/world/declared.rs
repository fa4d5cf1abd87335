//! Declared load balancers, and the objects that they refer to.

use std::{fmt, path::PathBuf, sync::Arc};

use jiff::Timestamp;

use crate::{
    api::{Host, Placement, RefKind, Reference, TcpLoadBalancerSpec, TcpLoadBalancerStatus},
    model::ObjectKey,
};

/// The origin of load balancers that flags and the environment declare.
pub const COMMAND_LINE: &str = "command line";

/// A declared load balancer.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared {
    /// The latest readable spec. `None`: none since the start.
    pub spec: Option<Arc<TcpLoadBalancerSpec>>,
    /// The reasons why the current text cannot be read, each a sentence that names the field. Empty if `spec` is the
    /// current text.
    pub problems: Vec<String>,
    /// The paths of fields in the text of `spec` that are present without a value (`tls:`), which are ignored. The API
    /// server removes them from its objects.
    pub without_value: Vec<String>,
    /// The origin of the declaration in messages: a file, or [`COMMAND_LINE`].
    pub origin: Arc<str>,
    /// The base of relative paths.
    pub folder: PathBuf,
    /// The identity in the API server. `None`: the load balancer has another source.
    pub identity: Option<ObjectIdentity>,
    /// The current status.
    pub status: Option<Arc<TcpLoadBalancerStatus>>,
}

impl Declared {
    /// The uid from the API server.
    pub fn uid(&self) -> Option<&str> {
        self.identity.as_ref().map(|identity| &*identity.uid)
    }

    /// True if sidecars serve it.
    pub fn is_in_pods(&self) -> bool {
        self.spec.as_ref().is_some_and(|spec| spec.placement == Some(Placement::Sidecar))
    }

    /// True if a backend has a DNS name.
    pub fn has_names(&self) -> bool {
        let backends = self.spec.iter().flat_map(|spec| &spec.backends);
        let mut addresses = backends.flat_map(|backend| backend.addresses.iter().flatten());
        addresses.any(|address| matches!(address.host, Host::Name(_)))
    }

    /// The path of a file that the manifest names. It is the key in [`World::files`](super::World::files).
    pub fn path_of(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }
}

/// The identity of an object in the API server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectIdentity {
    pub created: Timestamp,
    pub uid: Arc<str>,
    /// A counter of changes of the spec. It belongs to the current text, readable or not.
    pub generation: i64,
}

/// An object with certificates or passwords that load balancers refer to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectRef {
    pub kind: RefKind,
    pub key: ObjectKey,
}

impl ObjectRef {
    /// An object in the namespace of a load balancer.
    pub fn by(object: &ObjectKey, Reference { kind, name }: Reference) -> Self {
        Self { kind, key: object.sibling(name) }
    }

    /// The Secrets and ConfigMaps that a load balancer refers to, some of them several times.
    pub fn all_by(object: &ObjectKey, spec: &TcpLoadBalancerSpec) -> impl Iterator<Item = Self> {
        spec.references().map(|reference| Self::by(object, reference))
    }
}

/// The Services that a load balancer refers to, some of them several times.
pub fn backend_services(object: &ObjectKey, spec: &TcpLoadBalancerSpec) -> impl Iterator<Item = ObjectKey> + Clone {
    let services = spec.backends.iter().filter_map(|backend| backend.service.as_ref());
    services.map(|service| object.sibling(&service.name.0))
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.key)
    }
}
