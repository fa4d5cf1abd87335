//! An instance of tcplb with its load balancers. A successor can take over from its process.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tokio::time::sleep;

use super::{
    accounting::Accounting,
    admin::{self, Metrics},
    balancer::{FileReplacement, LoadBalancer, VARIANTS},
    certificates::CertificateAuthority,
    failures::FailureLog,
    process::{ProxyProcess, Resources},
    timeline::Timeline,
};

/// The time limit for the start and the end of a process.
const PROCESS_TIMEOUT: Duration = Duration::from_secs(60);
const FIRST_PORT: u16 = 28610;
const ADMIN_PORT: u16 = 28690;

/// The parts that all instances share.
pub struct Setup {
    pub program: PathBuf,
    pub folder: PathBuf,
    pub authority: CertificateAuthority,
    pub timeline: Arc<Timeline>,
    pub accounting: Arc<Accounting>,
    pub failures: Arc<FailureLog>,
}

/// A configuration folder, and the processes that serve it: the newest one, and predecessors with open connections.
pub struct Instance {
    pub name: &'static str,
    pub balancers: Arc<[Arc<LoadBalancer>]>,
    setup: Arc<Setup>,
    admin: SocketAddr,
    folder: PathBuf,
    processes: Mutex<Vec<ProxyProcess>>,
    started: Mutex<u32>,
    takes_over: AtomicBool,
}

