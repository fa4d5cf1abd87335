//! `bench run`: rounds of every contender in turn, axis by axis.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    axes::{self, AXES, Axis, Field, Round, Stage, Work, change},
    bench::Bench,
    contender::{Contender, OURS, Program},
    count,
    results::{Measured, Results, run_name},
};

/// The selected measurements.
#[derive(Clone, Debug)]
pub struct Plan {
    pub axes: Vec<&'static str>,
    /// The peers in lower case. Empty: all.
    pub contenders: Vec<String>,
    pub rounds: usize,
    pub seconds: f64,
}

/// Measures, and stores the results of each axis after it is done.
pub async fn run(plan: &Plan, results: &Path) -> Result<()> {
    let bench = Bench::prepare()?;
    let run = bench.describe(|program| plan.wants(program));
    let name = run_name();
    for axis in AXES.iter().filter(|axis| plan.axes.contains(&axis.name)) {
        eprintln!("{}: {}", axis.name, axis.what);
        let rounds = match bench.measure(axis, plan).await {
            Ok(rounds) => rounds,
            // A failure does not affect the other axes.
            Err(error) => {
                eprintln!("  not measured: {error:#}");
                continue;
            }
        };
        let measured = Measured { run: name.clone(), seconds: plan.seconds, rounds };
        let mut kept = Results::read(results)?;
        kept.replace(&name, run.clone(), axis.name, measured);
        kept.write(results)?;
    }
    Ok(())
}

/// Counts, and stores the counts.
pub async fn count(contenders: &[String], results: &Path) -> Result<()> {
    let bench = Bench::prepare()?;
    let wants = |program| wants(contenders, program);
    let counts = count::contenders(&bench, run_name(), wants).await?;
    let mut kept = Results::read(results)?;
    kept.replace_counts(bench.describe(wants), counts);
    kept.write(results)
}

impl Contender {
    /// Adds settings that help only this work and cannot be set for a single port.
    fn tuned_for(self, work: Work) -> Self {
        match (self.program, work) {
            (Program::Haproxy(_), Work::Bulk(_)) => {
                Self { arguments: &["-f", concat!(env!("CARGO_MANIFEST_DIR"), "/peers/haproxy-bulk.cfg")], ..self }
            }
            _ => self,
        }
    }
}

impl Bench {
    async fn measure(&self, axis: &Axis, plan: &Plan) -> Result<Vec<BTreeMap<String, Round>>> {
        let contenders = self.entrants(axis.field, plan)?;
        let rate = match axis.work {
            Work::Latency { share, .. } => Some(share * self.best_peak(axis, &contenders, plan).await?),
            _ => None,
        };
        let mut rounds = Vec::new();
        for number in 1..=plan.rounds {
            let mut round = BTreeMap::new();
            for contender in &contenders {
                let result = self.round(axis, contender, rate, plan).await;
                let result = result.unwrap_or_else(|error| Round::failed(&error));
                eprintln!("  {number} {:14} {}", contender.name, summary(&result));
                round.insert(contender.name.to_owned(), result);
            }
            rounds.push(round);
        }
        Ok(rounds)
    }

    /// The highest rate of any peer. Without peers, that of tcplb.
    async fn best_peak(&self, axis: &Axis, contenders: &[Contender], plan: &Plan) -> Result<f64> {
        let (mut best, mut ours) = (None::<f64>, None);
        for contender in contenders {
            let round = self.round(axis, contender, None, plan).await.unwrap_or_else(|error| Round::failed(&error));
            eprintln!("  peak {:14} {}", contender.name, summary(&round));
            let peak = round.figure("rate");
            let kept = if contender.name == OURS { &mut ours } else { &mut best };
            *kept = (*kept).into_iter().chain(peak).reduce(f64::max);
        }
        best.or(ours).context("nobody has answered without errors: there is no peak")
    }

    /// Starts a contender, measures a round, and ends it.
    async fn round(&self, axis: &Axis, contender: &Contender, rate: Option<f64>, plan: &Plan) -> Result<Round> {
        if let Work::Change(many) = axis.work {
            return change::round(contender, many, &self.folder).await;
        }
        let mut running = contender.clone().tuned_for(axis.work).start(&self.folder)?;
        running.ready(&axis.door.client(&self.certificates)?).await?;
        let stage = Stage {
            contender: &running,
            certificates: &self.certificates,
            backends: &self.backends,
            door: axis.door,
            duration: Duration::from_secs_f64(plan.seconds),
        };
        let round = axes::round(axis.work, &stage, rate).await?;
        running.still_runs()?;
        Ok(round)
    }

    fn entrants(&self, field: Field, plan: &Plan) -> Result<Vec<Contender>> {
        let entrants: Vec<_> = match field {
            Field::Everybody => {
                let wanted = Program::ALL.into_iter().filter(|program| plan.wants(*program));
                wanted.filter_map(|program| self.usual(program)).collect()
            }
            Field::Ours(ways) => ways.iter().filter_map(|way| self.ours(way)).collect(),
        };
        ensure!(!entrants.is_empty(), "no contender is left");
        Ok(entrants)
    }
}

impl Plan {
    fn wants(&self, program: Program) -> bool {
        wants(&self.contenders, program)
    }
}

fn wants(contenders: &[String], program: Program) -> bool {
    contenders.is_empty() || contenders.contains(&program.key())
}

fn summary(round: &Round) -> String {
    let figures: Vec<_> = round.figures.iter().map(|(name, value)| format!("{name} {value:.2}")).collect();
    match &round.first_error {
        None => figures.join("  "),
        Some(error) => format!("{} errors: {error}  ({})", round.errors, figures.join("  ")),
    }
}
