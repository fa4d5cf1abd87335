//! The traffic of the other replicas, for the admin page of the leader.

use std::{collections::BTreeMap, mem, net::SocketAddr, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use hyper::StatusCode;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};
use tracing::{info, warn};

use super::{
    super::AdminToken,
    admin_connection::{AdminConnection, AdminError, read},
    known::Replicas,
};
use crate::{
    instruments::TrafficRequest,
    model::{REPORT_TRAFFIC, ReplicaTraffic, TrafficByReplica},
};

/// The time limit for the answer of a replica. The page waits for it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// The last answer of a replica that does not answer is used for this long.
const KEPT_FOR: Duration = Duration::from_secs(10);
/// The maximum number of replicas that are asked at a time.
const CONCURRENT: usize = 16;

/// Reads the traffic of replicas.
pub struct TrafficReader {
    replicas: watch::Receiver<Arc<Replicas>>,
    token: AdminToken,
    /// The pod of the leader itself, which is not asked.
    own: String,
    /// The last answers.
    known: BTreeMap<Arc<str>, KnownTraffic>,
}

/// The last answer of a replica.
struct KnownTraffic {
    /// The time of the answer; `None`: there was none.
    at: Option<Instant>,
    traffic: Result<Arc<ReplicaTraffic>, String>,
}

impl TrafficReader {
    pub fn new(replicas: watch::Receiver<Arc<Replicas>>, token: AdminToken, own: String) -> Self {
        Self { replicas, token, own, known: BTreeMap::new() }
    }

    /// Answers requests for the traffic of all ready replicas but the own one. Requests that arrive while the replicas
    /// are asked get the same answer.
    pub async fn answer(mut self, mut requests: mpsc::Receiver<TrafficRequest>) {
        while let Some(request) = requests.recv().await {
            if request.is_closed() {
                continue;
            }
            let traffic = Arc::new(self.read().await);
            let mut waiting = Some(request);
            while let Some(request) = waiting {
                // The browser may be gone.
                let _ = request.send(traffic.clone());
                waiting = requests.try_recv().ok();
            }
        }
    }

    async fn read(&mut self) -> TrafficByReplica {
        let replicas = self.replicas.borrow().clone();
        let others = replicas.iter().filter(|(pod, replica)| ***pod != *self.own && replica.report.is_some());
        let others: Vec<_> = others.map(|(pod, replica)| (pod.clone(), replica.address, self.token.clone())).collect();
        let answers = stream::iter(others).map(|(pod, address, token)| async move {
            let answer = timeout(ANSWER_TIMEOUT, traffic_of(address, &token)).await;
            (pod, answer.unwrap_or(Err(AdminError::Silent)))
        });
        let answers: Vec<_> = answers.buffer_unordered(CONCURRENT).collect().await;
        let mut before = mem::take(&mut self.known);
        for (pod, answer) in answers {
            let known = KnownTraffic::after(&pod, before.remove(&pod), answer);
            self.known.insert(pod, known);
        }
        self.known.iter().map(|(pod, known)| (pod.clone(), known.traffic.clone())).collect()
    }
}

impl KnownTraffic {
    /// Logs failures when they begin to matter, and their end.
    fn after(pod: &str, before: Option<Self>, answer: Result<ReplicaTraffic, AdminError>) -> Self {
        let had_failed = before.as_ref().is_some_and(|before| before.traffic.is_err());
        match answer {
            Ok(traffic) => {
                if had_failed {
                    info!(%pod, "the traffic of the replica is known again");
                }
                Self { at: Some(Instant::now()), traffic: Ok(Arc::new(traffic)) }
            }
            Err(error) => match before {
                Some(before) if before.at.is_some_and(|at| at.elapsed() < KEPT_FOR) => before,
                _ => {
                    if !had_failed {
                        warn!(%pod, %error, "the traffic of the replica is not known, so the admin page lacks it");
                    }
                    Self { at: None, traffic: Err(error.to_string()) }
                }
            },
        }
    }
}

async fn traffic_of(address: SocketAddr, token: &AdminToken) -> Result<ReplicaTraffic, AdminError> {
    let mut connection = AdminConnection::open(address).await?;
    read(connection.get(REPORT_TRAFFIC, token, None, &[StatusCode::OK]).await?).await
}
