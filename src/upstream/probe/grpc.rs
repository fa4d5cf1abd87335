//! The gRPC health checking protocol: <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>.

use bytes::{BufMut, Bytes, BytesMut};
use h2::{RecvStream, client};
use hyper::{
    Request,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE},
};
use tokio::select;

use super::{connection::ProbeConnection, failure::ProbeError, words::printable};
use crate::model::GrpcHealth;

/// The ALPN protocol name, which many servers require.
pub(super) const PROTOCOL: &[u8] = b"h2";

const MOST_OF_HEAD: u32 = 8192;
/// An answer has two bytes, behind a prefix of five.
const MOST_OF_ANSWER: usize = 1024;

pub(super) async fn ask(connection: &mut ProbeConnection, health: &GrpcHealth) -> Result<(), ProbeError> {
    let failed =
        |error: h2::Error| ProbeError::unexpected(format!("gRPC: {}", printable(error.to_string().as_bytes())));
    let handshake =
        client::Builder::new().enable_push(false).max_header_list_size(MOST_OF_HEAD).handshake::<_, Bytes>(connection);
    let (sender, exchange) = handshake.await.map_err(failed)?;
    let asking = async {
        let mut sender = sender.ready().await.map_err(failed)?;
        let (response, mut stream) = sender.send_request(request(), false).map_err(failed)?;
        stream.send_data(question(&health.service), true).map_err(failed)?;
        let response = response.await.map_err(failed)?;
        if !response.status().is_success() {
            return Err(ProbeError::unexpected(format!("HTTP status {}, expected gRPC", response.status().as_u16())));
        }
        check_status(response.headers(), false)?;
        let mut body = response.into_body();
        let answer = read(&mut body).await.map_err(failed)?;
        let trailers = body.trailers().await.map_err(failed)?;
        check_status(&trailers.unwrap_or_default(), true)?;
        serving(&answer)
    };
    select! {
        biased;
        answer = asking => answer,
        ended = exchange => Err(ended.err().map_or_else(|| ProbeError::unexpected("gRPC: closed without an answer"), failed)),
    }
}

fn request() -> Request<()> {
    // A neutral authority: the check is about this server, whatever its name.
    let mut request = Request::new(());
    *request.method_mut() = hyper::Method::POST;
    *request.uri_mut() = hyper::Uri::from_static("http://tcplb/grpc.health.v1.Health/Check");
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    request
}

/// A `HealthCheckRequest` with the gRPC prefix: the flag for no compression, and the length.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        put_varint(&mut message, service.len());
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("a service's name is short"));
    frame.unsplit(message);
    frame.freeze()
}

fn put_varint(message: &mut BytesMut, mut value: usize) {
    while value >= 0x80 {
        message.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    message.put_u8(value as u8);
}

async fn read(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut answer = Vec::new();
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        answer.extend_from_slice(&part[..part.len().min(MOST_OF_ANSWER - answer.len())]);
    }
    Ok(answer)
}

/// Reads the gRPC status of headers or trailers. `required`: these are the trailers, which must have one.
fn check_status(headers: &HeaderMap, required: bool) -> Result<(), ProbeError> {
    const OK: &[u8] = b"0";
    const UNIMPLEMENTED: &[u8] = b"12";
    const NOT_FOUND: &[u8] = b"5";
    let Some(status) = headers.get("grpc-status") else {
        return if required { Err(ProbeError::unexpected("gRPC: the answer has no status")) } else { Ok(()) };
    };
    let what = match status.as_bytes() {
        OK => return Ok(()),
        UNIMPLEMENTED => ", no health service".into(),
        NOT_FOUND => ", unknown service".into(),
        _ => match headers.get("grpc-message") {
            Some(message) => format!(" ({})", printable(message.as_bytes())),
            None => String::new(),
        },
    };
    Err(ProbeError::unexpected(format!("gRPC status {}{what}, expected SERVING", printable(status.as_bytes()))))
}

/// Finds the status in a `HealthCheckResponse`: field 1, a number.
fn serving(answer: &[u8]) -> Result<(), ProbeError> {
    let status = match answer.get(5..) {
        // A zero is omitted.
        Some([]) => 0,
        Some([0x08, status, ..]) => *status,
        _ => return Err(ProbeError::unexpected(format!("gRPC: answered `{}`, expected SERVING", printable(answer)))),
    };
    let name = match status {
        1 => return Ok(()),
        0 => "UNKNOWN",
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "an undefined status",
    };
    Err(ProbeError::unexpected(format!("{name}, expected SERVING")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_encoded_like_protobuf() {
        assert_eq!(&question("")[..], b"\0\0\0\0\0");
        assert_eq!(&question("db")[..], b"\0\0\0\0\x04\x0a\x02db");
        let long = question(&"x".repeat(200));
        assert_eq!(&long[..8], b"\0\0\0\0\xcb\x0a\xc8\x01");
    }

    #[test]
    fn only_serving_passes() {
        assert!(serving(b"\0\0\0\0\x02\x08\x01").is_ok());
        for (answer, expected) in [
            (&b"\0\0\0\0\0"[..], "UNKNOWN, expected SERVING"),
            (b"\0\0\0\0\x02\x08\x02", "NOT_SERVING, expected SERVING"),
            (b"\0\0\0\0\x02\x08\x03", "SERVICE_UNKNOWN, expected SERVING"),
            (b"", "gRPC: answered ``, expected SERVING"),
            (b"\0\0\0\0\x01\xff", r"gRPC: answered `\x00\x00\x00\x00\x01\xff`, expected SERVING"),
        ] {
            assert_eq!(serving(answer).unwrap_err().to_string(), expected);
        }
    }
}
