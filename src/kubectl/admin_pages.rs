//! Reads the admin pages of replicas through the API server, by port forwarding: the admin port needs to be open on the
//! loopback address only.

use std::{fmt, time::Duration};

use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    client::conn::http1::handshake,
    header::{DATE, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use jiff::{Timestamp, fmt::rfc2822};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::Portforwarder};
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    connection::ClusterConnection,
    permission::{AccessError, Permission},
    replica::ReplicaPod,
};
use crate::{
    model::{ReplicaReport, StatePicture},
    printable::printable,
};

/// The maximum size of a page: that of several thousand load balancers.
const MAX_PAGE: usize = 64 << 20;
/// The maximum length of a line, in bytes.
const MAX_LINE: usize = 256 << 10;
/// The number of replicas that are read at a time.
const CONCURRENT: usize = 16;
/// The time limit of a forwarded connection and its first answer. For a pod of a lost node, the API server waits longer.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// The time limit of a request without port forwarding.
const DIRECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The maximum length of an error of a connection, in bytes.
const MAX_ERROR: usize = 512;
/// The maximum size of the text of a refusal that is read.
const MAX_REFUSAL: usize = 16 << 10;

/// An admin page.
#[derive(Clone, Debug)]
pub struct AdminPage {
    pub body: Bytes,
    /// The clock of the replica, in seconds.
    pub date: Option<Timestamp>,
}

impl AdminPage {
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, PageError> {
        serde_json::from_slice(&self.body).map_err(|error| PageError::Unreadable(error.to_string()))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("cannot connect to its admin port: {0}")]
    Connect(String),
    #[error("no answer of its admin port within {0:?}")]
    Silent(Duration),
    #[error("its admin port answers {status}{sentence}")]
    Refused { status: StatusCode, sentence: String },
    #[error("its answer cannot be read: {0}")]
    Unreadable(String),
}

/// The pages that most commands read.
#[derive(Debug)]
pub struct ReplicaPages {
    pub report: ReplicaReport,
    pub picture: StatePicture,
    /// The clock of the replica, in seconds.
    pub date: Option<Timestamp>,
}

/// Reads the report and the snapshot of each replica, in their order.
pub async fn read_all(connection: &ClusterConnection, replicas: &[ReplicaPod]) -> Vec<Result<ReplicaPages, PageError>> {
    let reading = replicas.iter().map(async |replica| {
        let report = page(connection, replica, "/report").await?;
        let picture = page(connection, replica, "/snapshot").await?;
        Ok(ReplicaPages { report: report.json()?, picture: picture.json()?, date: picture.date })
    });
    stream::iter(reading).buffered(CONCURRENT).collect().await
}

/// Reads a JSON page of each replica, in their order, with the names of their pods.
pub async fn read_each<T: DeserializeOwned>(
    connection: &ClusterConnection,
    replicas: &[ReplicaPod],
    path: &str,
) -> Vec<(String, Result<T, PageError>)> {
    let reading = replicas.iter().map(async |replica| {
        let document = page(connection, replica, path).await.and_then(|page| page.json());
        (replica.key.name.to_string(), document)
    });
    stream::iter(reading).buffered(CONCURRENT).collect().await
}

/// Reads one page of a replica.
pub async fn page(connection: &ClusterConnection, replica: &ReplicaPod, path: &str) -> Result<AdminPage, PageError> {
    within(connection.timeout, async { AdminAnswer::open(connection, replica, path).await?.page().await }).await
}

/// Applies the time limit of a request.
async fn within<T>(
    limit: Option<Duration>,
    reading: impl Future<Output = Result<T, PageError>>,
) -> Result<T, PageError> {
    match limit {
        Some(limit) => timeout(limit, reading).await.map_err(|_| PageError::Silent(limit))?,
        None => reading.await,
    }
}

/// The answer of an admin page, with status 200, whose body has not been read.
pub struct AdminAnswer {
    response: Response<Incoming>,
    /// The bytes after the last complete line.
    rest: Vec<u8>,
    _driver: AbortOnDropHandle<hyper::Result<()>>,
    /// `None`: the connection is not forwarded.
    _forwarder: Option<Portforwarder>,
}

/// The beginning of the text of a refusal, after a colon.
async fn refusal(response: Response<Incoming>) -> String {
    let text = Limited::new(response.into_body(), MAX_REFUSAL).collect().await;
    let text = text.map(|text| text.to_bytes()).unwrap_or_default();
    match String::from_utf8_lossy(&text).trim() {
        "" => String::new(),
        text => format!(": {}", printable(text, MAX_ERROR)),
    }
}

