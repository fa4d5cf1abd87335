use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::{contender::Running, cores};

/// The program, running with a manifest.
pub struct Shown {
    running: Running,
    manifest: PathBuf,
}

impl Shown {
    pub async fn start(program: &Path, folder: &Path, manifest: &str, listeners: &[SocketAddr]) -> Result<Self> {
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
                if begun.elapsed() > EVENT_TIMEOUT {
                    bail!("the program does not listen on {listener}");
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(shown)
    }

    /// Replaces the manifest.
    pub fn change(&self, manifest: &str) -> Result<()> {
        Ok(fs::write(&self.manifest, manifest)?)
    }
}

/// The time limit of expected events.
pub const EVENT_TIMEOUT: Duration = Duration::from_secs(30);
