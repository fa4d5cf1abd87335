//! A soak test: clients of all kinds, while backends are killed, files are edited, and processes are replaced. The end of
//! each connection is compared with the access log and with the disturbances of the run.

mod access_log;
mod accounting;
mod admin;
mod backends;
mod balancer;
mod certificates;
mod classify;
mod clients;
mod connection;
mod edits;
mod failures;
mod instance;
mod process;
mod record;
mod resources;
mod source;
mod summary;
mod timeline;
mod transport;

use std::{
    env, fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use fastrand::Rng;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use self::{
    accounting::{Accounting, ClassCounts},
    backends::{BackendSet, Kill},
    certificates::CertificateAuthority,
    classify::EndClass,
    clients::{ClientContext, ClientPool},
    edits::Editor,
    failures::FailureLog,
    instance::{Instance, Setup},
    process::Resources,
    record::ClientKind,
    summary::Summary,
    timeline::Timeline,
    transport::Transport,
};
use crate::bench::raise_descriptor_limit;

/// The time limit for the lines of the access log after the last connection.
const LAST_LINES_TIMEOUT: Duration = Duration::from_secs(30);
/// The interval of checks of the metrics, in seconds.
const METRICS_INTERVAL: u32 = 5;
/// Descriptors of pipes, which stay open for later transfers.
const KEPT_DESCRIPTORS: u64 = 64;

/// The arguments of a run.
pub struct SoakOptions {
    pub program: PathBuf,
    pub duration: Duration,
    /// The seed of all random decisions. `None`: a new one.
    pub seed: Option<u64>,
}

/// Runs the test. Fails if a connection was lost, or another expectation was not met.
pub async fn run(options: SoakOptions) -> Result<()> {
    raise_descriptor_limit()?;
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("soak for {} s, seed {seed}", options.duration.as_secs());
    let mut soak = Soak::start(options, Rng::with_seed(seed)).await?;
    soak.disturb().await?;
    soak.end().await
}

/// A run with its processes, backends and clients.
struct Soak {
    setup: Arc<Setup>,
    duration: Duration,
    rng: Rng,
    backends: Arc<BackendSet>,
    /// The process of this instance is never replaced: its resources must not grow.
    steady: Arc<Instance>,
    /// The process of this instance is replaced at intervals.
    replaced: Arc<Instance>,
    context: ClientContext,
    clients: ClientPool,
    editors: [Editor; 2],
    /// The resources of the steady process before the first client.
    idle: Resources,
    samples: Vec<Resources>,
}

impl Soak {
    async fn start(options: SoakOptions, mut rng: Rng) -> Result<Self> {
        let folder = env::current_exe()?.with_file_name("soak-run");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let (timeline, failures) = (Arc::new(Timeline::new()), Arc::<FailureLog>::default());
        let accounting = Arc::new(Accounting::new(timeline.clone(), failures.clone()));
        let (SoakOptions { program, duration, .. }, authority) = (options, CertificateAuthority::new()?);
        let longest = (duration / 3).clamp(Duration::from_secs(10), Duration::from_secs(90));
        let context = ClientContext::new(&authority, accounting.clone(), longest)?;
        let backends = Arc::new(BackendSet::start(timeline.clone())?);
        let setup = Arc::new(Setup { program, folder, authority, timeline, accounting, failures });
        let steady = Arc::new(Instance::start("steady", 1, setup.clone()).await?);
        let replaced = Arc::new(Instance::start("replaced", 2, setup.clone()).await?);
        let (idle, mut clients) = (steady.resources()?, ClientPool::new(context.clone()));
        let editors = [&steady, &replaced].map(|instance| {
            clients.add(&instance.balancers, &mut rng);
            Editor::new(setup.clone(), instance.clone(), context.clone(), rng.fork())
        });
        let samples = Vec::new();
        Ok(Self { setup, duration, rng, backends, steady, replaced, context, clients, editors, idle, samples })
    }

    /// Edits, kills and replaces until the end of the run.
    async fn disturb(&mut self) -> Result<()> {
        let (started, mut seconds) = (Instant::now(), interval(Duration::from_secs(1)));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let takeover_interval = (self.duration / 6).clamp(Duration::from_secs(8), Duration::from_secs(60));
        let mut next_takeover = started + takeover_interval;
        let mut tasks = JoinSet::new();
        tasks.spawn(kill_backends(self.backends.clone(), self.rng.fork()));
        let mut count = 0;
        while started.elapsed() < self.duration {
            seconds.tick().await;
            count += 1;
            self.editors.iter_mut().try_for_each(Editor::edit)?;
            if Instant::now() > next_takeover && self.editors[1].allows_takeover() {
                next_takeover = Instant::now() + takeover_interval;
                let replaced = self.replaced.clone();
                tasks.spawn(async move { replaced.take_over().await });
            }
            self.check(count).await?;
            while let Some(ended) = tasks.try_join_next() {
                ended??;
            }
        }
        tasks.shutdown().await;
        Ok(())
    }

    /// Checks the invariants, once per second.
    async fn check(&mut self, second: u32) -> Result<()> {
        self.setup.accounting.sweep();
        for instance in [&self.steady, &self.replaced] {
            instance.check_processes()?;
            if second.is_multiple_of(METRICS_INTERVAL) {
                instance.check_metrics().await?;
            }
        }
        self.samples.push(self.steady.resources()?);
        if second.is_multiple_of(summary::PROGRESS_INTERVAL) {
            self.print_progress(second);
        }
        Ok(())
    }

    fn print_progress(&self, second: u32) {
        println!(
            "{second:5} s: {} connections open, {} ended, {} processes, {} failures",
            self.context.open(),
            self.setup.accounting.classes().values().sum::<u64>(),
            self.steady.processes() + self.replaced.processes(),
            self.setup.failures.count(),
        );
    }

    /// Ends clients and processes, checks the totals, and prints the results.
    async fn end(self) -> Result<()> {
        let Self { setup, steady, replaced, mut editors, clients, idle, samples, .. } = self;
        for editor in &mut editors {
            editor.finish().await?;
        }
        clients.end().await?;
        await_last_lines(&setup).await;
        for instance in [&steady, &replaced] {
            instance.predecessors_end().await?;
            instance.check_totals().await?;
        }
        let end = steady.resources()?;
        setup.failures.check(end.descriptors <= idle.descriptors + KEPT_DESCRIPTORS, || {
            format!("descriptors leaked: {end:?} without connections, {idle:?} at the start")
        });
        steady.end().await?;
        replaced.end().await?;
        let trends = resources::trends(&samples);
        for trend in &trends {
            setup.failures.check(trend.is_flat(), || format!("a resource grows: {trend}"));
        }
        let (classes, (kills, takeovers)) = (setup.accounting.classes(), setup.timeline.counts());
        check_coverage(&setup.failures, &classes, takeovers);
        let edits = editors.each_ref().map(Editor::counts);
        Summary { classes, edits, kills, takeovers, trends: &trends }.print();
        match setup.failures.count() {
            0 => Ok(()),
            count => bail!("{count} failures; the logs are in {}", setup.folder.display()),
        }
    }
}

/// Waits for the access log of the last connections.
async fn await_last_lines(setup: &Setup) {
    let deadline = Instant::now() + LAST_LINES_TIMEOUT;
    while setup.accounting.unmatched() != (0, 0) && Instant::now() < deadline {
        setup.accounting.sweep();
        sleep(Duration::from_millis(20)).await;
    }
    let (records, lines) = setup.accounting.unmatched();
    setup.failures.check((records, lines) == (0, 0), || {
        format!("{records} connections without a line of the access log, {lines} lines without a connection")
    });
}

/// Fails a run without takeovers or without connections of each kind, since it proves nothing.
fn check_coverage(failures: &FailureLog, classes: &ClassCounts, takeovers: u64) {
    failures.check(takeovers > 0, || "no takeover took place: use a longer run".into());
    for (kind, transport) in clients::kinds() {
        let is_planned_end = |class: EndClass| matches!(class, EndClass::Complete | EndClass::ResetByClient);
        let covers = |&(other, other_transport, class): &(ClientKind, Transport, EndClass)| {
            (other, other_transport) == (kind, transport) && is_planned_end(class)
        };
        failures.check(classes.keys().any(covers), || format!("no {kind} {transport} connection ended as planned"));
    }
}

/// Kills backends at random intervals.
async fn kill_backends(backends: Arc<BackendSet>, mut rng: Rng) -> Result<()> {
    loop {
        sleep(Duration::from_millis(rng.u64(2000..6000))).await;
        let kill = if rng.bool() { Kill::Close } else { Kill::Reset };
        let backend = rng.usize(backends::NEVER_KILLED..backends::COUNT);
        backends.kill(backend, kill, Duration::from_millis(rng.u64(200..3000))).await?;
    }
}
