//! tcplb beside HAProxy, nginx and Envoy at the same work. See README.md here.

mod axes;
mod backend;
mod bench;
mod chart;
mod contender;
mod cores;
mod count;
mod load;
mod machine;
mod measure;
mod report;
mod results;
mod run;
mod show;
mod statistics;
mod svg;

use std::{path::PathBuf, process::ExitCode};

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
#[command(name = "bench", about = "Measures tcplb beside HAProxy, nginx and Envoy", max_term_width = 120)]
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
        /// Only these contenders: tcplb, haproxy, nginx, envoy.
        #[arg(long, value_name = "NAMES", value_delimiter = ',')]
        contenders: Vec<String>,
        /// Where results are kept.
        #[arg(long, value_name = "FILE", default_value = RESULTS)]
        out: PathBuf,
    },
    /// Count for tcplb alone, and fail if it is more than in the baseline.
    Smoke {
        #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/baseline.json"))]
        baseline: PathBuf,
        /// Write the baseline instead.
        #[arg(long)]
        update: bool,
    },
    /// Show what policies do over a while: draw pictures of runs, print their figures, and fail where these are wrong.
    Show {
        /// Only these.
        #[arg(value_enum, default_values_t = Picture::value_variants().to_vec())]
        pictures: Vec<Picture>,
        /// Draw nothing.
        #[arg(long)]
        check: bool,
        /// The program that is shown.
        #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/release/tcplb"))]
        program: PathBuf,
        /// Where the picture is put.
        #[arg(long, value_name = "FOLDER", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs"))]
        docs: PathBuf,
    },
    /// Print the table of results, draw the plot beside them, and put the table into a document.
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
    /// Only these axes, or those that begin so: `rr` is rr-32, rr-256 and rr-2000.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    axes: Vec<String>,
    /// Only these contenders: tcplb, haproxy, nginx, envoy.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    contenders: Vec<String>,
    #[arg(long, value_name = "NUMBER", default_value_t = 5)]
    rounds: usize,
    /// How long each round measures.
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    seconds: f64,
    /// Where results are kept. Axes that are not measured now stay as they are there.
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
        Command::Show { pictures, check, program, docs } => {
            on_the_loads_core(show::show(&pictures, &program, (!check).then_some(&*docs)))
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

/// Everything but the contenders is one thread. An interrupt ends what was started, too.
fn on_the_loads_core(work: impl Future<Output = Result<()>>) -> Result<()> {
    cores::pin(cores::LOAD)?;
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
    let known: Vec<_> = Program::ALL.iter().map(|program| program.name().to_lowercase()).collect();
    match names.iter().find(|name| !known.contains(&name.to_lowercase())) {
        Some(unknown) => bail!("there is no contender `{unknown}`: they are {}", known.join(", ")),
        None => Ok(names.iter().map(|name| name.to_lowercase()).collect()),
    }
}
