use std::{collections::BTreeSet, ops::RangeInclusive};

use crate::{api::Placement, model::ObjectKey};

/// The part of a cluster that this process reads.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The class of load balancers. `None`: any.
    pub class: Option<String>,
    pub placement: Placement,
    /// The namespaces of load balancers. `None`: all.
    pub namespaces: Option<BTreeSet<String>>,
    /// The only load balancer to serve, so that permissions for the objects it refers to are sufficient.
    pub only: Option<ObjectKey>,
    pub home: Option<Home>,
}

/// The controller's own namespace. All of its Services and EndpointSlices are read.
#[derive(Clone, Debug)]
pub struct Home {
    pub namespace: String,
    /// The name of the ConfigMap of allocated ports, and the port range.
    pub allocations: Option<(String, RangeInclusive<u16>)>,
}
