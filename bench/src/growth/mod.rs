//! `tcplb-bench growth`: the cost of one change by the number of load balancers, and the cost of one connection by the
//! number of endpoints. A cost that grows with objects that are not involved exceeds its limit.

mod activity;
mod address_block;
mod api_server;
mod certificate;
mod cluster;
mod cpu_clock;
mod http;
mod job;
mod large_load_balancer;
mod meter;
mod operation;
mod plan;
mod process;
pub mod replica;
mod standalone;
mod table;
mod temp_dir;
mod testbed;

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use meter::Quantity;
use operation::{OPERATIONS, Operation};
use plan::GrowthPlan;

use crate::{bench::raise_descriptor_limit, contender::in_path, cores};

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
    /// The maximum number of measured changes. Instructions are counted until two changes agree. Default: 12, with
    /// --clock 15.
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
    let table = job::measure(&plan).await;
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
        let changes = self.changes.unwrap_or(if self.clock { 15 } else { 12 });
        Ok(GrowthPlan {
            program: fs::canonicalize(&self.tcplb)
                .with_context(|| format!("{} does not exist: run `cargo build --release`", self.tcplb.display()))?,
            operations: OPERATIONS.iter().filter(is_chosen).copied().collect(),
            sizes: self.sizes.clone(),
            endpoints: self.endpoints,
            changes: changes.max(1),
            cores: cores::CONTENDER,
            quantity,
        })
    }
}
