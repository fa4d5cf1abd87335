use std::{error::Error, net::SocketAddr, pin::pin};

use futures::FutureExt;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request,
    body::Bytes,
    client::conn::http1,
    header::{CONNECTION, HOST, HeaderValue, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::{
    select,
    time::{Instant, timeout_at},
};

use super::{connection::ProbeConnection, failure::ProbeError, words::printable};
use crate::model::HttpRequest;

/// The smallest buffer that the library accepts; larger response heads are refused.
const MOST_OF_HEAD: usize = 8192;

/// Sends the request, and checks only the status. Redirects are not followed. `None`: no status until the deadline.
pub(super) async fn ask(
    connection: &mut ProbeConnection,
    wanted: &HttpRequest,
    to: SocketAddr,
    deadline: Instant,
) -> Option<Result<(), ProbeError>> {
    let io = TokioIo::new(connection);
    let begun = timeout_at(deadline, http1::Builder::new().max_buf_size(MOST_OF_HEAD).handshake(io)).await.ok()?;
    let (mut sender, exchange) = match begun {
        Ok(begun) => begun,
        Err(error) => return Some(Err(failed(&error))),
    };
    let mut exchange = pin!(exchange.fuse());
    let head = async {
        select! {
            biased;
            response = sender.send_request(request(wanted, to)) => response,
            // The library usually reports the error on the request.
            Err(error) = &mut exchange => Err(error),
        }
    };
    let response = match timeout_at(deadline, head).await.ok()? {
        Ok(response) => response,
        Err(error) => return Some(Err(failed(&error))),
    };
    let status = response.status().as_u16();
    let rest = async {
        select! {
            _ = response.into_body().collect() => {}
            Err(_) = &mut exchange => {}
        }
    };
    // Closing with an unread body would reset the connection, which servers log. A longer or slower body does not
    // change the result.
    let _ = timeout_at(deadline, rest).await;
    Some(judge(status, wanted))
}

fn failed(error: &hyper::Error) -> ProbeError {
    ProbeError::unexpected(format!("HTTP: {}", printable(reason(error).as_bytes())))
}

fn judge(status: u16, wanted: &HttpRequest) -> Result<(), ProbeError> {
    if wanted.statuses.iter().any(|range| range.contains(&status)) {
        return Ok(());
    }
    let expected: Vec<_> = wanted
        .statuses
        .iter()
        .map(|range| match (range.start(), range.end()) {
            (from, to) if from == to => from.to_string(),
            (from, to) => format!("{from}-{to}"),
        })
        .collect();
    Err(ProbeError::unexpected(format!("HTTP status {status}, expected {}", expected.join(" or "))))
}

fn request(wanted: &HttpRequest, to: SocketAddr) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = wanted.path.clone().into();
    let headers = request.headers_mut();
    let host = HeaderValue::try_from(to.to_string()).expect("an address is printable");
    headers.insert(HOST, host);
    headers.insert(USER_AGENT, HeaderValue::from_static("tcplb"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    for (index, (name, value)) in wanted.headers.iter().enumerate() {
        // The first header of a name replaces the default. Further ones of the same name are sent too.
        if wanted.headers[..index].iter().any(|(earlier, _)| earlier == name) {
            headers.append(name, value.clone());
        } else {
            headers.insert(name, value.clone());
        }
    }
    request
}

fn reason(error: &hyper::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}
