//! Reads the objects and the admin pages for the status.

use crate::{
    api::{Placement, TcpLoadBalancer},
    cli::StatusFlags,
    kubectl::{
        admin_pages::{PageError, ReplicaPages, read_all},
        connection::ClusterConnection,
        replica::{ReplicaPod, no_replica, replicas},
    },
};

/// The facts that a status shows.
pub struct StatusFacts {
    pub load_balancers: Vec<TcpLoadBalancer>,
    pub replicas: Vec<(ReplicaPod, Result<ReplicaPages, PageError>)>,
    /// Missing facts, as sentences.
    pub notes: Vec<String>,
}

impl StatusFacts {
    /// # Errors
    /// If the load balancers cannot be read, or the named one does not exist. Everything else is a note.
    pub async fn gather(connection: &ClusterConnection, flags: &StatusFlags) -> anyhow::Result<Self> {
        let namespace = &connection.namespace;
        let load_balancers: Vec<TcpLoadBalancer> = match &flags.name {
            Some(name) => vec![connection.load_balancer(name).await?],
            None => connection.list(Some(namespace).filter(|_| !flags.all_namespaces).map(String::as_str), "").await?,
        };
        if load_balancers.is_empty() {
            return Ok(Self { load_balancers, replicas: Vec::new(), notes: Vec::new() });
        }
        let mut notes = Vec::new();
        let found = replicas(connection).await.unwrap_or_else(|error| {
            notes.push(format!("replicas are not shown: {error}"));
            Vec::new()
        });
        if found.is_empty() && notes.is_empty() {
            notes.push(no_replica(connection));
        }
        if flags.name.is_some() && load_balancers[0].spec.placement == Some(Placement::Sidecar) {
            notes.push(
                "the endpoints of placement Sidecar are not shown: each pod has its own; see /snapshot on the \
                        admin port of its container"
                    .into(),
            );
        }
        let pages = read_all(connection, &found).await;
        Ok(Self { load_balancers, replicas: found.into_iter().zip(pages).collect(), notes })
    }
}
