//! Reads the connections of replicas.

use form_urlencoded::Serializer;

use crate::{
    cli::ConnectionsFlags,
    kubectl::{
        admin_pages::{PageError, read_each},
        connection::ClusterConnection,
        replica::{ReplicaPod, some_replicas},
    },
    model::ConnectionList,
};

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
        if let Some(name) = &flags.name {
            connection.load_balancer(name).await?;
        }
        let replicas = some_replicas(connection).await?;
        Ok(Self { replicas, path: path(&connection.namespace, flags) })
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
    read_each(connection, &target.replicas, &target.path).await
}
