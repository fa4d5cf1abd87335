//! The commands that run once and exit.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, anyhow};
use clap::CommandFactory;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{runtime::on_control_runtime, shutdown::Signals};
use crate::{
    api,
    cli::{Cert, Cli, KubectlCli, ProbeArgs, Shell, TestBackend},
    printable::{printable, printable_lines},
    source::decoded,
    tools::{backend, cert, convert, probe},
};

/// The maximum length of a line with text from outside, in bytes.
const MAX_TEXT: usize = 8 << 10;

/// `tcplb crd`
pub fn crd() -> anyhow::Result<ExitCode> {
    print(&serde_saphyr::to_string(&api::crd())?)
}

/// `tcplb convert golb FILE`
#[expect(clippy::print_stderr, reason = "the command has no log; its output is the manifest")]
pub fn convert_golb(file: &Path) -> anyhow::Result<ExitCode> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let converted = decoded(bytes).and_then(|text| convert::golb(&text).map_err(|error| error.to_string()));
    let converted = converted.map_err(|error| anyhow!("{}: {error}", file.display()))?;
    for warning in &converted.warnings {
        eprintln!("warning: {}", printable(warning, MAX_TEXT));
    }
    print(&converted.manifest)
}

/// `tcplb completion SHELL`
pub fn completion(shell: Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tcplb", &mut script);
    print(&String::from_utf8(script)?)
}

/// `tcplb man`
pub fn man(folder: &Path) -> anyhow::Result<ExitCode> {
    let write = |command| clap_mangen::generate_to(command, folder);
    let written = write(Cli::command()).and_then(|()| write(KubectlCli::command().bin_name("kubectl-tcplb")));
    written.with_context(|| format!("cannot write man pages to {}: create the folder", folder.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// `tcplb cert NAME…`
pub fn certificate(arguments: &Cert) -> anyhow::Result<ExitCode> {
    let pair = cert::generate(&arguments.names, Timestamp::now())?;
    if let Some(name) = &arguments.secret {
        let name = name.parse().map_err(|error| anyhow!("--secret: {error}"))?;
        return print(&pair.secret_manifest(&name));
    }
    let existing = if arguments.force { cert::Existing::Replace } else { cert::Existing::Refuse };
    let written = pair.write(&arguments.out, existing)?;
    print(&format!("{}\n{}\n", written.certificate.display(), written.key.display()))
}

/// `tcplb backend`
pub fn test_backend(arguments: TestBackend) -> anyhow::Result<ExitCode> {
    on_control_runtime(async {
        let signals = Signals::catch()?;
        let options = backend::EchoOptions {
            address: arguments.listen.socket_address(),
            name: arguments.name,
            delay: arguments.delay.0,
            greeting: arguments.greeting,
        };
        let backend = backend::EchoServer::bind(options)?;
        let stop = CancellationToken::new();
        let serving = tokio::spawn(backend.serve(stop.clone()));
        signals.first().await;
        stop.cancel();
        serving.await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// `tcplb probe`
pub fn probe(arguments: &ProbeArgs) -> anyhow::Result<ExitCode> {
    let target: probe::HttpUrl = arguments.url.parse().map_err(|error: String| anyhow!(error))?;
    let answer = on_control_runtime(async { Ok(target.answers_within(arguments.within.0).await) })?;
    match answer {
        Ok(answer) => print(&format!("{}\n", printable_lines(&answer, MAX_TEXT))),
        Err(error) => Err(anyhow!("{target} {error}")),
    }
}

/// Prints the text. A reader that closes the output early is not an error.
pub(super) fn print(text: &str) -> anyhow::Result<ExitCode> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}
