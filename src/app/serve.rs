//! The life of a serving process, from start to shutdown.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use jiff::Timestamp;
use tokio::{
    runtime,
    sync::{oneshot, watch},
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{info, warn};

use super::{
    configuration::{self, Compiler},
    free_memory,
    shutdown::{self, Cause, Signals},
    source::Source,
};
use crate::{
    admin::{self, AdminAccess, AdminThread, AllowedHosts, Instance},
    cli::{AdminAddress, LocalAuthorization, RunArgs},
    controller::{self, Observed, Settings},
    descriptors::{self, Budget},
    instruments::Instruments,
    metrics::EndpointSeries,
    model::{Report, Snapshot},
    printable::limited,
    proxy::{
        Options, Proxy,
        access_log::{self, AccessLog, LineEncoder, ProcessIdentity},
        socket::{self, Sharing},
    },
    state::{Configuration, ReadinessState},
    takeover::{self, Inheritance, Offer, Successor},
    tcp,
    translate::Verdict,
    world::ProcessLocality,
};

/// The time limit for closing the admin pages after a takeover.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// The wait for missing references at startup. An object that is being replaced is briefly absent, and a process that
/// is not ready gets no clients.
const UNRESOLVED: Duration = Duration::from_secs(5);
/// The maximum wait for the reader of the access log at the end of the process.
const LAST_LINES: Duration = Duration::from_secs(5);
/// The time limit for releasing the leadership.
const LAST_WRITES: Duration = Duration::from_secs(3);

/// The configuration of a serving process.
pub struct Serving {
    pub source: Source,
    /// The metrics that the source updates.
    pub instruments: Arc<Instruments>,
    pub admin: AdminAddress,
    pub admin_access: AdminAccess,
    pub sharing: Sharing,
    /// The socket for taking over and offering listening sockets.
    pub takeover: Option<PathBuf>,
    pub empty: Empty,
    /// The settings of a controller replica.
    pub leading: Option<Leading>,
    pub run: RunArgs,
}

/// The behavior of a process that cannot serve anything at startup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Empty {
    /// The process exits with an error.
    Ends,
    /// The process waits. Its load balancers are declared elsewhere, and problems are reported there.
    Waits,
    /// The process waits and is not ready until everything is served.
    IsNotReady,
}

/// The additional tasks of a controller.
pub struct Leading {
    pub client: kube::Client,
    pub settings: Settings,
}

/// The location of the process. Empty environment variables count as absent.
fn locality(run: &RunArgs) -> ProcessLocality {
    ProcessLocality { node: non_empty(&run.node), zone: non_empty(&run.zone) }
}

fn non_empty<'a, T: From<&'a str>>(name: &'a Option<String>) -> Option<T> {
    name.as_deref().filter(|name| !name.is_empty()).map(Into::into)
}