impl AdminAnswer {
    /// Requests a page of a replica, within the time limit of a request.
    pub async fn open(connection: &ClusterConnection, replica: &ReplicaPod, path: &str) -> Result<Self, PageError> {
        let limit = connection.timeout.map_or(FIRST_ANSWER, |limit| limit.min(FIRST_ANSWER));
        within(Some(limit), Self::request(connection, replica, path)).await
    }

    async fn request(connection: &ClusterConnection, replica: &ReplicaPod, path: &str) -> Result<Self, PageError> {
        let pods: Api<Pod> = Api::namespaced(connection.streams.clone(), &replica.key.namespace);
        let port = replica.admin_port;
        let forwarder = pods.portforward(&replica.key.name, &[port]).await;
        let mut forwarder = forwarder.map_err(|error| port_forward(&replica.key.namespace).error(&error))?;
        let stream = forwarder.take_stream(port).ok_or_else(|| failed(&"the port is not forwarded"))?;
        let refusal = forwarder.take_error(port);
        match Self::on(stream, "localhost", path).await {
            Ok(answer) => Ok(Self { _forwarder: Some(forwarder), ..answer? }),
            // The kubelet has the cause; the stream only ends.
            Err(error) => match refusal {
                Some(refusal) => Err(refusal.await.map_or_else(|| failed(&error), |refusal| failed(&refusal))),
                None => Err(failed(&error)),
            },
        }
    }

    /// Requests a page on a connection.
    ///
    /// # Errors
    /// If the connection fails before an answer.
    async fn on(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        host: &str,
        path: &str,
    ) -> hyper::Result<Result<Self, PageError>> {
        let (mut requests, driver) = handshake(TokioIo::new(stream)).await?;
        let driver = AbortOnDropHandle::new(tokio::spawn(driver));
        let request = Request::get(path).header(HOST, host).body(Empty::<Bytes>::new());
        // The paths are valid.
        let response = requests.send_request(request.unwrap_or_default()).await?;
        Ok(match response.status() {
            StatusCode::OK => Ok(Self { response, rest: Vec::new(), _driver: driver, _forwarder: None }),
            status => Err(PageError::Refused { status, sentence: refusal(response).await }),
        })
    }

    /// Reads the body.
    async fn page(mut self) -> Result<AdminPage, PageError> {
        let date = self.response.headers().get(DATE).and_then(time);
        let body = Limited::new(self.response.body_mut(), MAX_PAGE).collect().await;
        let body = body.map_err(|error| PageError::Unreadable(error.to_string()))?;
        Ok(AdminPage { body: body.to_bytes(), date })
    }

    /// The next line of a text that arrives in parts. `None`: the text has ended.
    pub async fn line(&mut self) -> Result<Option<String>, PageError> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line = self.rest.drain(..=end).collect::<Vec<_>>();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            if self.rest.len() > MAX_LINE {
                return Err(PageError::Unreadable(format!("a line is longer than {MAX_LINE} bytes")));
            }
            let Some(frame) = self.response.body_mut().frame().await else { return Ok(None) };
            let frame = frame.map_err(|error| PageError::Unreadable(error.to_string()))?;
            self.rest.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        }
    }
}

/// Reads one page at an address, without a cluster.
pub async fn page_at(url: &Uri, path: &str) -> Result<AdminPage, PageError> {
    let (host, port) = (url.host().unwrap_or_default(), url.port_u16().unwrap_or(80));
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let reading = async {
        let stream = TcpStream::connect((host, port)).await.map_err(|error| failed(&error))?;
        let authority = url.authority().map(ToString::to_string).unwrap_or_default();
        AdminAnswer::on(stream, &authority, path).await.map_err(|error| failed(&error))??.page().await
    };
    timeout(DIRECT_TIMEOUT, reading).await.map_err(|_| PageError::Silent(DIRECT_TIMEOUT))?
}

fn failed(error: &dyn fmt::Display) -> PageError {
    PageError::Connect(printable(&error.to_string(), MAX_ERROR).into_owned())
}

/// The permission to forward ports. Kubernetes before 1.35 requires `get` instead.
fn port_forward(namespace: &str) -> Permission {
    Permission::new("create", "", "pods/portforward").in_namespace(Some(namespace))
}

/// The time of a `Date` header.
pub fn time(header: &HeaderValue) -> Option<Timestamp> {
    rfc2822::DateTimeParser::new().parse_timestamp(header.to_str().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_of_an_answer_is_the_clock_of_the_replica() {
        let header = HeaderValue::from_static("Tue, 01 Dec 2026 08:41:32 GMT");
        assert_eq!(time(&header), Some("2026-12-01T08:41:32Z".parse().unwrap()));
        assert_eq!(time(&HeaderValue::from_static("yesterday")), None);
    }
}
