//! `kubectl tcplb top` and `tcplb top`: reads the snapshots of replicas for the live table.

use std::process::ExitCode;

use anyhow::bail;
use futures::{StreamExt, stream};

use super::{
    admin_pages::{CONCURRENT, PageError, page, page_at},
    connection::ClusterConnection,
    replica::replicas,
};
use crate::{
    cli::{TopFlags, TopUrl},
    model::{Picture, StatePicture},
    top::{ReplicaSample, TopFormat, TopOptions, TopOrder, run},
};

/// Runs `kubectl tcplb top`.
pub async fn of_cluster(
    connection: &ClusterConnection,
    namespace: Option<&str>,
    flags: &TopFlags,
) -> anyhow::Result<ExitCode> {
    run(flags.into(), || read_replicas(connection, namespace)).await
}

/// Runs `tcplb top`.
///
/// # Errors
/// A sentence for the user.
pub async fn of_address(arguments: &TopUrl) -> anyhow::Result<ExitCode> {
    let TopUrl { url, flags } = arguments;
    run(flags.into(), || async {
        let picture = page_at(url, "/snapshot").await.and_then(|page| page.json());
        Ok(vec![ReplicaSample { name: url.to_string(), picture: picture.map_err(|error| error.to_string()) }])
    })
    .await
}

/// Reads all replicas. Load balancers of other namespaces are omitted.
async fn read_replicas(connection: &ClusterConnection, namespace: Option<&str>) -> anyhow::Result<Vec<ReplicaSample>> {
    let found = replicas(connection).await?;
    if found.is_empty() {
        let place = connection.install_namespace.as_deref().unwrap_or("any namespace");
        bail!(
            "no replica was found: no pod in {place} has the labels {} and a port named admin: set --selector and \
             --install-namespace",
            connection.selector
        );
    }
    let reading = found.iter().map(async |replica| {
        let picture: Result<StatePicture, PageError> =
            page(connection, replica, "/snapshot").await.and_then(|page| page.json());
        let picture = picture.map(|picture| of_namespace(picture, namespace)).map_err(|error| error.to_string());
        ReplicaSample { name: replica.key.name.to_string(), picture }
    });
    Ok(stream::iter(reading).buffered(CONCURRENT).collect().await)
}

/// The picture without load balancers of other namespaces. `None`: all.
fn of_namespace(picture: StatePicture, namespace: Option<&str>) -> StatePicture {
    let Some(namespace) = namespace else { return picture };
    let is_of = |name: &str| name.split_once('/').is_some_and(|(other, _)| other == namespace);
    let load_balancers = picture.load_balancers.into_iter().filter(|load_balancer| is_of(&load_balancer.name));
    Picture { load_balancers: load_balancers.collect(), ..picture }
}

impl From<&TopFlags> for TopOptions {
    fn from(flags: &TopFlags) -> Self {
        Self {
            interval: flags.interval.0,
            order: flags.sort.into(),
            filter: flags.filter.clone().unwrap_or_default(),
            output: flags.output.map_or(TopFormat::Live, Into::into),
        }
    }
}

impl From<crate::cli::TopSort> for TopOrder {
    fn from(sort: crate::cli::TopSort) -> Self {
        use crate::cli::TopSort;
        match sort {
            TopSort::Name => Self::Name,
            TopSort::Usable => Self::Endpoints,
            TopSort::Open => Self::Open,
            TopSort::New => Self::Connections,
            TopSort::Bytes => Self::Bytes,
            TopSort::Failed => Self::Failures,
        }
    }
}

impl From<crate::cli::TopOutput> for TopFormat {
    fn from(output: crate::cli::TopOutput) -> Self {
        match output {
            crate::cli::TopOutput::Text => Self::Text,
            crate::cli::TopOutput::Json => Self::Json,
        }
    }
}
