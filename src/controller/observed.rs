use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use crate::{model::ObjectKey, translate::Verdicts, world::World};

/// The world and the verdicts of this replica at one moment.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub world: Arc<World>,
    pub verdicts: Arc<Verdicts>,
}

/// The problems of load balancers.
pub type ProvisioningProblems = BTreeMap<ObjectKey, ProvisioningProblem>;

/// The reason why a load balancer does not have its ports or its Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProvisioningProblem {
    /// The range has no free port for these listeners; the others are served.
    NoFreePort {
        listeners: BTreeSet<u16>,
        sentence: String,
    },
    /// The allocations of these listeners cannot be written; the others are served.
    AllocationFailed {
        listeners: BTreeSet<u16>,
        sentence: String,
    },
    ServiceNotWritten(String),
}

impl fmt::Display for ProvisioningProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFreePort { sentence, .. }
            | Self::AllocationFailed { sentence, .. }
            | Self::ServiceNotWritten(sentence) => f.write_str(sentence),
        }
    }
}
