//! What policies do over a while, as pictures under docs/: each is drawn from a run of the program with backends and
//! clients of this process around it.

mod clients;
mod failover;
mod rebalancing;
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
use tokio::{
    net::TcpStream,
    time::{Instant, interval, sleep},
};

use self::{clients::Clients, server::Server};
use crate::{
    backend::local,
    bench::raise_descriptor_limit,
    chart::{Chart, Line},
    contender::Running,
    cores,
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

/// Draws a picture from a run of this program.
pub async fn show(picture: Picture, program: &Path, docs: &Path) -> Result<()> {
    raise_descriptor_limit()?;
    let folder = std::env::current_exe()?.with_file_name("bench-show");
    fs::create_dir_all(&folder)?;
    let (name, chart, figures) = match picture {
        Picture::Failover => failover::run(program, &folder).await.map(|(chart, figures)| ("failover", chart, figures)),
        Picture::Rebalancing => {
            rebalancing::run(program, &folder).await.map(|(chart, figures)| ("rebalancing", chart, figures))
        }
        Picture::SlowStart => {
            slow_start::run(program, &folder).await.map(|(chart, figures)| ("slow-start", chart, figures))
        }
    }?;
    let path = docs.join(name).with_extension("svg");
    fs::write(&path, chart.svg()).with_context(|| format!("{} cannot be written", path.display()))?;
    println!("{figures}");
    Ok(())
}

/// The program at work on a manifest.
struct Shown {
    running: Running,
    manifest: PathBuf,
}

impl Shown {
    async fn start(program: &Path, folder: &Path, manifest: &str, listener: SocketAddr) -> Result<Self> {
        let path = folder.join("shown.yaml");
        fs::write(&path, manifest)?;
        let program = program.canonicalize().with_context(|| format!("{} is not there", program.display()))?;
        let command = [program.into(), "standalone".into(), path.clone().into(), "--admin".into(), "off".into()];
        let command = [&command[..], &["--access-log".into(), "off".into(), "--workers".into(), "2".into()]].concat();
        let running = Running::start("tcplb", &command, folder, cores::CONTENDER)?;
        let mut shown = Self { running, manifest: path };
        let begun = Instant::now();
        while TcpStream::connect(listener).await.is_err() {
            shown.running.still_runs()?;
            if begun.elapsed() > Duration::from_secs(30) {
                bail!("the program does not listen on {listener}");
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(shown)
    }

    /// Has it read another manifest.
    fn change(&self, manifest: &str) -> Result<()> {
        Ok(fs::write(&self.manifest, manifest)?)
    }
}

/// What is seen of servers over a time.
struct Seen {
    /// The open connections of each.
    open: Vec<Vec<(f64, f64)>>,
    /// The connections that each got in the second before.
    new: Vec<Vec<(f64, f64)>>,
}

const LOOK: Duration = Duration::from_millis(250);
const LOOKS_PER_SECOND: usize = 4;

/// Looks at servers for so many seconds, and has something happen once, at its time.
async fn watch(
    servers: &mut [Server],
    seconds: f64,
    at: f64,
    happens: impl FnOnce(&mut [Server]) -> Result<()>,
) -> Result<Seen> {
    let mut happens = Some(happens);
    let mut seen = Seen { open: vec![Vec::new(); servers.len()], new: vec![Vec::new(); servers.len()] };
    let mut accepted: Vec<Vec<u64>> = vec![Vec::new(); servers.len()];
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
            let counts = &mut accepted[index];
            counts.push(server.accepted());
            let before = counts[counts.len().saturating_sub(1 + LOOKS_PER_SECOND)];
            seen.new[index].push((now, (server.accepted() - before) as f64));
        }
    }
}

fn lines(names: &[&str], points: Vec<Vec<(f64, f64)>>) -> Vec<Line> {
    names.iter().zip(points).map(|(name, points)| Line { name: (*name).into(), points }).collect()
}

fn largest(points: &[(f64, f64)]) -> f64 {
    points.iter().map(|(_, value)| *value).fold(0.0, f64::max)
}

/// When the last value of this kind was seen.
fn last(points: &[(f64, f64)], is_meant: impl Fn(f64) -> bool) -> f64 {
    points.iter().rfind(|(_, value)| is_meant(*value)).map_or(0.0, |(at, _)| *at)
}
