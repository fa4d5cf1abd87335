//! The document of `kubectl tcplb connections -o json|yaml`.

use std::cmp::Reverse;

use serde::Serialize;

use super::gather::ReplicaList;
use crate::{cli::ConnectionsFlags, model::ConnectionView};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionsDocument {
    /// The number of open connections that match the filters, including those that are left out.
    pub matching: usize,
    /// In the requested order.
    pub connections: Vec<ReplicaConnection>,
    /// Missing facts, as sentences.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A connection and its replica.
#[derive(Debug, Serialize)]
pub struct ReplicaConnection {
    /// The name of the pod.
    pub replica: String,
    #[serde(flatten)]
    pub connection: ConnectionView,
}

impl ConnectionsDocument {
    /// Merges the lists of the replicas.
    pub fn new(lists: Vec<ReplicaList>, flags: &ConnectionsFlags) -> Self {
        let mut document = Self { matching: 0, connections: Vec::new(), notes: Vec::new() };
        for (replica, list) in lists {
            match list {
                Ok(list) => {
                    document.matching += list.matching;
                    let of_replica = |connection| ReplicaConnection { replica: replica.clone(), connection };
                    document.connections.extend(list.connections.into_iter().map(of_replica));
                }
                Err(error) => {
                    document.notes.push(format!("the connections of replica {replica} are not shown: {error}"));
                }
            }
        }
        document.connections.sort_by_key(|connection| Reverse(connection.connection.rank(flags.order())));
        document.connections.truncate(flags.limit.into());
        document
    }
}
