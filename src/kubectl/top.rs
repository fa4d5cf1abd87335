//! `kubectl tcplb top` and `tcplb top`: reads the snapshots of replicas for the live table.

use std::process::ExitCode;

use hyper::Uri;

use super::{
    admin_pages::{PageError, page_at, read_each},
    connection::ClusterConnection,
    replica::some_replicas,
};
use crate::{
    cli::{TopFlags, TopOutput, TopSort, TopUrl},
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
    run(flags.into(), || async { Ok(vec![sample_of_address(url).await]) }).await
}

/// The state of the process with this admin address.
pub async fn sample_of_address(url: &Uri) -> ReplicaSample {
    let picture = page_at(url, "/snapshot").await.and_then(|page| page.json());
    ReplicaSample { name: url.to_string(), picture: picture.map_err(|error| error.to_string()) }
}

/// Reads all replicas. Load balancers of other namespaces are omitted.
async fn read_replicas(connection: &ClusterConnection, namespace: Option<&str>) -> anyhow::Result<Vec<ReplicaSample>> {
    let found = some_replicas(connection).await?;
    let pictures = read_each(connection, &found, "/snapshot").await;
    let sample = |(name, picture): (String, Result<StatePicture, PageError>)| {
        let picture = picture.map(|picture| of_namespace(picture, namespace)).map_err(|error| error.to_string());
        ReplicaSample { name, picture }
    };
    Ok(pictures.into_iter().map(sample).collect())
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
            ..Self::default()
        }
    }
}

impl From<TopSort> for TopOrder {
    fn from(sort: TopSort) -> Self {
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

impl From<TopOutput> for TopFormat {
    fn from(output: TopOutput) -> Self {
        match output {
            TopOutput::Text => Self::Text,
            TopOutput::Wide => Self::Wide,
            TopOutput::Json => Self::Json,
            TopOutput::Yaml => Self::Yaml,
        }
    }
}