/// Serves until a signal or a successor ends it.
///
/// # Errors
/// A sentence for the user.
pub async fn serve(serving: Serving) -> anyhow::Result<ExitCode> {
    let Serving { source, instruments, admin, admin_access, sharing, takeover, empty, leading, run } = serving;
    let signals = Signals::catch()?;
    // Before any descriptor is received, because inherited sockets count against the limit.
    let budget = descriptors::raise_limit(run.worker_count(), source.manifests())?;
    let (successor, inheritance) = inherit(takeover.as_deref(), &signals).await?;
    let state = Arc::new(ReadinessState::new(instruments));
    let instance = instance(&run);
    let identity = ProcessIdentity::new(&instance.name);
    let mut admin = AdminPages::new(bind_admin(admin, inheritance.admin)?, admin_access, budget.admin, instance, &run);
    let (proxy, access_log) = start_proxy(&run, identity, budget, sharing, inheritance.listeners)?;
    if empty != Empty::Ends {
        // Liveness probes must not wait until a whole cluster has been read.
        admin.open(&proxy, &state)?;
    }

    let mut compiler = Compiler::new(source, locality(&run), state.clone());
    let (first, report) = tokio::select! {
        first = apply_first(&mut compiler, &proxy) => first?,
        () = signals.first() => bail!("stopped before the manifests were read"),
    };
    let _unbound_log = configuration::log_unbound(proxy.reports(), state.clone());
    let readying = match empty {
        Empty::Ends => {
            worth_running(&first, &report, &state).inspect_err(|_| proxy.stop())?;
            state.set_ready(true);
            None
        }
        Empty::Waits | Empty::IsNotReady => Some(ready_once_all_is_served(empty, proxy.reports(), state.clone())),
    };
    // Otherwise they would take memory until the end.
    drop((first, report));
    // Not earlier: at an inherited address, the previous process still answers readiness probes.
    admin.open(&proxy, &state)?;
    let taken_over = offer(takeover.as_deref(), &proxy, admin.listener()?)?;
    if let Some(successor) = successor {
        tell(successor);
    }
    let leading = leading.map(|Leading { client, settings }| lead(client, settings, compiler.observed()));
    let compiling = configuration::follow(compiler, proxy.clone());

    let _memory = AbortOnDropHandle::new(tokio::spawn(free_memory::return_when_connections_close(proxy.monitor())));

    let cause = tokio::select! {
        () = signals.first() => Cause::Signal,
        () = taken_over => Cause::TakenOver,
    };
    drop(readying);
    let process = Process { proxy, state, admin, leading, compiling, access_log };
    Ok(process.shut_down(cause, &run, &signals).await)
}

/// The process in the access log and on the admin pages. Its name is the flag, otherwise the host name.
fn instance(run: &RunArgs) -> Instance {
    let chosen = run.replica_name.clone().filter(|name| !name.is_empty());
    // Fails only without /proc.
    let host_name = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let name = limited(&chosen.unwrap_or_else(host_name), MAX_REPLICA_NAME).into_owned();
    Instance { name, node: non_empty(&run.node), started: Timestamp::now() }
}

/// The maximum length of a host name on Linux is 64, and of a pod name 253 bytes.
const MAX_REPLICA_NAME: usize = 253;

/// Starts the workers, without listeners.
fn start_proxy(
    run: &RunArgs,
    identity: ProcessIdentity,
    budget: Budget,
    sharing: Sharing,
    inherited: BTreeMap<SocketAddr, Vec<TcpListener>>,
) -> anyhow::Result<(Arc<Proxy>, access_log::Writer)> {
    let workers = run.worker_count();
    let encoder = LineEncoder { format: run.access_log_format(), process: identity };
    let (access_log, writer) = AccessLog::start(run.access_log.into(), encoder, std::io::stdout());
    let options = Options { sharing, inherited, ..proxy_options(workers, &budget, access_log) };
    let proxy = Arc::new(Proxy::start(options, &runtime::Handle::current()).context("cannot start the workers")?);
    info!(workers, connections = budget.connections(), "started");
    Ok((proxy, writer))
}

/// Reads and compiles everything, and applies it.
async fn apply_first(compiler: &mut Compiler, proxy: &Proxy) -> anyhow::Result<(Arc<Snapshot>, Arc<Report>)> {
    let first = compiler.compile().await;
    let report = first_report(proxy, first.clone()).await?;
    Ok((first, report))
}

/// The parts of a serving process that end with it.
struct Process {
    proxy: Arc<Proxy>,
    state: Arc<ReadinessState>,
    admin: AdminPages,
    leading: Option<ControllerTask>,
    compiling: AbortOnDropHandle<()>,
    access_log: access_log::Writer,
}

