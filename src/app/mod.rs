//! Wires the parts into a running process, and owns the order in which they start and stop.

mod commands;
mod configuration;
mod demo;
mod shutdown;

use std::{
    io::{self, IsTerminal},
    net::TcpListener as StdTcpListener,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::{net::TcpListener, runtime, sync::oneshot, task::spawn_blocking, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;

use crate::{
    admin,
    cli::{AdminAddress, Command, Convert, LogFormat, Run, Simple, Standalone},
    descriptors,
    model::{Report, Snapshot},
    proxy::{Options, Proxy, access_log::AccessLog, cannot_listen, socket::Sharing},
    source::Files,
    state::State,
    takeover::{self, Inheritance, Offer, Successor},
};
use configuration::Compiler;
use shutdown::Cause;

/// How long the end of the admin pages may take, once another process serves them.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// Runs a command to its end.
///
/// # Errors
/// A sentence for the one who typed it.
pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Standalone(arguments) => {
            let format = arguments.run.log_format;
            let _written = log_to_stderr(format);
            match standalone(arguments) {
                // Who reads objects is not to find a line of another kind among them.
                Err(error) if format == LogFormat::Json => {
                    error!("{error:#}");
                    Ok(ExitCode::FAILURE)
                }
                ended => ended,
            }
        }
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Check { paths } => commands::check(paths),
        Command::Crd => commands::crd(),
        Command::Convert(Convert::Golb { file }) => commands::convert_golb(&file),
        Command::Cert(arguments) => commands::certificate(&arguments),
        Command::Backend(arguments) => {
            let _written = log_to_stderr(LogFormat::Text);
            commands::test_backend(arguments)
        }
        Command::Probe(arguments) => commands::probe(&arguments),
    }
}

