//! The traffic of the other replicas, for the admin page of the leader.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::future::join_all;
use hyper::StatusCode;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tracing::debug;

use super::{
    super::AdminToken,
    Replicas,
    admin_connection::{AdminConnection, AdminError, read},
};
use crate::{
    instruments::TrafficRequest,
    model::{REPORT_TRAFFIC, ReplicaTraffic, TrafficByReplica},
};

/// The time limit of a replica. A browser waits for it.
const LIMIT: Duration = Duration::from_secs(1);

/// Answers requests for the traffic of all replicas but the own one. Replicas that do not answer are omitted. Requests
/// that arrive while the replicas are asked get the same answer.
pub async fn answer(
    mut requests: mpsc::Receiver<TrafficRequest>,
    replicas: watch::Receiver<Arc<Replicas>>,
    token: AdminToken,
    own: String,
) {
    while let Some(request) = requests.recv().await {
        let replicas = replicas.borrow().clone();
        let traffic = Arc::new(gather(&replicas, &token, &own).await);
        let mut waiting = Some(request);
        while let Some(request) = waiting {
            // The browser may be gone.
            let _ = request.send(traffic.clone());
            waiting = requests.try_recv().ok();
        }
    }
}

async fn gather(replicas: &Replicas, token: &AdminToken, own: &str) -> TrafficByReplica {
    let others = replicas.iter().filter(|(pod, replica)| ***pod != *own && replica.report.is_some());
    let traffic = join_all(others.map(async |(pod, replica)| {
        let traffic = timeout(LIMIT, traffic_of(replica.address, token)).await.unwrap_or(Err(AdminError::Silent));
        let traffic = traffic.inspect_err(|error| debug!(%pod, %error, "the traffic of the replica is unknown"));
        Some((pod.clone(), traffic.ok()?))
    }));
    traffic.await.into_iter().flatten().collect()
}

async fn traffic_of(address: SocketAddr, token: &AdminToken) -> Result<ReplicaTraffic, AdminError> {
    let mut connection = AdminConnection::open(address).await?;
    read(connection.get(REPORT_TRAFFIC, token, None, &[StatusCode::OK]).await?).await
}
