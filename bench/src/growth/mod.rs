//! `bench growth`: the cost of one change by the number of load balancers, and the cost of one connection by the number
//! of endpoints. A cost that grows with objects that are not involved exceeds its limit.

mod activity;
mod address_block;
mod api_server;
mod certificate;
mod cluster;
mod cpu_clock;
mod endpoints;
mod http;
mod meter;
mod operation;
mod plan;
mod process;
mod scene;
mod standalone;
mod table;

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use meter::Quantity;
use operation::{OPERATIONS, Operation, Setting};
use plan::Plan;
use scene::Scene;
use table::{Cell, Table};

use crate::{bench::raise_descriptor_limit, contender::in_path};

/// The settings of `bench growth`.
#[derive(Args)]
pub struct Options {
    /// The program to measure.
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/tcplb"))]
    tcplb: PathBuf,
    /// The operations. Default: all.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// The numbers of load balancers. The ratio is that of the last one to the first one.
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
pub async fn growth(options: Options) -> Result<()> {
    if options.list {
        OPERATIONS.iter().for_each(|operation| println!("{:18} {}", operation.name, operation.what()));
        return Ok(());
    }
    let plan = options.plan()?;
    raise_descriptor_limit()?;
    let mut table = Table::new(plan.quantity);
    for setting in Setting::ALL {
        let operations: Vec<&Operation> =
            plan.operations.iter().filter(|operation| operation.setting == setting).collect();
        let sizes = operations.first().map(|operation| operation.sizes(&plan.sizes)).unwrap_or_default();
        for size in sizes {
            measure_all(&plan, &operations, size, &mut table).await;
        }
    }
    println!("{table}");
    let exceeded = table.exceeded();
    ensure!(exceeded.is_empty(), "above the limit, or not measured: {}", exceeded.join(", "));
    Ok(())
}

impl Options {
    fn plan(&self) -> Result<Plan> {
        let quantity = if self.clock { Quantity::CpuTime } else { Quantity::Instructions };
        if quantity == Quantity::Instructions {
            in_path("valgrind").context("there is no valgrind: install valgrind")?;
        }
        let is_known = |name: &&String| !OPERATIONS.iter().any(|operation| operation.name == **name);
        if let Some(unknown) = self.only.iter().find(is_known) {
            bail!("there is no operation `{unknown}`: see --list");
        }
        ensure!(self.sizes.iter().all(|size| *size >= 10), "--sizes: write numbers of at least 10");
        ensure!((2..=20).contains(&self.endpoints), "--endpoints: write a number from 2 to 20");
        let is_chosen =
            |operation: &&Operation| self.only.is_empty() || self.only.iter().any(|name| name == operation.name);
        let changes = self.changes.unwrap_or(if self.clock { 15 } else { 3 });
        Ok(Plan {
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

/// Measures operations of one setting at one size, with one process.
async fn measure_all(plan: &Plan, operations: &[&Operation], size: usize, table: &mut Table) {
    let scratch = match Scratch::create() {
        Ok(scratch) => scratch,
        Err(error) => return eprintln!("no temporary folder can be created: {error:#}"),
    };
    let Some(first) = operations.first() else { return };
    let begun = Instant::now();
    let mut scene = Scene::start(plan, first.setting, size, &scratch.folder).await;
    eprintln!("{:?} with {size}: started after {:.0} s", first.setting, begun.elapsed().as_secs_f64());
    for operation in operations {
        let cell = match &mut scene {
            Ok(scene) => scene.measure(operation, size, plan).await.map_err(|error| format!("{error:#}")),
            Err(error) => Err(format!("tcplb cannot be started: {error:#}")),
        };
        report(operation, size, &cell);
        table.add(operation, size, cell.ok());
    }
    drop(scene);
    // Its servers end with their tasks.
    tokio::task::yield_now().await;
}

fn report(operation: &Operation, size: usize, cell: &Result<Cell, String>) {
    let name = operation.name;
    match cell {
        Ok(Cell { cost, range, effect }) => {
            let [cost, min, max] = [*cost, range[0], range[1]].map(table::count);
            let effect = effect.as_secs_f64() * 1e3;
            eprintln!("{name:18} {size:6} {cost:>15} ({min} to {max}), effect after {effect:.1} ms");
        }
        Err(error) => eprintln!("{name:18} {size:6} cannot be measured: {error}"),
    }
}

/// A temporary folder. Dropping it removes the folder.
struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    fn create() -> Result<Self> {
        let folder = env::temp_dir().join(format!("tcplb-growth-{}", std::process::id()));
        remove(&folder);
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.folder);
    }
}

fn remove(folder: &Path) {
    // It does not exist yet, or the system removes it some time.
    let _ = fs::remove_dir_all(folder);
}