impl Process {
    /// Ends everything in order. A second signal ends it early.
    async fn shut_down(self, cause: Cause, run: &RunArgs, signals: &Signals) -> ExitCode {
        let Self { proxy, state, admin, leading, compiling, access_log } = self;
        // The pages stay open until the end, unless another process now serves the address.
        let (_admin, closed) = match cause {
            Cause::Signal => (Some(admin), None),
            Cause::TakenOver => (None, Some(admin.close())),
        };
        let drained = async {
            shutdown::stop_accepting(cause, &proxy, &state, run.shutdown_delay.0).await;
            // Changes of the manifests are applied as long as connections are accepted.
            drop(compiling);
            shutdown::drain(cause, &proxy, run.max_drain.0, signals).await;
        };
        let resigned = async {
            if let Some(leading) = leading {
                leading.end().await;
            }
        };
        let orderly = async {
            // Another replica should lead while this one drains.
            tokio::join!(resigned, drained);
            if let Some(closed) = closed {
                closed.await;
            }
        };
        let code = shutdown::unless_hurried(orderly, signals).await;
        proxy.stop();
        write_last_lines(access_log, &proxy, signals).await;
        code
    }
}

/// Waits until the access log is written. A second signal shortens the wait.
async fn write_last_lines(access_log: access_log::Writer, proxy: &Proxy, signals: &Signals) {
    let (monitor, hurried) = (proxy.monitor(), signals.are_two());
    let limit = if hurried { shutdown::HURRIED_WRITE } else { LAST_LINES };
    let written = spawn_blocking(move || access_log.finish(monitor.access_log(), limit));
    tokio::select! {
        _ = written => {}
        () = signals.second(), if !hurried => {}
    }
}

/// The admin pages, if enabled.
struct AdminPages {
    listener: Option<TcpListener>,
    instance: Instance,
    hosts: AllowedHosts,
    access: AdminAccess,
    /// The maximum number of connections.
    connections: usize,
    endpoint_series: EndpointSeries,
    stop: CancellationToken,
    /// Present while the pages are open.
    serving: Option<(AdminThread, JoinHandle<()>)>,
}

impl AdminPages {
    /// The pages at a bound address. They are not open yet.
    fn new(
        listener: Option<TcpListener>,
        access: AdminAccess,
        connections: usize,
        instance: Instance,
        run: &RunArgs,
    ) -> Self {
        Self {
            listener,
            instance,
            hosts: AllowedHosts::new(&run.admin_hosts),
            access,
            connections,
            endpoint_series: run.endpoint_metrics.into(),
            stop: CancellationToken::new(),
            serving: None,
        }
    }

    /// Starts to answer requests, unless already started.
    fn open(&mut self, proxy: &Proxy, state: &Arc<ReadinessState>) -> anyhow::Result<()> {
        let (Some(listener), None) = (self.listener()?, &self.serving) else { return Ok(()) };
        info!(address = %listener.local_addr().context("getsockname")?, "admin pages");
        let thread = AdminThread::start().context("cannot start the admin thread")?;
        let serving = {
            let _on_it = thread.handle().enter();
            let listener = tcp::listening(listener)?;
            let server = admin::Server {
                monitor: proxy.monitor(),
                state: state.clone(),
                instance: self.instance.clone(),
                hosts: self.hosts.clone(),
                access: self.access.clone(),
                connections: self.connections,
                endpoint_series: self.endpoint_series,
            };
            tokio::spawn(server.serve(listener, self.stop.clone()))
        };
        self.serving = Some((thread, serving));
        Ok(())
    }

    fn listener(&self) -> anyhow::Result<Option<TcpListener>> {
        Ok(self.listener.as_ref().map(TcpListener::try_clone).transpose()?)
    }

    /// Stops accepting requests. The future completes when all responses have been sent.
    fn close(self) -> impl Future<Output = ()> {
        self.stop.cancel();
        async move {
            if let Some((_thread, serving)) = self.serving {
                let _ = timeout(LAST_ANSWERS, serving).await;
            }
        }
    }
}

/// Notifies the previous process that it may end.
fn tell(successor: Successor) {
    match successor.serving() {
        Ok(()) => info!("took over from the previous process"),
        // It has already ended, and this process has its sockets.
        Err(error) => warn!(%error, "cannot notify the previous process that this one is serving"),
    }
}

