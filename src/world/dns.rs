//! DNS names of backends.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use crate::model::ObjectKey;

/// How a DNS name is to be looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedName {
    pub interval: Duration,
    /// The first few load balancers of each namespace with the name: looking it up counts as one of theirs.
    pub objects: Vec<ObjectKey>,
}

impl WantedName {
    /// Of one namespace.
    pub(super) const MAX_OBJECTS: usize = 8;
}

/// What is known of a DNS name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lookup {
    /// The last good answer; empty: there was none yet.
    pub addresses: BTreeSet<IpAddr>,
    /// Why the latest look-up gave no answer, as it is said of the name: `cannot be looked up: …`.
    pub problem: Option<Arc<str>>,
}
