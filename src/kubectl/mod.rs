//! `kubectl tcplb`: inspects the load balancers of a cluster, drains endpoints, and fails
//! back.
//!
//! Each command gathers facts, derives a document, and renders it. Documents and renderings are pure. `explain` only
//! prints documentation.

mod admin_pages;
mod bundle;
mod connection;
mod connections;
mod doctor;
mod explain;
#[cfg(test)]
pub mod golden;
mod maintenance;
mod names;
mod output;
mod permission;
mod replica;
mod runbook;
mod status;
mod top;

use std::process::ExitCode;

use crate::cli::{Kubectl, KubectlCommand};
use connection::ClusterConnection;
pub use names::names;
pub use top::{of_address as top_of_address, sample_of_address};

/// Runs a command.
///
/// # Errors
/// A sentence for the user.
pub async fn run(arguments: Kubectl) -> anyhow::Result<ExitCode> {
    let Kubectl { cluster, command } = arguments;
    let connect = || ClusterConnection::open(&cluster);
    match command {
        KubectlCommand::Status(flags) => status::run(&connect().await?, &flags).await,
        KubectlCommand::Connections(flags) => connections::run(&connect().await?, &flags).await,
        KubectlCommand::Bundle(flags) => bundle::run(&connect().await?, &flags).await,
        KubectlCommand::Doctor(flags) => match connect().await {
            Ok(connection) => doctor::run(&connection, &flags).await,
            Err(error) => doctor::not_run(&error),
        },
        KubectlCommand::Drain(flags) => maintenance::drain(&connect().await?, &flags).await,
        KubectlCommand::Explain(flags) => explain::run(&flags),
        KubectlCommand::Top(flags) => {
            let connection = connect().await?;
            let namespace = (!flags.all_namespaces).then_some(connection.namespace.as_str());
            top::of_cluster(&connection, namespace, &flags.top).await
        }
        KubectlCommand::Undrain(flags) => maintenance::undrain(&connect().await?, &flags).await,
        KubectlCommand::Failback(flags) => maintenance::failback(&connect().await?, &flags).await,
    }
}
