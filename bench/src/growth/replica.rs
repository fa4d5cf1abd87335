//! `tcplb-bench replica`: the CPU time and the memory of one replica of a controller with many load balancers: its
//! start, while nothing changes, and while endpoints change at a constant rate.

mod rate;
mod report_reader;
mod results;

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use tokio::time::sleep;

use self::{
    rate::change_at_rate,
    report_reader::ReportReader,
    results::{IdleUsage, StartUsage, WriteSummary},
};
use super::{
    cluster::{ClusterPlan, ReplicaRole, SimulatedCluster},
    cpu_clock::cpu_time,
    meter::Quantity,
    process::MeteredProcess,
    temp_dir::TempDir,
};
use crate::{bench::raise_descriptor_limit, cores, measure::ProcessTree};

/// The settings of `tcplb-bench replica`.
#[derive(Args)]
pub struct ReplicaOptions {
    /// The program to measure.
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/tcplb"))]
    tcplb: PathBuf,
    /// The roles of the replica.
    #[arg(long, value_name = "ROLES", value_delimiter = ',', value_enum, default_values_t = ReplicaRole::value_variants().to_vec())]
    roles: Vec<ReplicaRole>,
    /// The number of load balancers.
    #[arg(long, value_name = "NUMBER", default_value_t = 2000)]
    load_balancers: usize,
    /// The number of endpoints of each load balancer.
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    endpoints: usize,
    /// The number of Services with EndpointSlices that no load balancer refers to.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    unreferenced: usize,
    /// The number of endpoint changes per second.
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    rate: u32,
    /// The duration of the measurement without changes, and of the one with changes.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u64,
}

/// Measures replicas, and prints the results.
pub async fn replica(options: ReplicaOptions) -> Result<()> {
    ensure!((2..=20).contains(&options.endpoints), "--endpoints: write a number from 2 to 20");
    ensure!((1..=1000).contains(&options.rate), "--rate: write a number from 1 to 1000");
    // A load balancer that changes again before its former endpoint has left has no new endpoint.
    let minimum = options.rate as usize * 4;
    ensure!(options.load_balancers >= minimum, "--load-balancers: write at least {minimum}, or lower --rate");
    let program = fs::canonicalize(&options.tcplb)
        .with_context(|| format!("{} does not exist: run `cargo build --release`", options.tcplb.display()))?;
    raise_descriptor_limit()?;
    for role in &options.roles {
        let plan = ClusterPlan {
            program: program.clone(),
            role: *role,
            load_balancers: options.load_balancers,
            endpoints: options.endpoints,
            unreferenced: options.unreferenced,
            cores: cores::CONTENDER,
            log: "info,tcplb::proxy::topology=debug",
        };
        measure(plan, &options).await?;
    }
    Ok(())
}

async fn measure(plan: ClusterPlan, options: &ReplicaOptions) -> Result<()> {
    let ClusterPlan { role, load_balancers, endpoints, unreferenced, .. } = plan;
    println!(
        "{role:?}, {load_balancers} load balancers with {endpoints} endpoints, {unreferenced} unreferenced Services"
    );
    let directory = TempDir::create(&format!("replica-{role:?}"))?;
    let cluster = SimulatedCluster::create(plan, &directory.path).await?;
    println!("  first start    {}", start(&cluster).await?.1);
    println!("                 {}", WriteSummary::of(&cluster));
    cluster.api.objects.collections().writes.clear();
    let (mut process, usage) = start(&cluster).await?;
    println!("  second start   {usage}");
    println!("                 {}", WriteSummary::of(&cluster));
    // A leader reads the report of each replica.
    let _reader = (role == ReplicaRole::Follower).then(|| ReportReader::start(process.admin));
    println!("  without change {}", idle(&process, Duration::from_secs(options.seconds)).await?);
    cluster.api.objects.collections().writes.clear();
    let usage = change_at_rate(&cluster, &mut process, options.rate, Duration::from_secs(options.seconds)).await?;
    println!("  changes        {usage}");
    println!("                 {}", WriteSummary::of(&cluster));
    Ok(())
}

/// Starts the replica, and waits until it has finished its work.
async fn start(cluster: &SimulatedCluster) -> Result<(MeteredProcess, StartUsage)> {
    let started = Instant::now();
    let process = cluster.launch(Quantity::CpuTime).await?;
    let ready = started.elapsed();
    process.finish_start().await?;
    let tree = ProcessTree { root: process.id() };
    let usage =
        StartUsage { ready, cpu: cpu_time(process.id())?, memory: tree.memory()?, peak_memory: tree.peak_memory()? };
    Ok((process, usage))
}

async fn idle(process: &MeteredProcess, duration: Duration) -> Result<IdleUsage> {
    let (started, before) = (Instant::now(), cpu_time(process.id())?);
    sleep(duration).await;
    let cpu = cpu_time(process.id())? - before;
    let memory = ProcessTree { root: process.id() }.memory()?;
    Ok(IdleUsage { share: cpu.as_secs_f64() / started.elapsed().as_secs_f64(), memory })
}
