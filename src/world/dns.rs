//! DNS names of backends.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use crate::model::ObjectKey;

/// A DNS name to look up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedName {
    pub interval: Duration,
    /// The first few load balancers of each namespace with the name: looking it up counts as one of theirs.
    pub objects: Vec<ObjectKey>,
}

impl WantedName {
    /// The limit for one namespace.
    pub(super) const MAX_OBJECTS: usize = 8;
}

/// The result of looking a DNS name up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lookup {
    /// The last good answer; empty: there was none yet.
    pub addresses: BTreeSet<IpAddr>,
    /// The reason why the latest look-up gave no answer, as a predicate of the name: `cannot be resolved: …`.
    pub problem: Option<Arc<str>>,
}
