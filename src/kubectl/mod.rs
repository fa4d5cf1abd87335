//! `kubectl tcplb`: inspects the load balancers of a cluster, drains endpoints, and fails
//! back.
//!
//! Each command gathers facts, derives a document, and renders it. Documents and renderings are pure.

mod admin_pages;
mod bundle;
mod connection;
mod connections;
mod doctor;
#[cfg(test)]
pub mod golden;
mod maintenance;
mod output;
mod permission;
mod replica;
mod runbook;
mod status;
mod top;

use std::process::ExitCode;

use crate::cli::{Kubectl, KubectlCommand};
use connection::ClusterConnection;
pub use top::{of_address as top_of_address, sample_of_address};

/// Runs a command.
///
/// # Errors
/// A sentence for the user.
pub async fn run(arguments: Kubectl) -> anyhow::Result<ExitCode> {
    let Kubectl { cluster, command } = arguments;
    let connection = match ClusterConnection::open(&cluster).await {
        Ok(connection) => connection,
        Err(error) if matches!(command, KubectlCommand::Doctor(_)) => return doctor::not_run(&error),
        Err(error) => return Err(error),
    };
    match command {
        KubectlCommand::Status(flags) => status::run(&connection, &flags).await,
        KubectlCommand::Connections(flags) => connections::run(&connection, &flags).await,
        KubectlCommand::Bundle(flags) => bundle::run(&connection, &flags).await,
        KubectlCommand::Doctor(flags) => doctor::run(&connection, &flags).await,
        KubectlCommand::Drain(flags) => maintenance::drain(&connection, &flags).await,
        KubectlCommand::Top(flags) => {
            let namespace = (!flags.all_namespaces).then_some(connection.namespace.as_str());
            top::of_cluster(&connection, namespace, &flags.top).await
        }
        KubectlCommand::Undrain(flags) => maintenance::undrain(&connection, &flags).await,
        KubectlCommand::Failback(flags) => maintenance::failback(&connection, &flags).await,
    }
}
