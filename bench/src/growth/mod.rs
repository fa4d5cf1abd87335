//! `tcplb-bench growth`: the cost of one change by the number of load balancers, and the cost of one connection by the
//! number of endpoints. A cost that grows with objects that are not involved exceeds its limit.

mod activity;
mod address_block;
mod api_server;
mod certificate;
mod cluster;
mod cpu_clock;
mod http;
mod large_load_balancer;
mod meter;
mod operation;
mod plan;
mod process;
mod standalone;
mod table;
mod testbed;

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use meter::Quantity;
use operation::{OPERATIONS, Operation, TestbedKind};
use plan::GrowthPlan;
use table::{CostTable, OperationCost};
use testbed::Testbed;

use crate::{bench::raise_descriptor_limit, contender::in_path};

/// The settings of `tcplb-bench growth`.
#[derive(Args)]
pub struct GrowthOptions {
    /// The program to measure.
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/tcplb"))]
    tcplb: PathBuf,
    /// The operations. Default: all.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// The numbers of load balancers. The ratio compares the largest number with the smallest.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_values_t = [200, 2000])]
    sizes: Vec<usize>,
    /// The number of endpoints of each load balancer.
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    endpoints: usize,
    /// The number of measured changes. Default: 3, with --clock 15.
    #[arg(long, value_name = "NUMBER")]
    changes: Option<usize>,
    /// Measure CPU time instead of instructions: faster, but it varies.
    #[arg(long)]
    clock: bool,
    /// List the operations instead.
    #[arg(long)]
    list: bool,
}

/// Measures operations, and fails if one exceeds its limit.
pub async fn growth(options: GrowthOptions) -> Result<()> {
    if options.list {
        OPERATIONS.iter().for_each(|operation| println!("{:18} {}", operation.name, operation.what()));
        return Ok(());
    }
    let plan = options.plan()?;
    raise_descriptor_limit()?;
    let mut table = CostTable::new(plan.quantity);
    for testbed in TestbedKind::ALL {
        let operations: Vec<&Operation> =
            plan.operations.iter().filter(|operation| operation.testbed == testbed).collect();
        let sizes = operations.first().map(|operation| operation.sizes(&plan.sizes)).unwrap_or_default();
        for size in sizes {
            measure_all(&plan, &operations, size, &mut table).await;
        }
    }
    println!("{table}");
    let exceeded = table.exceeded();
    ensure!(exceeded.is_empty(), "operations above their limit, or not measured: {}", exceeded.join(", "));
    Ok(())
}

impl GrowthOptions {
    fn plan(&self) -> Result<GrowthPlan> {
        let quantity = if self.clock { Quantity::CpuTime } else { Quantity::Instructions };
        if quantity == Quantity::Instructions {
            in_path("valgrind").context("valgrind is not in PATH: install it, or use --clock")?;
        }
        let is_unknown = |name: &&String| !OPERATIONS.iter().any(|operation| operation.name == **name);
        if let Some(unknown) = self.only.iter().find(is_unknown) {
            bail!("--only: unknown operation `{unknown}`: see --list");
        }
        ensure!(self.sizes.iter().all(|size| *size >= 10), "--sizes: write numbers of at least 10");
        ensure!((2..=20).contains(&self.endpoints), "--endpoints: write a number from 2 to 20");
        let is_chosen =
            |operation: &&Operation| self.only.is_empty() || self.only.iter().any(|name| name == operation.name);
        let changes = self.changes.unwrap_or(if self.clock { 15 } else { 3 });
        Ok(GrowthPlan {
            program: fs::canonicalize(&self.tcplb)
                .with_context(|| format!("{} does not exist: run `cargo build --release`", self.tcplb.display()))?,
            operations: OPERATIONS.iter().filter(is_chosen).copied().collect(),
            sizes: self.sizes.clone(),
            endpoints: self.endpoints,
            changes: changes.max(1),
            quantity,
        })
    }
}

/// Measures operations of one testbed at one size, with one process.
async fn measure_all(plan: &GrowthPlan, operations: &[&Operation], size: usize, table: &mut CostTable) {
    let directory = match TempDir::create() {
        Ok(directory) => directory,
        Err(error) => return eprintln!("cannot create a temporary folder: {error:#}"),
    };
    let Some(first) = operations.first() else { return };
    let started = Instant::now();
    let mut testbed = Testbed::start(plan, first.testbed, size, &directory.path).await;
    eprintln!("{:?} with {size}: started after {:.0} s", first.testbed, started.elapsed().as_secs_f64());
    for operation in operations {
        let cost = match &mut testbed {
            Ok(testbed) => testbed.measure(operation, size, plan).await.map_err(|error| format!("{error:#}")),
            Err(error) => Err(format!("cannot start tcplb: {error:#}")),
        };
        report(operation, size, &cost);
        table.add(operation, size, cost.ok());
    }
    drop(testbed);
    // The servers of the testbed end with their tasks.
    tokio::task::yield_now().await;
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

/// A temporary folder. Dropping it removes the folder.
struct TempDir {
    path: PathBuf,
}

impl TempDir {
    fn create() -> Result<Self> {
        let path = env::temp_dir().join(format!("tcplb-growth-{}", std::process::id()));
        remove(&path);
        fs::create_dir_all(&path)?;
        Ok(Self { path })
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(folder: &Path) {
    // The folder does not exist yet, or the system removes it later.
    let _ = fs::remove_dir_all(folder);
}
