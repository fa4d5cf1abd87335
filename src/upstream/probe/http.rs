use std::net::SocketAddr;

use http_body_util::{BodyExt, Empty};
use hyper::{
    Request,
    body::Bytes,
    client::conn::http1,
    header::{CONNECTION, HOST, HeaderValue, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::select;

use super::{Connection, Failure, printable};
use crate::model::HttpRequest;

/// The smallest that the library takes; a head of more is refused.
const MOST_OF_HEAD: usize = 8192;

/// Asks, and looks at the status alone. No redirection is followed.
pub(super) async fn ask(connection: &mut Connection, wanted: &HttpRequest, to: SocketAddr) -> Result<(), Failure> {
    let failed = |error: hyper::Error| Failure::unexpected(format!("HTTP: {}", printable(reason(&error).as_bytes())));
    let io = TokioIo::new(connection);
    let (mut sender, exchange) =
        http1::Builder::new().max_buf_size(MOST_OF_HEAD).handshake::<_, Empty<Bytes>>(io).await.map_err(failed)?;
    let asking = async {
        let response = sender.send_request(request(wanted, to)).await.map_err(failed)?;
        let status = response.status().as_u16();
        // What nobody reads would reset the connection, which servers log. A longer body is its own fault.
        let _ = response.into_body().collect().await;
        Ok::<_, Failure>(status)
    };
    let status = select! {
        biased;
        status = asking => status?,
        // It hands the error to whoever asks, as a rule.
        Err(error) = exchange => return Err(failed(error)),
    };
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
    Err(Failure::unexpected(format!("HTTP status {status}, expected {}", expected.join(" or "))))
}

fn request(wanted: &HttpRequest, to: SocketAddr) -> Request<Empty<Bytes>> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = wanted.path.clone().into();
    let headers = request.headers_mut();
    let host = HeaderValue::try_from(to.to_string()).expect("an address is printable");
    headers.insert(HOST, host);
    headers.insert(USER_AGENT, HeaderValue::from_static("tcplb"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    for (name, value) in &wanted.headers {
        headers.insert(name, value.clone());
    }
    request
}

fn reason(error: &hyper::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}
