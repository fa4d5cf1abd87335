//! Reads the connections of replicas.

use anyhow::bail;
use form_urlencoded::Serializer;
use futures::{StreamExt, stream};

use crate::{
    api::TcpLoadBalancer,
    cli::ConnectionsFlags,
    kubectl::{
        admin_pages::{PageError, page},
        connection::ClusterConnection,
        replica::{ReplicaPod, replicas},
    },
    model::ConnectionList,
};

/// The number of replicas that are read at a time.
const CONCURRENT: usize = 16;

/// The replicas to read, and the page to read from each.
#[derive(Debug)]
pub struct Target {
    pub replicas: Vec<ReplicaPod>,
    pub path: String,
}

/// The connections of a replica, by the name of its pod.
pub type ReplicaList = (String, Result<ConnectionList, PageError>);

impl Target {
    /// # Errors
    /// If the load balancer does not exist, or no replica is found.
    pub async fn find(connection: &ClusterConnection, flags: &ConnectionsFlags) -> anyhow::Result<Self> {
        let namespace = &connection.namespace;
        if let Some(name) = &flags.name
            && connection.get::<TcpLoadBalancer>(namespace, name).await?.is_none()
        {
            bail!("TcpLoadBalancer {namespace}/{name} does not exist: see `kubectl tcplb status -A`");
        }
        let replicas = replicas(connection).await?;
        if replicas.is_empty() {
            let place = connection.install_namespace.as_deref().unwrap_or("any namespace");
            bail!(
                "no replica was found: no pod in {place} has the labels {} and a port named admin: set --selector and \
                 --install-namespace",
                connection.selector
            );
        }
        Ok(Self { replicas, path: path(namespace, flags) })
    }
}

/// The path of the page, with the parameters of the flags.
pub fn path(namespace: &str, flags: &ConnectionsFlags) -> String {
    let mut query = Serializer::for_suffix("/connections?".to_owned(), "/connections?".len());
    match &flags.name {
        Some(name) => query.append_pair("loadBalancer", &format!("{namespace}/{name}")),
        None if flags.all_namespaces => &mut query,
        None => query.append_pair("namespace", namespace),
    };
    let listener = flags.listener.map(|port| ("listener", port.to_string()));
    let endpoint = flags.endpoint.as_ref().map(|endpoint| ("endpoint", endpoint.to_string()));
    let client = flags.client.as_ref().map(|client| ("client", client.to_string()));
    query.extend_pairs(listener.into_iter().chain(endpoint).chain(client));
    if flags.follow {
        query.append_pair("follow", "true");
    } else {
        query.append_pair("sort", flags.order().label()).append_pair("limit", &flags.limit.to_string());
    }
    query.finish()
}

/// Reads the connections of each replica, in their order.
pub async fn read_lists(connection: &ClusterConnection, target: &Target) -> Vec<ReplicaList> {
    let reading = target.replicas.iter().map(async |replica| {
        let list = page(connection, replica, &target.path).await.and_then(|page| page.json());
        (replica.key.name.to_string(), list)
    });
    stream::iter(reading).buffered(CONCURRENT).collect().await
}
