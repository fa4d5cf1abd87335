use std::{io, net::SocketAddr};

use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::{SendRequest, handshake},
    header::{AUTHORIZATION, HOST, HeaderName},
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use super::super::AdminToken;
use crate::printable::printable;

/// The maximum size of a document: that of several thousand load balancers.
const MAX_ANSWER: usize = 32 << 20;
/// The maximum length of the text of a refusal, in bytes.
const MAX_SENTENCE: usize = 1024;

/// A connection to the admin pages of a replica.
pub struct AdminConnection {
    address: SocketAddr,
    requests: SendRequest<Empty<Bytes>>,
    _driver: AbortOnDropHandle<()>,
}

#[derive(Debug, thiserror::Error)]
pub enum AdminError {
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
    #[error("the answer is larger than {MAX_ANSWER} bytes")]
    TooLarge,
    #[error("the answer cannot be read: {0}")]
    Unreadable(String),
}

impl AdminConnection {
    pub async fn open(address: SocketAddr) -> Result<Self, AdminError> {
        let stream = TcpStream::connect(address).await?;
        let (requests, driver) = handshake(TokioIo::new(stream)).await?;
        // Requests detect the end of the connection.
        let driver = tokio::spawn(async { drop(driver.await) });
        Ok(Self { address, requests, _driver: AbortOnDropHandle::new(driver) })
    }

    /// Requests a path, and returns an answer with one of these statuses.
    pub async fn get(
        &mut self,
        path: &str,
        token: &AdminToken,
        header: Option<(HeaderName, &'static str)>,
        statuses: &[StatusCode],
    ) -> Result<Response<Incoming>, AdminError> {
        let mut request = Request::get(path).header(HOST, self.address.to_string());
        if let Some(authorization) = token.authorization().await.map_err(AdminError::Token)? {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let request = request.body(Empty::new()).map_err(|error| AdminError::Unreadable(error.to_string()))?;
        self.requests.ready().await?;
        let response = self.requests.send_request(request).await?;
        if !statuses.contains(&response.status()) {
            return Err(AdminError::Refused(response.status(), sentence(response).await));
        }
        Ok(response)
    }
}

/// The text of a refusal.
async fn sentence(response: Response<Incoming>) -> String {
    let text = Limited::new(response.into_body(), MAX_SENTENCE).collect().await;
    let text = text.map(|text| String::from_utf8_lossy(&text.to_bytes()).trim().to_owned()).unwrap_or_default();
    printable(&text, MAX_SENTENCE).into_owned()
}

/// Reads an answer in JSON.
pub async fn read<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, AdminError> {
    let text = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|error| match error
        .downcast::<LengthLimitError>(
    ) {
        Ok(_) => AdminError::TooLarge,
        Err(error) => AdminError::Unreadable(error.to_string()),
    })?;
    serde_json::from_slice(&text.to_bytes()).map_err(|error| AdminError::Unreadable(error.to_string()))
}