/// The additional tasks of a controller.
struct ControllerTask {
    stop: CancellationToken,
    running: JoinHandle<()>,
}

fn lead(client: kube::Client, settings: Settings, observed: watch::Receiver<Observed>) -> ControllerTask {
    let stop = CancellationToken::new();
    let running = tokio::spawn(controller::run(client, settings, observed, stop.clone()));
    ControllerTask { stop, running }
}

impl ControllerTask {
    /// Releases the leadership.
    async fn end(self) {
        self.stop.cancel();
        let _ = timeout(LAST_WRITES, self.running).await;
    }
}

/// Takes over the sockets of the running process, if configured. A signal ends the wait.
async fn inherit(path: Option<&Path>, signals: &Signals) -> anyhow::Result<(Option<Successor>, Inheritance)> {
    let Some(path) = path.map(Path::to_owned) else { return Ok((None, Inheritance::default())) };
    let asked = tokio::select! {
        asked = spawn_blocking(move || takeover::ask(&path)) => asked??,
        () = signals.first() => bail!("stopped before the previous process passed its sockets on"),
    };
    Ok(match asked {
        Some((successor, inheritance)) => (Some(successor), inheritance),
        None => (None, Inheritance::default()),
    })
}

/// The options of a proxy with this budget that shares no addresses and inherits no sockets.
pub fn proxy_options(workers: usize, budget: &Budget, access_log: AccessLog) -> Options {
    Options {
        workers,
        descriptors: budget.serving,
        spare_from: budget.spare_from,
        preconnected: budget.preconnected,
        pipes: budget.pipes,
        probes: budget.probes,
        cancels: budget.cancels,
        sharing: Sharing::Exclusive,
        inherited: BTreeMap::new(),
        access_log,
    }
}

pub fn bind_admin(address: AdminAddress, inherited: Option<TcpListener>) -> anyhow::Result<Option<TcpListener>> {
    let AdminAddress::At(address) = address else { return Ok(None) };
    if let Some(inherited) = inherited
        && inherited.local_addr().is_ok_and(|inherited| serves(inherited, address))
    {
        return Ok(Some(inherited));
    }
    let bound = socket::open_one(address, Sharing::Exclusive)
        .map_err(|error| anyhow::anyhow!("admin pages: {} (--admin)", socket::cannot_listen(address, &error)))?;
    Ok(Some(bound))
}

/// True if a socket that is bound to `bound` was opened for `address`, possibly without IPv6.
fn serves(bound: SocketAddr, address: SocketAddr) -> bool {
    let is_ipv4_of_any = address.ip() == Ipv6Addr::UNSPECIFIED && bound.ip() == Ipv4Addr::UNSPECIFIED;
    bound == address || (is_ipv4_of_any && bound.port() == address.port())
}

/// The access to the admin pages of a process without an API server.
pub fn local_access(authorization: LocalAuthorization) -> AdminAccess {
    match authorization {
        LocalAuthorization::Loopback => AdminAccess::Loopback,
        LocalAuthorization::None => AdminAccess::Everyone,
    }
}

/// Applies the first snapshot.
pub async fn first_report(proxy: &Proxy, first: Arc<Snapshot>) -> anyhow::Result<Arc<Report>> {
    let generation = first.generation;
    let mut reports = proxy.reports();
    if generation > 0 {
        proxy.publish(first);
    }
    let applied = reports.wait_for(|report| report.generation >= generation).await;
    Ok(applied.context("the proxy stopped before it applied a configuration")?.clone())
}

/// Sets the process ready after all references of load balancers are resolved or the wait has ended. With
/// [`Empty::IsNotReady`], all listeners must be bound too, and there must be at least one.
fn ready_once_all_is_served(
    empty: Empty,
    mut reports: watch::Receiver<Arc<Report>>,
    state: Arc<ReadinessState>,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        references_resolved(&state).await;
        let served = |report: &Arc<Report>| !report.listeners.is_empty() && report.unbound().next().is_none();
        if empty != Empty::IsNotReady || reports.wait_for(served).await.is_ok() {
            state.set_ready(true);
        }
    }))
}

