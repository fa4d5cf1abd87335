//! Measurements of all operations, two processes at a time.

use std::{
    cmp::Reverse,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use anyhow::anyhow;

use super::{
    meter::Quantity,
    operation::{Operation, TestbedKind},
    plan::GrowthPlan,
    table::{self, CostTable, OperationCost},
    temp_dir::TempDir,
    testbed::Testbed,
};
use crate::cores;

/// The operations of one testbed at one size, which one process performs.
struct Job {
    testbed: TestbedKind,
    size: usize,
    operations: Vec<Operation>,
}

/// The result of an operation. `None`: it could not be measured.
type OperationResult = (Operation, usize, Option<OperationCost>);

/// Measures all operations. Instructions do not depend on the load of the machine, so two processes are measured at a
/// time, each on its own core.
pub async fn measure(plan: &GrowthPlan) -> CostTable {
    let jobs = Mutex::new(jobs(plan).into_iter());
    let measurements = match plan.quantity {
        Quantity::CpuTime => work_through(plan.clone(), &jobs).await,
        Quantity::Instructions => {
            let other = GrowthPlan { cores: cores::LOAD, ..plan.clone() };
            let (mut first, second) = tokio::join!(work_through(plan.clone(), &jobs), work_through(other, &jobs));
            first.extend(second);
            first
        }
    };
    let mut table = CostTable::new(plan.quantity);
    for operation in &plan.operations {
        for (_, size, cost) in measurements.iter().filter(|(measured, ..)| measured.name == operation.name) {
            table.add(operation, *size, *cost);
        }
    }
    table
}

/// All jobs. The longest are first, so that two queues end at about the same time.
fn jobs(plan: &GrowthPlan) -> Vec<Job> {
    let mut jobs = Vec::new();
    for testbed in TestbedKind::ALL {
        let operations: Vec<Operation> =
            plan.operations.iter().filter(|operation| operation.testbed == testbed).copied().collect();
        let sizes = operations.first().map(|operation| operation.sizes(&plan.sizes)).unwrap_or_default();
        jobs.extend(sizes.into_iter().map(|size| Job { testbed, size, operations: operations.clone() }));
    }
    jobs.sort_by_key(|job| Reverse(job.size));
    jobs
}

/// Runs jobs of the queue, one after another.
async fn work_through(plan: GrowthPlan, jobs: &Mutex<impl Iterator<Item = Job>>) -> Vec<OperationResult> {
    let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
    let mut measurements = Vec::new();
    while let Some(job) = next() {
        measurements.extend(job.run(&plan).await);
    }
    measurements
}

impl Job {
    async fn run(&self, plan: &GrowthPlan) -> Vec<OperationResult> {
        let Self { testbed: kind, size, operations } = self;
        let started = Instant::now();
        let directory = TempDir::create(&format!("{kind:?}-{size}"));
        let mut testbed = match &directory {
            Ok(directory) => Testbed::start(plan, *kind, *size, &directory.path).await,
            Err(error) => Err(anyhow!("cannot create a temporary folder: {error:#}")),
        };
        eprintln!("{kind:?} with {size}: started after {:.0} s", started.elapsed().as_secs_f64());
        let mut measurements = Vec::new();
        for operation in operations {
            let cost = match &mut testbed {
                Ok(testbed) => testbed.measure(operation, *size, plan).await.map_err(|error| format!("{error:#}")),
                Err(error) => Err(format!("cannot start tcplb: {error:#}")),
            };
            report(operation, *size, &cost);
            measurements.push((*operation, *size, cost.ok()));
        }
        drop(testbed);
        // The servers of the testbed end with their tasks.
        tokio::task::yield_now().await;
        eprintln!("{kind:?} with {size}: finished after {:.0} s", started.elapsed().as_secs_f64());
        measurements
    }
}

fn report(operation: &Operation, size: usize, cost: &Result<OperationCost, String>) {
    let name = operation.name;
    match cost {
        Ok(OperationCost { cost, range, effect }) => {
            let [cost, min, max] = [*cost, range[0], range[1]].map(table::count);
            let effect = effect.as_secs_f64() * 1e3;
            eprintln!("{name:18} {size:6} {cost:>15} ({min} to {max}), effect after {effect:.1} ms");
        }
        Err(error) => eprintln!("{name:18} {size:6} cannot be measured: {error}"),
    }
}
