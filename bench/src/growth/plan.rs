//! The settings of a run.

use std::path::PathBuf;

use super::{meter::Quantity, operation::Operation};

/// The settings of a run.
#[derive(Clone)]
pub struct GrowthPlan {
    pub program: PathBuf,
    pub operations: Vec<Operation>,
    /// The numbers of load balancers.
    pub sizes: Vec<usize>,
    /// The number of endpoints of each load balancer.
    pub endpoints: usize,
    /// The maximum number of measured changes.
    pub changes: usize,
    /// The cores of measured processes.
    pub cores: &'static [usize],
    pub quantity: Quantity,
}