/// Waits until all references of load balancers are resolved. The wait is short, because an invalid reference stays
/// unresolved.
async fn references_resolved(state: &ReadinessState) {
    let resolved = |known: &Arc<Configuration>| !known.verdicts.values().any(Verdict::has_unresolved_references);
    if timeout(UNRESOLVED, state.configurations().wait_for(resolved)).await.is_err() {
        let within = UNRESOLVED.as_secs();
        info!("ready, although some references of load balancers were not resolved within {within} s");
    }
}

/// Fails if the process cannot serve anything, so that the user sees the error.
fn worth_running(first: &Snapshot, report: &Report, state: &ReadinessState) -> anyhow::Result<()> {
    let configuration = state.configuration();
    let unbound: Vec<String> = report
        .unbound()
        .map(|(listener, why)| {
            let object = &listener.object;
            format!("{object} ({}): {}", configuration.origin_of(object), configuration::unbound(listener, why))
        })
        .collect();
    if !first.listeners.is_empty() && unbound.len() == first.listeners.len() {
        bail!("no listener could be opened: {}", unbound.join("; "));
    }
    if first.listeners.is_empty() && configuration.problems_of(crate::translate::Severity::Refused) > 0 {
        bail!("nothing can be served: see the refusals above");
    }
    if first.listeners.is_empty() {
        warn!("no TcpLoadBalancer is declared yet: waiting for one");
    }
    Ok(())
}

/// Offers the sockets to a successor, if configured. The future completes after a takeover.
fn offer(
    path: Option<&Path>,
    proxy: &Arc<Proxy>,
    admin: Option<TcpListener>,
) -> anyhow::Result<impl Future<Output = ()> + use<>> {
    let (taken, taken_over) = oneshot::channel();
    if let Some(path) = path {
        let offer = Offer::at(path)?;
        let (proxy, control) = (proxy.clone(), runtime::Handle::current());
        std::thread::Builder::new().name("takeover".into()).spawn(move || {
            offer.wait(|| control.block_on(proxy.sockets()), admin.as_ref());
            let _ = taken.send(());
        })?;
    }
    Ok(async {
        // Without an offer there is no takeover.
        if taken_over.await.is_err() {
            std::future::pending().await
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::ObjectKey,
        translate::{Part, Problem, Reason, Severity, Verdicts},
    };

    fn configuration(reason: Option<Reason>) -> Configuration {
        let (severity, part) = (Severity::Warning, Part::Object);
        let problem = |reason| Problem { severity, reason, part, field: String::new(), message: "".into() };
        let verdict = Verdict { problems: reason.map(problem).into_iter().collect(), ..Verdict::default() };
        Configuration {
            verdicts: Arc::new(Verdicts::unit(ObjectKey::new("shop", "a"), verdict)),
            ..Configuration::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_starting_process_waits_for_references_for_a_limited_time() {
        for (first, second, expected) in [
            (None, None, 0),
            (Some(Reason::NoEndpoints), None, 0),
            (Some(Reason::EndpointsPending), None, 2),
            (Some(Reason::RefNotFound), Some(Reason::CertificateExpired), 2),
            (Some(Reason::InvalidCertificateRef), Some(Reason::EndpointsPending), 5),
        ] {
            let state = Arc::new(ReadinessState::default());
            state.set_configuration(configuration(first));
            let report = watch::Sender::<Arc<Report>>::default();
            let start = tokio::time::Instant::now();
            let _readying = ready_once_all_is_served(Empty::Waits, report.subscribe(), state.clone());
            for second_passed in 0..10 {
                if second_passed == 2 {
                    state.set_configuration(configuration(second));
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
                if state.is_ready() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(999)).await;
            }
            assert_eq!(start.elapsed().as_secs(), expected, "{first:?}, then {second:?}");
        }
    }
}
