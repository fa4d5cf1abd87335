//! What takes its time, drawn: tcplb in front of servers that come and go, with clients all the while.

mod slow_start;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Draws the pictures of these names, or all, into the folder.
pub async fn draw(names: &[String], program: &Path, folder: &Path) -> Result<()> {
    if let Some(unknown) = names.iter().find(|name| *name != slow_start::NAME) {
        bail!("there is no picture `{unknown}`: there is {}", slow_start::NAME);
    }
    let chart = slow_start::measure(program).await?;
    let file = folder.join(format!("{}.svg", slow_start::NAME));
    fs::write(&file, chart.svg()).with_context(|| file.display().to_string())
}

/// A tcplb with one load balancer. It is killed when it is dropped.
struct Running {
    child: Child,
    manifest: PathBuf,
}

impl Running {
    async fn start(program: &Path, name: &str, spec: &str, listen: SocketAddr) -> Result<Self> {
        let manifest = std::env::temp_dir().join(format!("tcplb-picture-{name}-{}.yaml", std::process::id()));
        let text = format!(
            "apiVersion: tcplb.io/v1alpha1\nkind: TcpLoadBalancer\nmetadata: {{name: {name}}}\nspec: {{listeners: [{{port: \
             {}, address: 127.0.0.1}}], {spec}}}\n",
            listen.port()
        );
        fs::write(&manifest, text)?;
        let mut command = Command::new(program);
        command.arg("standalone").arg(&manifest).args(["--admin", "off", "--access-log", "off"]);
        let child = command.spawn().with_context(|| format!("{}: cannot be started", program.display()))?;
        let running = Self { child, manifest };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(listen).await.is_err() {
            if Instant::now() > deadline {
                bail!("{} does not serve", program.display());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.manifest);
    }
}

/// An address that nobody listens on.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
