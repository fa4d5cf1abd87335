//! Benchmarks of tcplb, HAProxy, nginx, Envoy and Traefik with the same work. See README.md here.

#![expect(clippy::print_stderr, clippy::print_stdout, reason = "progress and results go to the terminal")]
#![expect(clippy::unwrap_used, reason = "a poisoned lock or a wrong assumption ends the measurement")]

mod axes;
mod backend;
mod bench;
mod chart;
mod contender;
mod cores;
mod count;
mod growth;
mod load;
mod machine;
mod measure;
mod report;
mod results;
mod run;
mod show;
mod soak;
mod statistics;
mod svg;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Result, bail};
use axes::AXES;
use bench::Bench;
use clap::{Args, Parser, Subcommand, ValueEnum};
use contender::Program;
use count::{Purpose, smoke};
use run::Plan;
use show::Picture;
use tokio::runtime;

#[derive(Parser)]
#[command(name = "bench", about = "Measures tcplb beside HAProxy, nginx, Envoy and Traefik", max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure: rounds of all contenders in turn, axis by axis.
    Run(Measure),
    /// Count the instructions and system calls of one operation, for every contender.
    Count {
        /// The contenders: tcplb, haproxy, haproxy-aws-lc, nginx, nginx-aws-lc, envoy, traefik. Default: all.
        #[arg(long, value_name = "NAMES", value_delimiter = ',')]
        contenders: Vec<String>,
        /// The file of the results.
        #[arg(long, value_name = "FILE", default_value = RESULTS)]
        out: PathBuf,
    },
    /// Count for tcplb only, and fail if the counts exceed the baseline.
    Smoke {
        #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/baseline.json"))]
        baseline: PathBuf,
        /// Write the baseline instead.
        #[arg(long)]
        update: bool,
    },
    /// Measure how the cost of a change grows with the number of load balancers, and fail if it exceeds a limit.
    Growth(growth::GrowthOptions),
    /// Measure the CPU time and the memory of a controller with many load balancers: its start, while nothing changes, and
    /// while endpoints change at a constant rate.
    Replica(growth::replica::ReplicaOptions),
    /// Show policies over time: draw charts of runs, print their figures, and fail if figures are out of range.
    Show {
        /// The charts. Default: all.
        #[arg(value_enum, default_values_t = Picture::value_variants().to_vec())]
        pictures: Vec<Picture>,
        /// Draw no charts.
        #[arg(long)]
        check: bool,
        /// The program to run.
        #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/tcplb"))]
        program: PathBuf,
        /// The folder for the charts.
        #[arg(long, value_name = "FOLDER", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs"))]
        docs: PathBuf,
    },
    /// Run clients of all kinds for minutes while backends are killed, files are edited and processes are replaced. Fail
    /// if a connection is lost that could have survived, or if memory, descriptors or threads grow.
    Soak {
        #[arg(long, value_name = "NUMBER", default_value_t = 10.0)]
        minutes: f64,
        /// The seed of the random decisions, as printed by an earlier run. Default: a new one.
        #[arg(long, value_name = "NUMBER")]
        seed: Option<u64>,
        /// The program to run.
        #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/tcplb"))]
        program: PathBuf,
    },
    /// Print the table of results, write the plot to the same folder, and insert the table into a document.
    Report {
        #[arg(default_value = RESULTS)]
        results: PathBuf,
        #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/performance.md"))]
        document: PathBuf,
    },
}

const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/results/results.json");

#[derive(Args)]
struct Measure {
    /// The axes, by name or prefix: `rr` selects rr-32, rr-256 and rr-2000. Default: all.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    axes: Vec<String>,
    /// The contenders: tcplb, haproxy, haproxy-aws-lc, nginx, nginx-aws-lc, envoy, traefik. Default: all.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    contenders: Vec<String>,
    #[arg(long, value_name = "NUMBER", default_value_t = 5)]
    rounds: usize,
    /// The duration of the measurement in each round.
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    seconds: f64,
    /// The file of the results. Axes that are not measured keep their results.
    #[arg(long, value_name = "FILE", default_value = RESULTS)]
    out: PathBuf,
    /// List the axes instead.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    match run_command(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_command(command: Command) -> Result<()> {
    match command {
        Command::Run(measure) => measure.run(),
        Command::Count { contenders, out } => {
            let contenders = chosen_contenders(&contenders)?;
            on_the_loads_core(run::count(&contenders, &out))
        }
        Command::Smoke { baseline, update } => {
            let purpose = if update { Purpose::Update } else { Purpose::Compare };
            on_the_loads_core(async { smoke(&Bench::prepare()?, &baseline, purpose).await })
        }
        Command::Growth(options) => on_the_loads_core(growth::growth(options)),
        Command::Replica(options) => on_the_loads_core(growth::replica::replica(options)),
        Command::Show { pictures, check, program, docs } => {
            on_the_loads_core(show::show(&pictures, &program, (!check).then_some(&*docs)))
        }
        Command::Soak { minutes, seed, program } => {
            let duration = Duration::try_from_secs_f64(minutes * 60.0)?;
            on_one_thread(soak::run(soak::SoakOptions { program, duration, seed }))
        }
        Command::Report { results, document } => {
            println!("{}", report::write(&results, &document)?);
            Ok(())
        }
    }
}

impl Measure {
    fn run(self) -> Result<()> {
        let plan = Plan {
            axes: chosen_axes(&self.axes)?,
            contenders: chosen_contenders(&self.contenders)?,
            rounds: self.rounds,
            seconds: self.seconds,
        };
        if self.list {
            AXES.iter()
                .filter(|axis| plan.axes.contains(&axis.name))
                .for_each(|axis| println!("{:14} {}", axis.name, axis.what));
            return Ok(());
        }
        on_the_loads_core(run::run(&plan, &self.out))?;
        println!("{}", report::of(&self.out)?);
        Ok(())
    }
}

/// Everything except the contenders runs on one thread, on its own core.
fn on_the_loads_core(work: impl Future<Output = Result<()>>) -> Result<()> {
    cores::pin(cores::LOAD)?;
    on_one_thread(work)
}

/// An interrupt also ends the started processes.
fn on_one_thread(work: impl Future<Output = Result<()>>) -> Result<()> {
    runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        tokio::select! {
            result = work => result,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    })
}

fn chosen_axes(names: &[String]) -> Result<Vec<&'static str>> {
    let mut chosen = Vec::new();
    for name in names {
        let is_meant =
            |axis: &str| axis == name || axis.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('-'));
        let meant: Vec<_> = AXES.iter().map(|axis| axis.name).filter(|axis| is_meant(axis)).collect();
        if meant.is_empty() {
            bail!("there is no axis `{name}`: see --list");
        }
        chosen.extend(meant);
    }
    Ok(if names.is_empty() { AXES.iter().map(|axis| axis.name).collect() } else { chosen })
}

fn chosen_contenders(names: &[String]) -> Result<Vec<String>> {
    let programs: Vec<_> = Program::ALL.iter().map(|program| program.key()).collect();
    match names.iter().find(|name| !programs.contains(&name.to_lowercase())) {
        Some(unknown) => bail!("there is no contender `{unknown}`: they are {}", programs.join(", ")),
        None => Ok(names.iter().map(|name| name.to_lowercase()).collect()),
    }
}
