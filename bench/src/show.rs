//! Charts of policies over time under docs/. Each is drawn from a run of the program with backends and clients in this
//! process.

mod clients;
mod failover;
mod measurement;
mod outcome;
mod rebalancing;
mod role;
mod server;
mod shown;
mod slow_start;
mod watch;

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use futures::future::try_join_all;

use self::outcome::Outcome;
use crate::bench::raise_descriptor_limit;

/// A chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Picture {
    /// A primary with 2,000 connections is demoted.
    Failover,
    /// A fourth endpoint joins three with 5,000 connections.
    Rebalancing,
    /// A server comes back among three.
    SlowStart,
}

impl Picture {
    fn name(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::Rebalancing => "rebalancing",
            Self::SlowStart => "slow-start",
        }
    }

    async fn run(self, program: &Path, folder: &Path) -> Result<Outcome> {
        let folder = folder.join(self.name());
        fs::create_dir_all(&folder)?;
        let outcome = match self {
            Self::Failover => failover::run(program, &folder).await,
            Self::Rebalancing => rebalancing::run(program, &folder).await,
            Self::SlowStart => slow_start::run(program, &folder).await,
        };
        outcome.with_context(|| self.name())
    }
}

/// Runs this program for all selected charts concurrently. Draws the charts if there is a folder for them. Fails if a
/// figure is out of range.
pub async fn show(pictures: &[Picture], program: &Path, docs: Option<&Path>) -> Result<()> {
    raise_descriptor_limit()?;
    let folder = std::env::current_exe()?.with_file_name("bench-show");
    let outcomes = try_join_all(pictures.iter().map(|picture| picture.run(program, &folder))).await?;
    let mut wrong = Vec::new();
    for (picture, Outcome { chart, figures }) in pictures.iter().zip(&outcomes) {
        println!("{}", picture.name());
        figures.iter().for_each(|figure| println!("  {figure}"));
        wrong.extend(
            figures.iter().filter(|figure| !figure.is_kept()).map(|figure| format!("{}: {figure}", picture.name())),
        );
        if let Some(docs) = docs {
            let path = docs.join(picture.name()).with_extension("svg");
            fs::write(&path, chart.svg()).with_context(|| format!("{} cannot be written", path.display()))?;
        }
    }
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_have_the_manifests_that_are_drawn() {
        for (manifest, page) in [
            (failover::MANIFEST, include_str!("../../docs/drain.md")),
            (rebalancing::MANIFEST, include_str!("../../docs/rebalancing.md")),
            (slow_start::MANIFEST, include_str!("../../docs/balancing.md")),
        ] {
            assert!(page.contains(&format!("```yaml\n{manifest}```\n")), "no page has {manifest}");
        }
    }
}
