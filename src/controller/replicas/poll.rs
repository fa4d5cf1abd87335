//! Long polling of one replica's report.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::{SendRequest, handshake},
    header::{AUTHORIZATION, ETAG, HOST, HeaderName},
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{
    net::TcpStream,
    sync::mpsc::UnboundedSender,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::super::AdminToken;
use crate::{
    model::{REPORT_CHANGES, ReplicaReport, ReportChanges},
    printable::printable,
    shared::revised,
};

/// The time limit of a connection and its first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(3);
/// The time limit of any other answer: replicas hold a request for 10 s.
const ANSWER: Duration = Duration::from_secs(13);
/// The report of a replica that has not answered for this long is dropped.
const FORGOTTEN: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_secs(1);
/// The maximum size of a report: that of several thousand load balancers.
const LARGEST: usize = 32 << 20;
/// The maximum length of the text of a refusal, in bytes.
const MAX_SENTENCE: usize = 1024;

/// The header with the forms of an answer that a client accepts besides the complete one (RFC 3229).
const ACCEPTED_MANIPULATION: HeaderName = HeaderName::from_static("a-im");

/// The present report of a replica.
pub struct ReplicaUpdate {
    pub pod: Arc<str>,
    pub address: SocketAddr,
    pub report: Option<Arc<ReplicaReport>>,
}

#[derive(Debug, thiserror::Error)]
pub enum PollError {
    #[error("cannot connect: {0}")]
    Connect(#[from] io::Error),
    #[error("no answer in time")]
    Silent,
    #[error("the connection failed: {0}")]
    Connection(#[from] hyper::Error),
    #[error("{0}")]
    Token(String),
    /// The second part is the answer's text.
    #[error("the answer is {0}: {1}")]
    Refused(StatusCode, String),
    #[error("the report is larger than {LARGEST} bytes")]
    TooLarge,
    #[error("the report cannot be read: {0}")]
    Unreadable(String),
}

/// Sends the reports of the replica, until it is dropped.
pub async fn follow(pod: Arc<str>, address: SocketAddr, token: AdminToken, sender: UnboundedSender<ReplicaUpdate>) {
    let sender = |report| drop(sender.send(ReplicaUpdate { pod: pod.clone(), address, report }));
    let mut connection = None;
    let (mut answered, mut limit) = (Instant::now(), FIRST_ANSWER);
    let mut lost = false;
    loop {
        match next(address, &token, &mut connection).await {
            Ok(report) => {
                if lost {
                    info!(%pod, "the replica reports again");
                }
                (answered, limit, lost) = (Instant::now(), FORGOTTEN, false);
                if report.is_some() {
                    sender(report);
                }
            }
            Err(error) => {
                connection = None;
                if !lost && answered.elapsed() >= limit {
                    warn!(%pod, %error, "the replica does not report");
                    lost = true;
                    sender(None);
                }
                sleep(PAUSE).await;
            }
        }
    }
}

/// A connection on which at least one report was received.
struct AdminConnection {
    requests: SendRequest<Empty<Bytes>>,
    /// The ETag of the last report, and the report.
    last: Option<(String, Arc<ReplicaReport>)>,
    _driver: AbortOnDropHandle<()>,
}

/// The next report. `None`: it is unchanged.
async fn next(
    address: SocketAddr,
    token: &AdminToken,
    connection: &mut Option<AdminConnection>,
) -> Result<Option<Arc<ReplicaReport>>, PollError> {
    match connection {
        Some(open) => timeout(ANSWER, open.ask(address, token)).await.map_err(|_| PollError::Silent)?,
        None => {
            let first = async {
                let mut open = AdminConnection::open(address).await?;
                let report = open.ask(address, token).await?;
                Ok::<_, PollError>((open, report))
            };
            let (open, report) = timeout(FIRST_ANSWER, first).await.map_err(|_| PollError::Silent)??;
            *connection = Some(open);
            Ok(report)
        }
    }
}

impl AdminConnection {
    async fn open(address: SocketAddr) -> Result<Self, PollError> {
        let stream = TcpStream::connect(address).await?;
        let (requests, driver) = handshake(TokioIo::new(stream)).await?;
        // Requests detect the end of the connection.
        let driver = tokio::spawn(async { drop(driver.await) });
        Ok(Self { requests, last: None, _driver: AbortOnDropHandle::new(driver) })
    }

    async fn ask(&mut self, address: SocketAddr, token: &AdminToken) -> Result<Option<Arc<ReplicaReport>>, PollError> {
        let unless = self.last.as_ref().map(|(tag, _)| format!("?unless={tag}")).unwrap_or_default();
        let mut request = Request::get(format!("/report{unless}")).header(HOST, address.to_string());
        if let Some(authorization) = token.authorization().await.map_err(PollError::Token)? {
            request = request.header(AUTHORIZATION, authorization);
        }
        // Replicas of older versions ignore this header.
        let request = request.header(ACCEPTED_MANIPULATION, REPORT_CHANGES);
        let request = request.body(Empty::new()).map_err(|error| PollError::Unreadable(error.to_string()))?;
        self.requests.ready().await?;
        let response = self.requests.send_request(request).await?;
        let status = response.status();
        if status == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        if ![StatusCode::OK, StatusCode::IM_USED].contains(&status) {
            return Err(PollError::Refused(status, sentence(response).await));
        }
        // A report without a tag would be requested again and again.
        let tag = tag(&response).ok_or_else(|| PollError::Unreadable("it has no tag".into()))?;
        let before = self.last.as_ref().map(|(_, report)| &**report);
        let report = Arc::new(match (status, before) {
            (StatusCode::IM_USED, Some(before)) => read::<ReportChanges>(response).await?.applied_to(before),
            (StatusCode::IM_USED, None) => return Err(PollError::Unreadable("its base is unknown".into())),
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

/// The text of a refusal.
async fn sentence(response: Response<Incoming>) -> String {
    let text = Limited::new(response.into_body(), MAX_SENTENCE).collect().await;
    let text = text.map(|text| String::from_utf8_lossy(&text.to_bytes()).trim().to_owned()).unwrap_or_default();
    printable(&text, MAX_SENTENCE).into_owned()
}

async fn read<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, PollError> {
    let text = Limited::new(response.into_body(), LARGEST).collect().await.map_err(|error| {
        match error.downcast::<LengthLimitError>() {
            Ok(_) => PollError::TooLarge,
            Err(error) => PollError::Unreadable(error.to_string()),
        }
    })?;
    serde_json::from_slice(&text.to_bytes()).map_err(|error| PollError::Unreadable(error.to_string()))
}