/// What the process says of itself; RUST_LOG chooses what (default: info). What is dropped last writes the rest.
///
/// A thread of its own writes it, and lines are dropped while that one is stuck: a pipe that nobody reads is not to stop
/// whoever has something to say.
fn log_to_stderr(format: LogFormat) -> WorkerGuard {
    let (stderr, guard) = tracing_appender::non_blocking(io::stderr());
    let chosen = std::env::var("RUST_LOG").ok().filter(|chosen| !chosen.is_empty());
    let filter = EnvFilter::new(chosen.as_deref().unwrap_or("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_target(false);
    // It would say so on standard error, and panic where that is what fails: a full disk, a reader that has gone.
    let log = log.log_internal_errors(false);
    match format {
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    guard
}

/// `tcplb standalone`: serves until a signal or a successor ends it.
fn standalone(arguments: Standalone) -> anyhow::Result<ExitCode> {
    let Standalone { paths, simple, run } = arguments;
    let simple = if paths.is_empty() {
        simple.or(Simple::from_environment(|name| std::env::var(name).ok()).map_err(anyhow::Error::msg)?)
    } else {
        simple
    };
    let spec = simple.spec().map_err(anyhow::Error::msg)?;
    if paths.is_empty() && spec.is_none() {
        bail!(
            "there is nothing to serve: name a manifest, or give --listen and --backend; `tcplb demo` shows how it works"
        );
    }
    let mut files = Files::new(paths);
    if let Some(spec) = &spec {
        files = files.with_flags(spec);
    }
    on_control_runtime(serve(files, &run))
}

/// Runs on the runtime for everything but connections: two threads, so that slow work holds up neither health checks nor the
/// admin pages.
fn on_control_runtime<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .context("the control runtime cannot be made")?;
    let outcome = runtime.block_on(work);
    // A look-up that hangs is not waited for.
    runtime.shutdown_background();
    outcome
}

async fn serve(files: Files, run: &Run) -> anyhow::Result<ExitCode> {
    let signals = shutdown::Signals::catch()?;
    let workers = run.worker_count();
    // First of all: what another process passes on counts against the limit too.
    let budget = descriptors::raise_limit(workers);
    let (successor, inheritance) = inherit(run, &signals).await?;
    let state = Arc::new(State::default());
    let admin = bind_admin(run.admin, inheritance.admin)?;

    let (access_log, writer) = AccessLog::start(run.access_log.into(), run.log_format.into(), io::stdout());
    let options = Options {
        workers,
        capacity: budget.connections,
        preconnected: budget.preconnected,
        sharing: if run.reuse_port { Sharing::Shared } else { Sharing::Exclusive },
        inherited: inheritance.listeners,
        access_log,
    };
    let proxy = Arc::new(Proxy::start(options, &runtime::Handle::current()).context("the workers cannot be started")?);
    info!(workers, connections = budget.connections, "started");

    let mut compiler = Compiler::new(files, state.clone());
    let first = async {
        let first = compiler.compile().await;
        first_report(&proxy, first.clone()).await.map(|report| (first, report))
    };
    let (first, report) = tokio::select! {
        first = first => first?,
        () = signals.first() => bail!("ended before the manifests were read"),
    };
    let _telling = configuration::tell_of_unbound(proxy.reports(), state.clone());
    if let Err(error) = worth_running(&first, &report, &state) {
        proxy.stop();
        return Err(error);
    }
    state.set_ready(true);
    let stop_admin = CancellationToken::new();
    // Not before: at an inherited address the previous process answers that it is ready.
    let admin_pages = match &admin {
        None => None,
        Some(admin) => {
            let listener = TcpListener::from_std(admin.try_clone()?)?;
            info!(address = %admin.local_addr()?, "admin pages");
            Some(tokio::spawn(admin::serve(listener, proxy.monitor(), state.clone(), stop_admin.clone())))
        }
    };
    let taken_over = offer(run, &proxy, admin)?;
    if let Some(successor) = successor {
        match successor.serving() {
            Ok(()) => info!("took over from the previous process"),
            // It has ended meanwhile: its sockets are here.
            Err(error) => warn!(%error, "the previous process cannot be told that this one serves"),
        }
    }
    let compiling = configuration::follow(compiler, proxy.clone());

    let cause = tokio::select! {
        () = signals.first() => Cause::Signal,
        () = taken_over => Cause::TakenOver,
    };
    drop(compiling);
    let orderly = async {
        if cause == Cause::TakenOver {
            stop_admin.cancel();
        }
        shutdown::leave(cause, &proxy, &state, run, &signals).await;
        if cause == Cause::TakenOver
            && let Some(admin_pages) = admin_pages
        {
            let _ = timeout(LAST_ANSWERS, admin_pages).await;
        }
    };
    let code = shutdown::unless_hurried(orderly, &signals).await;
    proxy.stop();
    writer.finish(proxy.monitor().access_log());
    Ok(code)
}

/// What the running process passes on, if one is to be taken over from. A signal ends the wait for it.
async fn inherit(run: &Run, signals: &shutdown::Signals) -> anyhow::Result<(Option<Successor>, Inheritance)> {
    let Some(path) = run.takeover.clone() else { return Ok((None, Inheritance::default())) };
    let asked = tokio::select! {
        asked = spawn_blocking(move || takeover::ask(&path)) => asked??,
        () = signals.first() => bail!("ended before the previous process has passed its sockets on"),
    };
    Ok(match asked {
        Some((successor, inheritance)) => (Some(successor), inheritance),
        None => (None, Inheritance::default()),
    })
}

fn bind_admin(address: AdminAddress, inherited: Option<StdTcpListener>) -> anyhow::Result<Option<StdTcpListener>> {
    let AdminAddress::At(address) = address else { return Ok(None) };
    if let Some(inherited) = inherited
        && inherited.local_addr().is_ok_and(|inherited| inherited == address)
    {
        return Ok(Some(inherited));
    }
    let bound = StdTcpListener::bind(address)
        .map_err(|error| anyhow::anyhow!("admin pages: {} (--admin)", cannot_listen(address, &error)))?;
    bound.set_nonblocking(true)?;
    Ok(Some(bound))
}

/// Applies the first snapshot.
async fn first_report(proxy: &Proxy, first: Arc<Snapshot>) -> anyhow::Result<Arc<Report>> {
    let generation = first.generation;
    let mut reports = proxy.reports();
    if generation > 0 {
        proxy.publish(first);
    }
    let applied = reports.wait_for(|report| report.generation >= generation).await;
    Ok(applied.context("the proxy stopped before it applied a configuration")?.clone())
}

/// A process that could serve nothing of what it was given ends: whoever started it should see that.
fn worth_running(first: &Snapshot, report: &Report, state: &State) -> anyhow::Result<()> {
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
        bail!("nothing could be served: see what is refused above");
    }
    if first.listeners.is_empty() {
        warn!("no TcpLoadBalancer is declared yet: waiting for one");
    }
    Ok(())
}

/// Offers the sockets to a successor, where that is wanted; ready when one has taken over.
fn offer(
    run: &Run,
    proxy: &Arc<Proxy>,
    admin: Option<StdTcpListener>,
) -> anyhow::Result<impl Future<Output = ()> + use<>> {
    let (taken, taken_over) = oneshot::channel();
    if let Some(path) = &run.takeover {
        let offer = Offer::at(path)?;
        let (proxy, control) = (proxy.clone(), runtime::Handle::current());
        std::thread::Builder::new().name("takeover".into()).spawn(move || {
            offer.wait(|| control.block_on(proxy.sockets()), admin.as_ref());
            let _ = taken.send(());
        })?;
    }
    Ok(async {
        // Without an offer nobody ever takes over.
        if taken_over.await.is_err() {
            std::future::pending().await
        }
    })
}
