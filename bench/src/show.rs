//! What policies do over a while, as pictures under docs/: each is drawn from a run of the program with backends and
//! clients of this process around it.

mod clients;
mod failover;
mod figure;
mod rebalancing;
mod role;
mod server;
mod slow_start;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use futures::future::try_join_all;
use tokio::{
    net::TcpStream,
    time::{Instant, interval, sleep},
};

use self::{clients::Clients, figure::Figure, role::Role, server::Server};
use crate::{
    backend::local,
    bench::raise_descriptor_limit,
    chart::{Chart, Line},
    contender::Running,
    cores,
    svg::COLOURS,
};

/// What is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Picture {
    /// A primary with 2,000 connections is demoted.
    Failover,
    /// A fourth endpoint joins three with 5,000 connections.
    Rebalancing,
    /// A server comes back among three.
    SlowStart,
}

/// What a run was like.
struct Outcome {
    chart: Chart,
    figures: Vec<Figure>,
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

/// Runs this program for each of these at once, draws the pictures if there is a folder for them, and fails if a figure
/// is not where it ought to be.
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

/// The program at work on a manifest.
struct Shown {
    running: Running,
    manifest: PathBuf,
}

impl Shown {
    async fn start(program: &Path, folder: &Path, manifest: &str, listeners: &[SocketAddr]) -> Result<Self> {
        let path = folder.join("shown.yaml");
        fs::write(&path, manifest)?;
        let program = program.canonicalize().with_context(|| format!("{} is not there", program.display()))?;
        let command = [program.into(), "standalone".into(), path.clone().into(), "--admin".into(), "off".into()];
        let command = [&command[..], &["--access-log".into(), "off".into(), "--workers".into(), "2".into()]].concat();
        let running = Running::start("tcplb", &command, folder, cores::CONTENDER)?;
        let mut shown = Self { running, manifest: path };
        let begun = Instant::now();
        for listener in listeners {
            while TcpStream::connect(listener).await.is_err() {
                shown.running.still_runs()?;
                if begun.elapsed() > PATIENCE {
                    bail!("the program does not listen on {listener}");
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(shown)
    }

    /// Has it read another manifest.
    fn change(&self, manifest: &str) -> Result<()> {
        Ok(fs::write(&self.manifest, manifest)?)
    }
}

/// How long what has to happen may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for something that has to happen.
async fn until(what: &str, happens: impl Fn() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !happens() {
        if begun.elapsed() > PATIENCE {
            bail!("it does not happen that {what}");
        }
        sleep(LOOK).await;
    }
    Ok(())
}

/// What is seen of servers over a time.
struct Seen {
    /// The open connections of each.
    open: Vec<Vec<(f64, f64)>>,
    /// The connections that each got in the second before.
    new: Vec<Vec<(f64, f64)>>,
}

const LOOK: Duration = Duration::from_millis(250);

/// Looks at servers for so many seconds, and has something happen once, at its time.
async fn watch(
    servers: &mut [Server],
    seconds: f64,
    at: f64,
    happens: impl FnOnce(&mut [Server]) -> Result<()>,
) -> Result<Seen> {
    let mut happens = Some(happens);
    let mut seen = Seen { open: vec![Vec::new(); servers.len()], new: vec![Vec::new(); servers.len()] };
    let mut accepted: Vec<Vec<(f64, f64)>> = vec![Vec::new(); servers.len()];
    let (begun, mut looks) = (Instant::now(), interval(LOOK));
    loop {
        looks.tick().await;
        let now = begun.elapsed().as_secs_f64();
        if now > seconds {
            return Ok(seen);
        }
        if now >= at
            && let Some(happens) = happens.take()
        {
            happens(servers)?;
        }
        for (index, server) in servers.iter().enumerate() {
            seen.open[index].push((now, server.open() as f64));
            accepted[index].push((now, server.accepted() as f64));
            seen.new[index].push((now, per_second(&accepted[index])));
        }
    }
}

/// How many there were in a second, of counts so far. Where it was looked late the last ones came in more than that.
fn per_second(counts: &[(f64, f64)]) -> f64 {
    let (now, count) = counts.last().copied().unwrap_or_default();
    // Ticks are late by a little, some more than others.
    let (before, count_before) =
        counts.iter().rfind(|(at, _)| *at <= now - 0.99).or(counts.first()).copied().unwrap_or_default();
    (count - count_before) / (now - before).max(1.0)
}

/// Each name has its colour, whichever panel it is in.
fn lines(names: &[&str], points: Vec<Vec<(f64, f64)>>) -> Vec<Line> {
    let line = |((name, colour), points)| Line { name: String::from(name), colour, points };
    names.iter().copied().zip(COLOURS).zip(points).map(line).collect()
}

fn largest(points: &[(f64, f64)]) -> f64 {
    points.iter().map(|(_, value)| *value).fold(0.0, f64::max)
}

/// When the last value of this kind was seen.
fn last(points: &[(f64, f64)], is_meant: impl Fn(f64) -> bool) -> f64 {
    points.iter().rfind(|(_, value)| is_meant(*value)).map_or(0.0, |(at, _)| *at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_look_does_not_make_a_rate() {
        let counts = [(0.0, 0.0), (0.25, 15.0), (0.5, 30.0), (0.75, 45.0), (1.0, 60.0), (2.5, 150.0)];
        assert_eq!(per_second(&counts[..1]), 0.0);
        assert_eq!(per_second(&counts[..3]), 30.0);
        assert_eq!(per_second(&counts[..5]), 60.0);
        assert_eq!(per_second(&counts), 60.0);
    }

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
