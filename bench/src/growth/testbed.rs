//! A running process with the objects that it serves, and measurements of operations on it.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};

use super::{
    cluster::{Cluster, ClusterPlan, ReplicaRole},
    large_load_balancer::LargeLoadBalancer,
    meter::Quantity,
    operation::{Action, Operation, TestbedKind},
    plan::GrowthPlan,
    process::MeteredProcess,
    standalone::Standalone,
    table::OperationCost,
};
use crate::statistics::Spread;

/// A running process with the objects that it serves.
pub enum Testbed {
    Standalone(Box<Standalone>),
    Cluster(Box<Cluster>),
    LargeLoadBalancer(Box<LargeLoadBalancer>),
}

impl Testbed {
    pub async fn start(plan: &GrowthPlan, kind: TestbedKind, size: usize, folder: &Path) -> Result<Self> {
        let testbed = match kind {
            TestbedKind::Standalone => Self::Standalone(Box::new(Standalone::start(plan, size, folder).await?)),
            TestbedKind::Follower => Self::cluster(plan, ReplicaRole::Follower, size, folder).await?,
            TestbedKind::Leader => Self::cluster(plan, ReplicaRole::Leader, size, folder).await?,
            TestbedKind::LeastConnections => {
                Self::LargeLoadBalancer(Box::new(LargeLoadBalancer::least_connections(plan, size, folder).await?))
            }
            TestbedKind::Probed => {
                Self::LargeLoadBalancer(Box::new(LargeLoadBalancer::probed(plan, size, folder).await?))
            }
        };
        Ok(testbed)
    }

    async fn cluster(plan: &GrowthPlan, role: ReplicaRole, size: usize, folder: &Path) -> Result<Self> {
        let cluster = Cluster::start(ClusterPlan::growing(plan, role, size), plan.quantity, folder).await?;
        Ok(Self::Cluster(Box::new(cluster)))
    }

    /// Measures an operation several times, each after the previous one has ended. The first change fills caches:
    /// instructions are counted until the two smallest counts agree, and the CPU time of the first change is ignored.
    pub async fn measure(&mut self, operation: &Operation, size: usize, plan: &GrowthPlan) -> Result<OperationCost> {
        if operation.action == Action::Failure {
            return self.measure_failure(operation, size).await;
        }
        if plan.quantity == Quantity::CpuTime {
            self.perform(operation.action).await?;
            self.process().settle().await?;
        }
        let repetitions = match (operation.action, plan.quantity) {
            // Equal renderings need equal instructions, and minutes under callgrind.
            (Action::Page(_), Quantity::Instructions) => 1,
            _ => plan.changes,
        };
        let (mut costs, mut effects) = (Vec::new(), Vec::new());
        let min_changes = operation.testbed.min_changes();
        while costs.len() < repetitions && !(plan.quantity == Quantity::Instructions && agree(&costs, min_changes)) {
            let start = self.process().start_measurement().await?;
            let effect = self.perform(operation.action).await?;
            self.process().settle().await?;
            costs.push(self.process().meter.stop(&start).await? / operation.divisor(size));
            effects.push(effect.as_secs_f64());
        }
        let (costs, effects) = (Spread::of(&costs).context("no change")?, Spread::of(&effects).context("no change")?);
        let cost = match plan.quantity {
            // Other work of the process can only add instructions.
            Quantity::Instructions => costs.min,
            Quantity::CpuTime => costs.median,
        };
        Ok(OperationCost { cost, range: [costs.min, costs.max], effect: Duration::from_secs_f64(effects.median) })
    }

    /// Measures a failure, once: the process is never idle, since it probes endpoints.
    async fn measure_failure(&mut self, operation: &Operation, size: usize) -> Result<OperationCost> {
        let start = self.process().start_measurement().await?;
        let effect = self.perform(operation.action).await?;
        let cost = self.process().meter.stop(&start).await? / operation.divisor(size);
        Ok(OperationCost { cost, range: [cost; 2], effect })
    }

    async fn perform(&mut self, action: Action) -> Result<Duration> {
        match self {
            Self::Standalone(standalone) => standalone.perform(action).await,
            Self::Cluster(cluster) => cluster.perform(action).await,
            Self::LargeLoadBalancer(load_balancer) => load_balancer.perform(action).await,
        }
    }

    fn process(&mut self) -> &mut MeteredProcess {
        match self {
            Self::Standalone(standalone) => &mut standalone.process,
            Self::Cluster(cluster) => &mut cluster.process,
            Self::LargeLoadBalancer(load_balancer) => &mut load_balancer.process,
        }
    }
}

/// The maximum difference of counts that agree, as a share.
const TOLERANCE: f64 = 0.05;

/// True if the two smallest of at least `min_changes` costs are almost equal. Other work of the process can only add to
/// a cost.
fn agree(costs: &[f64], min_changes: usize) -> bool {
    let mut sorted = costs.to_vec();
    sorted.sort_by(f64::total_cmp);
    costs.len() >= min_changes && matches!(sorted[..], [first, second, ..] if second <= first * (1.0 + TOLERANCE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_agree_if_the_two_smallest_are_almost_equal() {
        assert!(!agree(&[100.0, 100.0], 3));
        assert!(!agree(&[150.0, 140.0, 100.0], 3));
        assert!(agree(&[150.0, 104.0, 100.0], 3));
        assert!(!agree(&[150.0, 104.0, 100.0], 4));
    }
}
