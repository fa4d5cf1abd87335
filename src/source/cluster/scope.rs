use std::{collections::BTreeSet, ops::RangeInclusive};

use crate::{api::Placement, model::ObjectKey};

/// The relevant part of a cluster.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The class of load balancers. `None`: any.
    pub class: Option<String>,
    pub placement: Placement,
    /// The namespaces of load balancers. `None`: all.
    pub namespaces: Option<BTreeSet<String>>,
    /// The one load balancer that matters, so that rights for the objects it refers to are enough.
    pub only: Option<ObjectKey>,
    pub home: Option<Home>,
}

/// The controller's own namespace, all of whose Services and EndpointSlices matter.
#[derive(Clone, Debug)]
pub struct Home {
    pub namespace: String,
    /// The ConfigMap of allocated ports, and their range.
    pub allocations: Option<(String, RangeInclusive<u16>)>,
}
