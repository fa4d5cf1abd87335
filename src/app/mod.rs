//! Wires the parts into a running process, and defines the order in which they start and stop.

mod check;
mod cluster;
mod commands;
mod configuration;
mod demo;
mod free_memory;
mod last_words;
mod log;
mod runtime;
mod serve;
mod shutdown;
mod source;

use std::{ffi::OsStr, path::Path, process::ExitCode};

use anyhow::{Context, bail};
use clap::Parser;
use tracing::error;

use crate::{
    cli::{Cli, Command, Convert, KubectlCli, LogFormat, Simple, Standalone, kubectl_completion},
    kubectl,
    memory::share_arenas,
    printable::printable,
    proxy::socket::Sharing,
    source::Files,
};
pub use last_words::print_error;
use log::{LogOptions, log_to_stderr};
use runtime::on_control_runtime;
use serve::{Empty, Serving, local_access, serve};
use source::Source;

/// The program's name as a plugin of kubectl.
const PLUGIN: &str = "kubectl-tcplb";
/// The program's name when kubectl completes the words of the plugin.
const PLUGIN_COMPLETION: &str = "kubectl_complete-tcplb";

/// Runs the command line. The name of the program selects between `tcplb`, `kubectl-tcplb` and
/// `kubectl_complete-tcplb`. A wrong command line ends the process.
///
/// # Errors
/// A sentence for the user, safe for a terminal.
pub fn run_command_line() -> Result<ExitCode, String> {
    let name = std::env::args_os().next().unwrap_or_default();
    match Path::new(&name).file_name().and_then(OsStr::to_str) {
        Some(PLUGIN) => run(Command::Kubectl(Box::new(KubectlCli::parse().kubectl))),
        Some(PLUGIN_COMPLETION) => {
            let words: Vec<String> = std::env::args().skip(1).collect();
            commands::print(&kubectl_completion(&words, kubectl::names)).map_err(|error| error.to_string())
        }
        _ => run(Cli::parse().command),
    }
}

/// Runs a command.
///
/// # Errors
/// A sentence for the user, safe for a terminal.
pub fn run(command: Command) -> Result<ExitCode, String> {
    execute(command).map_err(|error| printable(&format!("{error:#}"), MAX_ERROR).into_owned())
}

/// The maximum length of an error, in bytes.
const MAX_ERROR: usize = 64 << 10;

fn execute(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Standalone(arguments) => logged(&LogOptions::of(&arguments.run), || standalone(arguments)),
        Command::Controller(arguments) => {
            logged(&LogOptions::of(&arguments.run), || on_control_runtime(cluster::controller(*arguments)))
        }
        Command::Sidecar(arguments) => {
            logged(&LogOptions::of(&arguments.run), || on_control_runtime(cluster::sidecar(arguments)))
        }
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Check(arguments) => Ok(check::run(arguments)),
        Command::Kubectl(arguments) => on_control_runtime(kubectl::run(*arguments)),
        Command::Top(arguments) => on_control_runtime(kubectl::top_of_address(&arguments)),
        Command::Completion { shell } => commands::completion(shell),
        Command::Man { out } => commands::man(&out),
        Command::Crd => commands::crd(),
        Command::Convert(Convert::Golb { file }) => commands::convert_golb(&file),
        Command::Cert(arguments) => commands::certificate(&arguments),
        Command::Backend(arguments) => {
            let _written = log_to_stderr(&LogOptions { format: LogFormat::Text, filter_file: None });
            commands::test_backend(arguments)
        }
        Command::Probe(arguments) => commands::probe(&arguments),
    }
}

/// Runs a serving command, with a log.
fn logged(options: &LogOptions, command: impl FnOnce() -> anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    // Before threads start, because each would get an arena of its own.
    share_arenas();
    let _written = log_to_stderr(options);
    match command() {
        // Readers of JSON must not find a line in another format.
        Err(error) if options.format == LogFormat::Json => {
            error!("{error:#}");
            Ok(ExitCode::FAILURE)
        }
        ended => ended,
    }
}

/// `tcplb standalone`: serves until a signal or a successor ends it.
fn standalone(arguments: Standalone) -> anyhow::Result<ExitCode> {
    let Standalone { paths, simple, admin, admin_authorization, reuse_port, takeover, run } = arguments;
    let simple = if paths.is_empty() {
        simple.or(Simple::from_environment(|name| std::env::var(name)).map_err(anyhow::Error::msg)?)
    } else {
        simple
    };
    let spec = simple.spec().map_err(anyhow::Error::msg)?;
    if paths.is_empty() && spec.is_none() {
        bail!("nothing to serve: give a manifest, or --listen and --backend; `tcplb demo` shows an example");
    }
    let mut files = Files::new(paths);
    if let Some(spec) = &spec {
        files = files.with_flags(spec);
    }
    on_control_runtime(async {
        let sharing = if reuse_port { Sharing::Shared } else { Sharing::Exclusive };
        let source = Source::files(files).context("cannot handle SIGHUP")?;
        serve(Serving {
            source,
            instruments: std::sync::Arc::default(),
            admin,
            admin_access: local_access(admin_authorization),
            sharing,
            takeover,
            empty: Empty::Ends,
            leading: None,
            run,
        })
        .await
    })
}
