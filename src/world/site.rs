//! The place of the process.

use std::{net::IpAddr, sync::Arc};

use super::{allocations::Allocations, tenancy::Tenancy};

/// The placement of the process, which decides where listeners are bound and what load balancers may do.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Site {
    /// On a machine of its own: listeners are bound as declared, and every address may be reached.
    #[default]
    Standalone,
    /// In an application's pod: listeners are bound to this address, and every address may be reached.
    Sidecar(IpAddr),
    /// In the controller's pods, behind a Service for each load balancer: listeners are bound to the ports allocated to
    /// them.
    Gateway(Arc<Allocations>, Arc<Tenancy>),
    /// On the nodes' own ports.
    Host(Arc<Tenancy>),
}

impl Site {
    /// The administrator's rules, where load balancers are many people's.
    pub fn tenancy(&self) -> Option<&Tenancy> {
        match self {
            Self::Standalone | Self::Sidecar(_) => None,
            Self::Gateway(_, tenancy) | Self::Host(tenancy) => Some(tenancy),
        }
    }

    /// True if backends may be something else than pods.
    pub fn reaches_addresses(&self) -> bool {
        self.tenancy().is_none_or(|tenancy| !tenancy.backend_networks.is_empty())
    }
}

/// The location of a process, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub node: Option<Arc<str>>,
    pub zone: Option<Arc<str>>,
}