impl Instance {
    /// Starts the first process, and waits until it is ready. The host is the last byte of the listening address.
    pub async fn start(name: &'static str, host: u8, setup: Arc<Setup>) -> Result<Self> {
        let (address, folder) = (IpAddr::from(Ipv4Addr::new(127, 0, 66, host)), setup.folder.join(name));
        fs::create_dir_all(folder.join("manifests"))?;
        fs::DirBuilder::new().mode(0o700).create(folder.join("private"))?;
        let balancer = |(variant, port)| {
            let (manifests, timeline) = (folder.join("manifests"), setup.timeline.clone());
            let balancer = LoadBalancer::new(name, variant, SocketAddr::new(address, port), &manifests, timeline);
            if balancer.is_tls() {
                balancer.rotate_certificate(&setup.authority, FileReplacement::Rename)?;
            }
            balancer.write(FileReplacement::Rename)?;
            Ok(Arc::new(balancer))
        };
        let balancers = VARIANTS.into_iter().zip(FIRST_PORT..).map(balancer).collect::<Result<_>>()?;
        let admin = SocketAddr::new(address, ADMIN_PORT);
        let (processes, started, takes_over) = (Mutex::default(), Mutex::default(), AtomicBool::new(false));
        let instance = Self { name, balancers, setup, admin, folder, processes, started, takes_over };
        instance.start_process()?;
        let deadline = Instant::now() + PROCESS_TIMEOUT;
        while !admin::is_ready(admin).await {
            instance.check_processes()?;
            if Instant::now() > deadline {
                bail!("{name} is not ready");
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(instance)
    }

    /// Replaces the newest process by another one.
    pub async fn take_over(&self) -> Result<()> {
        self.takes_over.store(true, Relaxed);
        self.setup.timeline.note(format!("{}: takeover begins", self.name));
        self.start_process()?;
        let deadline = Instant::now() + PROCESS_TIMEOUT;
        while !self.newest(ProxyProcess::has_taken_over) {
            self.check_processes()?;
            if Instant::now() > deadline {
                bail!("{}: a successor does not take over", self.name);
            }
            sleep(Duration::from_millis(10)).await;
        }
        self.setup.timeline.take_over(self.name);
        self.takes_over.store(false, Relaxed);
        Ok(())
    }

    pub fn is_taking_over(&self) -> bool {
        self.takes_over.load(Relaxed)
    }

    /// Removes predecessors that have ended. Fails if the newest process has ended.
    pub fn check_processes(&self) -> Result<()> {
        let mut processes = self.processes.lock().unwrap();
        if let Some(status) = processes.last_mut().and_then(ProxyProcess::ended) {
            bail!("{}: the process ended with {status}: see {}", self.name, self.folder.display());
        }
        processes.retain_mut(|process| match process.ended() {
            None => true,
            Some(status) => {
                self.setup.failures.check(status.success(), || format!("{} ended with {status}", process.name));
                false
            }
        });
        Ok(())
    }

    /// The number of processes: the newest one and its predecessors.
    pub fn processes(&self) -> usize {
        self.processes.lock().unwrap().len()
    }

    /// The resources of the newest process.
    pub fn resources(&self) -> Result<Resources> {
        self.newest(ProxyProcess::resources).with_context(|| format!("{} has ended", self.name))
    }

    /// Checks the invariants of the metrics that hold at every moment.
    pub async fn check_metrics(&self) -> Result<Metrics> {
        let metrics = Metrics::read(self.admin).await.with_context(|| format!("{}: no metrics", self.name))?;
        let failures = &self.setup.failures;
        for (balancer, counts) in metrics.counts() {
            failures.check(counts.accepted == counts.active + counts.closed, || {
                format!("{balancer}: accepted connections are not the sum of active and closed ones: {counts:?}")
            });
        }
        let mismatches = metrics.sum("tcplb_configuration_mismatches_total", "");
        failures.check(mismatches == 0.0, || format!("{}: {mismatches} configuration mismatches", self.name));
        Ok(metrics)
    }

    /// Compares the metrics of the newest process with its access log, after all connections have ended.
    pub async fn check_totals(&self) -> Result<()> {
        let (metrics, failures) = (self.check_metrics().await?, &self.setup.failures);
        let (lines, name) = (self.newest(ProxyProcess::lines) as f64, self.name);
        let logged = metrics.sum("tcplb_access_log_events_total", "result=\"logged\"");
        let dropped = metrics.sum("tcplb_access_log_events_total", "result=\"dropped\"");
        failures.check(dropped == 0.0, || format!("{name}: {dropped} lines of the access log were dropped"));
        failures.check(logged == lines, || format!("{name}: {logged} connections logged, but {lines} lines"));
        let has_predecessor = *self.started.lock().unwrap() > 1;
        for balancer in self.balancers.iter().filter(|balancer| !balancer.variant.is_transient && !has_predecessor) {
            let accepted = metrics.counts().get(&balancer.name).copied().unwrap_or_default().accepted;
            let lines = self.setup.accounting.lines_of(&balancer.name) as f64;
            failures.check(accepted == lines, || {
                format!("{}: {accepted} connections accepted, but {lines} lines of the access log", balancer.name)
            });
        }
        Ok(())
    }

    /// Waits until all predecessors have ended, since their connections have.
    pub async fn predecessors_end(&self) -> Result<()> {
        let deadline = Instant::now() + PROCESS_TIMEOUT;
        loop {
            self.check_processes()?;
            if self.processes() == 1 {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{}: a process without connections does not end after a takeover", self.name);
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Terminates the newest process, and waits for its end.
    pub async fn end(&self) -> Result<()> {
        self.newest(ProxyProcess::terminate)?;
        let mut process = self.processes.lock().unwrap().pop().context("a process runs")?;
        let deadline = Instant::now() + PROCESS_TIMEOUT;
        loop {
            if let Some(status) = process.ended() {
                self.setup.failures.check(status.success(), || format!("{} ended with {status}", process.name));
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} does not end after SIGTERM", process.name);
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn newest<T>(&self, read: impl FnOnce(&ProxyProcess) -> T) -> T {
        read(self.processes.lock().unwrap().last().expect("a process runs until the end"))
    }

    fn start_process(&self) -> Result<()> {
        let Setup { program, accounting, failures, .. } = &*self.setup;
        let mut started = self.started.lock().unwrap();
        *started += 1;
        let mut command = Command::new(program);
        command.args(["standalone", "--workers", "2", "--log-format", "json", "--max-drain", "24h"]);
        command.arg("--admin").arg(self.admin.to_string());
        command.arg("--takeover").arg(self.folder.join("private/takeover")).arg(self.folder.join("manifests"));
        let name = format!("{}-{started}", self.name);
        let process = ProxyProcess::start(name, &mut command, &self.folder, accounting.clone(), failures.clone())?;
        self.processes.lock().unwrap().push(process);
        Ok(())
    }
}
