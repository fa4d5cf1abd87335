//! Wires the parts into a running process, and owns the order in which they start and stop.

mod cluster;
mod commands;
mod configuration;
mod demo;
mod serve;
mod shutdown;
mod source;

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use anyhow::{Context, bail};
use tokio::runtime;
use tracing::error;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;

use crate::{
    cli::{Command, Convert, LogFormat, Simple, Standalone},
    proxy::socket::Sharing,
    source::Files,
};
use serve::{Empty, Serving, serve};
use source::Source;

/// Runs a command to its end.
///
/// # Errors
/// A sentence for the one who typed it.
pub fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Standalone(arguments) => logged(arguments.run.log_format, || standalone(arguments)),
        Command::Controller(arguments) => {
            logged(arguments.run.log_format, || on_control_runtime(cluster::controller(*arguments)))
        }
        Command::Sidecar(arguments) => {
            logged(arguments.run.log_format, || on_control_runtime(cluster::sidecar(arguments)))
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

/// Runs a command that has a log.
fn logged(format: LogFormat, command: impl FnOnce() -> anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    let _written = log_to_stderr(format);
    match command() {
        // Who reads objects is not to find a line of another kind among them.
        Err(error) if format == LogFormat::Json => {
            error!("{error:#}");
            Ok(ExitCode::FAILURE)
        }
        ended => ended,
    }
}

/// What is not logged unless RUST_LOG names it. The Kubernetes client tells of each failed attempt; what becomes of its
/// watches is told by whoever reads them, once.
const UNSAID: &str = "kube_client=off,kube_runtime=off";

/// What the process says of itself; RUST_LOG chooses what (default: info). What is dropped last writes the rest.
///
/// A thread of its own writes it, and lines are dropped while that one is stuck: a pipe that nobody reads is not to stop
/// whoever has something to say.
fn log_to_stderr(format: LogFormat) -> WorkerGuard {
    let (stderr, guard) = tracing_appender::non_blocking(io::stderr());
    let chosen = std::env::var("RUST_LOG").ok().filter(|chosen| !chosen.is_empty());
    let filter = EnvFilter::new(format!("{UNSAID},{}", chosen.as_deref().unwrap_or("info")));
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
    let Standalone { paths, simple, admin, reuse_port, takeover, run } = arguments;
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
    on_control_runtime(async {
        let sharing = if reuse_port { Sharing::Shared } else { Sharing::Exclusive };
        let source = Source::files(files).context("SIGHUP cannot be caught")?;
        serve(Serving { source, admin, sharing, takeover, empty: Empty::Ends, leading: None, run }).await
    })
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
