//! The names that complete a command line.

use std::{sync::mpsc, thread, time::Duration};

use kube::{Api, api::ListParams};
use tokio::runtime;

use super::{connection::ClusterConnection, explain};
use crate::{
    api::TcpLoadBalancer,
    cli::{ClusterFlags, Kubectl, KubectlCommand},
};

/// The time limit, since a shell waits for the names.
const LIMIT: Duration = Duration::from_secs(2);

/// The possible names in a command line. Empty after an error, or after the time limit.
pub fn names(arguments: Kubectl) -> Vec<String> {
    match arguments.command {
        KubectlCommand::Explain(_) => explain::names(),
        KubectlCommand::Status(_)
        | KubectlCommand::Connections(_)
        | KubectlCommand::Drain(_)
        | KubectlCommand::Undrain(_)
        | KubectlCommand::Failback(_) => of_load_balancers(arguments.cluster),
        KubectlCommand::Doctor(_) | KubectlCommand::Bundle(_) | KubectlCommand::Top(_) => Vec::new(),
    }
}

/// Reads the names on another thread, which the credential program of a kubeconfig may block. It ends with the process.
fn of_load_balancers(flags: ClusterFlags) -> Vec<String> {
    let (sender, names) = mpsc::channel();
    thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        // It fails after the time limit.
        let _ = sender.send(runtime.block_on(read(&flags))?);
        anyhow::Ok(())
    });
    names.recv_timeout(LIMIT).unwrap_or_default()
}

/// The load balancers of the namespace.
async fn read(flags: &ClusterFlags) -> anyhow::Result<Vec<String>> {
    let connection = ClusterConnection::open(flags).await?;
    let load_balancers: Api<TcpLoadBalancer> = Api::namespaced(connection.client, &connection.namespace);
    let objects = load_balancers.list_metadata(&ListParams::default()).await?;
    Ok(objects.items.into_iter().filter_map(|object| object.metadata.name).collect())
}
