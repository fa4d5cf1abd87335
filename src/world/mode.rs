//! The placement and location of the process.

use std::{net::IpAddr, sync::Arc};

use super::{allocations::Allocations, tenancy::Tenancy};

/// The placement of the process. It determines the bind addresses of listeners and the permissions of load balancers.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ProcessMode {
    /// On a machine of its own. Listeners bind to their declared addresses, and backends may use any address.
    #[default]
    Standalone,
    /// In an application's pod. Listeners bind to this address, and backends may use any address.
    Sidecar(IpAddr),
    /// In the controller's pods, behind a Service for each load balancer. Listeners bind to their allocated ports.
    Gateway(Arc<Allocations>, Arc<Tenancy>),
    /// On the ports of the nodes.
    Host(Arc<Tenancy>),
}

impl ProcessMode {
    /// The administrator's rules, if several tenants share the process.
    pub fn tenancy(&self) -> Option<&Tenancy> {
        match self {
            Self::Standalone | Self::Sidecar(_) => None,
            Self::Gateway(_, tenancy) | Self::Host(tenancy) => Some(tenancy),
        }
    }

    /// True if backends may use addresses that are not pods.
    pub fn reaches_addresses(&self) -> bool {
        self.tenancy().is_none_or(|tenancy| !tenancy.backend_networks.is_empty())
    }
}

/// The location of a process, as far as known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessLocality {
    pub node: Option<Arc<str>>,
    pub zone: Option<Arc<str>>,
}
