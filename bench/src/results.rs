//! Stored measurements: every round of every contender, and its run.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{axes::Round, count::OperationCounts, machine::Machine};

/// The axes may come from several runs. Each names its run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Results {
    pub runs: BTreeMap<String, Run>,
    pub axes: BTreeMap<String, Measured>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<OperationCounts>,
}

/// The name of a run is the time of its start.
pub fn run_name() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// One call of the benchmark.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Run {
    pub machine: Machine,
    /// The commit of tcplb.
    pub revision: String,
    pub versions: BTreeMap<String, String>,
    /// Peers that were missing on the machine, or not selected.
    pub left_out: Vec<String>,
}

/// The results of one axis.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Measured {
    /// The key of its run.
    pub run: String,
    pub seconds: f64,
    /// The rounds by contender.
    pub rounds: Vec<BTreeMap<String, Round>>,
}

impl Results {
    /// Reads the results. Without a file, there are none.
    pub fn read(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(path)?;
        serde_json::from_str(&text).with_context(|| format!("{} has no results of this bench", path.display()))
    }

    /// Replaces the results of an axis. Runs without any results are removed.
    pub fn replace(&mut self, run_name: &str, run: Run, axis: &str, measured: Measured) {
        self.runs.insert(run_name.to_owned(), run);
        self.axes.insert(axis.to_owned(), measured);
        self.forget_runs();
    }

    pub fn replace_counts(&mut self, run: Run, counts: OperationCounts) {
        self.runs.insert(counts.run.clone(), run);
        self.counts = Some(counts);
        self.forget_runs();
    }

    fn forget_runs(&mut self) {
        let counted = self.counts.as_ref().map(|counts| counts.run.as_str());
        self.runs.retain(|name, _| counted == Some(name) || self.axes.values().any(|measured| measured.run == *name));
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
    }
}

impl Measured {
    /// A figure of each round. `None`: the contender lacks it, or the round had errors.
    pub fn figures(&self, contender: &str, figure: &str) -> Vec<Option<f64>> {
        self.rounds.iter().map(|round| round.get(contender)?.figure(figure)).collect()
    }

    /// The number of errors in all rounds, and the first error.
    pub fn errors(&self, contender: &str) -> (u64, Option<&str>) {
        let rounds = || self.rounds.iter().filter_map(|round| round.get(contender));
        (rounds().map(|round| round.errors).sum(), rounds().find_map(|round| round.first_error.as_deref()))
    }
}
