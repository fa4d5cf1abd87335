//! `kubectl tcplb doctor`: checks a cluster, an installation and its load balancers.

mod attempts;
mod checks;
mod document;
mod facts;
mod gather;
mod metrics;
mod needed_permissions;
mod workload;

#[cfg(test)]
mod tests;

use std::{io::Write, process::ExitCode, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    connection::ClusterConnection,
    output::{json, yaml},
};
use crate::{
    cli::{DoctorFlags, DoctorOutput},
    stdout::print,
};
use document::DoctorDocument;

/// The pause between two rounds of checks with `--wait`.
const PAUSE: Duration = Duration::from_secs(2);
/// The exit code if the checks could not run.
const NOT_RUN: u8 = 2;

/// Runs the command.
pub async fn run(connection: &ClusterConnection, flags: &DoctorFlags) -> anyhow::Result<ExitCode> {
    let until = Instant::now() + flags.wait.0;
    let document = loop {
        let document = document(connection, flags).await;
        if !document.has_errors() || Instant::now() >= until {
            break document;
        }
        sleep(PAUSE).await;
    };
    print(&match flags.output {
        DoctorOutput::Text => document.text(),
        DoctorOutput::Json => json(&document),
        DoctorOutput::Yaml => yaml(&document)?,
    })?;
    let fails = document.has_errors() || flags.strict && document.has_warnings();
    Ok(if fails { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The results of one round of checks.
pub async fn document(connection: &ClusterConnection, flags: &DoctorFlags) -> DoctorDocument {
    DoctorDocument::new(checks::results(&gather::facts(connection, flags).await))
}

/// The result if there is no usable kubeconfig.
pub fn not_run(error: &anyhow::Error) -> anyhow::Result<ExitCode> {
    writeln!(std::io::stderr(), "tcplb: {error:#}")?;
    Ok(NOT_RUN.into())
}
