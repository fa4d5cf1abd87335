//! DNS names of backends.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use crate::model::ObjectKey;

/// A DNS name to look up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedName {
    pub interval: Duration,
    /// The first load balancers of each namespace with the name. A lookup counts against one of them.
    pub objects: Vec<ObjectKey>,
}

impl WantedName {
    /// The maximum number of load balancers for one namespace.
    pub(super) const MAX_OBJECTS: usize = 8;
}

/// The result of a DNS lookup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lookup {
    /// The addresses of the last good answers. Empty: no answer yet.
    pub addresses: BTreeSet<IpAddr>,
    /// True if the last good answers had more than [`Self::MAX_ADDRESSES`] together.
    pub is_truncated: bool,
    /// The reason why the latest lookup failed, as a predicate of the name: `cannot be resolved: …`.
    pub problem: Option<Arc<str>>,
}

impl Lookup {
    /// The maximum number of addresses of a name that are used.
    pub const MAX_ADDRESSES: usize = 256;
}
