//! `bench smoke`: the cost of one operation of tcplb, compared with a committed baseline.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{counter::Counter, operation::count, work::WORKS};
use crate::{
    bench::Bench,
    contender::{Contender, Program, in_path},
};

/// The counts of one operation, by work and counter.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Baseline(BTreeMap<String, BTreeMap<String, f64>>);

/// The permitted difference between toolchains and kernels.
fn tolerance(counter: Counter, expected: f64) -> f64 {
    match counter {
        Counter::Instructions => expected * 0.1,
        Counter::SystemCalls => 0.2,
    }
}

/// The number of counts, the least of which is compared. Other programs can only add system calls: the slower the work,
/// the more of those that depend on the time, such as the writes of the access log.
fn repetitions(counter: Counter) -> u32 {
    match counter {
        Counter::Instructions => 1,
        Counter::SystemCalls => 3,
    }
}

/// The use of the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Compare,
    Update,
}

pub async fn smoke(bench: &Bench, baseline: &Path, purpose: Purpose) -> Result<()> {
    let now = Baseline::count(bench).await?;
    if purpose == Purpose::Update {
        fs::write(baseline, serde_json::to_string_pretty(&now)? + "\n")?;
        return Ok(());
    }
    let text = fs::read_to_string(baseline).with_context(|| format!("{} cannot be read", baseline.display()))?;
    let expected: Baseline = serde_json::from_str(&text)?;
    let worse = now.compare(&expected);
    if worse.is_empty() {
        return Ok(());
    }
    bail!("{}. If that is meant, `make bench-smoke UPDATE=1` writes it down, to be committed", worse.join("; "))
}

impl Baseline {
    async fn count(bench: &Bench) -> Result<Self> {
        let ours = bench.usual(Program::Tcplb).context("tcplb is not built")?;
        let ours = Contender { configuration: "tcplb/quiet.yaml", ..ours };
        let mut now = Self::default();
        for counter in Counter::ALL {
            in_path(counter.program()).with_context(|| format!("there is no {0}: install {0}", counter.program()))?;
            for work in &WORKS {
                let mut least = f64::INFINITY;
                for _ in 0..repetitions(counter) {
                    least = least.min(count(bench, counter, work, &ours).await?.each);
                }
                println!("{:22} {least:10.1} {}", work.name, counter.name());
                now.0.entry(work.name.into()).or_default().insert(counter.name().into(), least);
            }
        }
        Ok(now)
    }

    /// The counts that are worse than the baseline or missing in it. Better counts are printed.
    fn compare(&self, expected: &Self) -> Vec<String> {
        let mut worse = Vec::new();
        for work in &WORKS {
            for counter in Counter::ALL {
                let of = |baseline: &Self| baseline.0.get(work.name)?.get(counter.name()).copied();
                let (now, expected) = (of(self), of(expected));
                let what = format!("{} of one {}", counter.name(), work.name);
                match (now, expected) {
                    (Some(now), Some(expected)) if now > expected + tolerance(counter, expected) => {
                        worse.push(format!("{what}: {now:.1}, and {expected:.1} before"));
                    }
                    (Some(now), Some(expected)) if now < expected - tolerance(counter, expected) => {
                        println!(
                            "{what}: {now:.1}, and {expected:.1} before: better; `make bench-smoke UPDATE=1` holds it"
                        );
                    }
                    (Some(now), None) => worse.push(format!("{what}: {now:.1}, and nothing to compare it with")),
                    _ => {}
                }
            }
        }
        worse
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline(instructions: f64, calls: f64) -> Baseline {
        let counts =
            [(Counter::Instructions.name().to_owned(), instructions), (Counter::SystemCalls.name().to_owned(), calls)];
        Baseline([(WORKS[0].name.to_owned(), counts.into())].into())
    }

    #[test]
    fn costs_beyond_the_tolerance_are_named() {
        let expected = baseline(10_000.0, 23.0);
        assert!(baseline(10_900.0, 23.1).compare(&expected).is_empty());
        assert!(baseline(5_000.0, 20.0).compare(&expected).is_empty(), "better is not worse");
        assert_eq!(
            baseline(11_100.0, 24.0).compare(&expected),
            [
                "system calls of one connection: 24.0, and 23.0 before",
                "instructions of one connection: 11100.0, and 10000.0 before"
            ]
        );
        assert_eq!(baseline(1.0, 1.0).compare(&Baseline::default()).len(), 2, "nothing passes for want of a baseline");
    }
}
