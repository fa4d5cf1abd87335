//! Long polling of one replica's report.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hyper::{
    Response, StatusCode,
    body::Incoming,
    header::{ETAG, HeaderName},
};
use tokio::{
    sync::mpsc::UnboundedSender,
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use super::{
    super::AdminToken,
    admin_connection::{AdminConnection, AdminError, read},
};
use crate::{
    model::{REPORT_CHANGES, ReplicaReport, ReportChanges},
    shared::revised,
};

/// The time limit of a connection and its first answer.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// The time limit of any other answer: replicas hold a request for 10 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(13);
/// The report of a replica that has not answered for this long is dropped.
const REPORT_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The header with the forms of an answer that a client accepts besides the complete one (RFC 3229).
const ACCEPTED_MANIPULATION: HeaderName = HeaderName::from_static("a-im");

/// The present report of a replica.
pub struct ReplicaUpdate {
    pub pod: Arc<str>,
    pub address: SocketAddr,
    pub report: Option<Arc<ReplicaReport>>,
}

/// Sends the reports of the replica, until it is dropped.
pub async fn follow(pod: Arc<str>, address: SocketAddr, token: AdminToken, sender: UnboundedSender<ReplicaUpdate>) {
    let sender = |report| drop(sender.send(ReplicaUpdate { pod: pod.clone(), address, report }));
    let mut followed = None;
    let (mut answered, mut limit) = (Instant::now(), FIRST_ANSWER_TIMEOUT);
    let mut lost = false;
    loop {
        match next(address, &token, &mut followed).await {
            Ok(report) => {
                if lost {
                    info!(%pod, "the replica reports again");
                }
                (answered, limit, lost) = (Instant::now(), REPORT_TIMEOUT, false);
                if report.is_some() {
                    sender(report);
                }
            }
            Err(error) => {
                followed = None;
                if !lost && answered.elapsed() >= limit {
                    warn!(%pod, %error, "the replica does not report");
                    lost = true;
                    sender(None);
                }
                sleep(RETRY_DELAY).await;
            }
        }
    }
}

/// A connection on which at least one report was received.
struct FollowedReplica {
    connection: AdminConnection,
    /// The ETag of the last report, and the report.
    last: Option<(String, Arc<ReplicaReport>)>,
}

/// The next report. `None`: it is unchanged.
async fn next(
    address: SocketAddr,
    token: &AdminToken,
    followed: &mut Option<FollowedReplica>,
) -> Result<Option<Arc<ReplicaReport>>, AdminError> {
    match followed {
        Some(followed) => timeout(ANSWER_TIMEOUT, followed.ask(token)).await.map_err(|_| AdminError::Silent)?,
        None => {
            let first = async {
                let mut first = FollowedReplica { connection: AdminConnection::open(address).await?, last: None };
                let report = first.ask(token).await?;
                Ok::<_, AdminError>((first, report))
            };
            let (first, report) = timeout(FIRST_ANSWER_TIMEOUT, first).await.map_err(|_| AdminError::Silent)??;
            *followed = Some(first);
            Ok(report)
        }
    }
}

impl FollowedReplica {
    async fn ask(&mut self, token: &AdminToken) -> Result<Option<Arc<ReplicaReport>>, AdminError> {
        let unless = self.last.as_ref().map(|(tag, _)| format!("?unless={tag}")).unwrap_or_default();
        // Replicas of older versions ignore this header.
        let accepted = Some((ACCEPTED_MANIPULATION, REPORT_CHANGES));
        let statuses = [StatusCode::OK, StatusCode::IM_USED, StatusCode::NOT_MODIFIED];
        let response = self.connection.get(&format!("/report{unless}"), token, accepted, &statuses).await?;
        let status = response.status();
        if status == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        // A report without a tag would be requested again and again.
        let tag = tag(&response).ok_or_else(|| AdminError::Unreadable("it has no tag".into()))?;
        let before = self.last.as_ref().map(|(_, report)| &**report);
        let report = Arc::new(match (status, before) {
            (StatusCode::IM_USED, Some(before)) => read::<ReportChanges>(response).await?.applied_to(before),
            (StatusCode::IM_USED, None) => return Err(AdminError::Unreadable("its base is unknown".into())),
            (_, before) => sharing(read(response).await?, before),
        });
        self.last = Some((tag, report.clone()));
        Ok(Some(report))
    }
}

/// The tag, if it can be written into a path unchanged.
fn tag(response: &Response<Incoming>) -> Option<String> {
    let tag = response.headers().get(ETAG)?.to_str().ok()?.trim_matches('"');
    tag.bytes().all(|byte| byte.is_ascii_alphanumeric()).then(|| tag.to_owned())
}

/// The report. Its parts that equal those of the report before have the same allocations.
fn sharing(report: ReplicaReport, before: Option<&ReplicaReport>) -> ReplicaReport {
    let Some(before) = before else { return report };
    let load_balancers = report.load_balancers.into_iter().collect();
    ReplicaReport { load_balancers: revised(&before.load_balancers, load_balancers) }
}
