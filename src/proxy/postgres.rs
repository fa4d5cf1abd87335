//! The request for TLS at the start of a PostgreSQL session ([Message
//! Flow](https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL)).

mod cancel_request;
mod cancels;

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    ops::RangeInclusive,
    pin::Pin,
    task::{Poll, ready},
};

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

pub use self::{
    cancel_request::CancelRequest,
    cancels::{Cancels, Requester},
};
use super::stream::prefixed_io::PrefixedIo;

const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
/// The length of a CancelRequest in bytes: with a key of 4 bytes, or since protocol 3.2 of up to 256.
const CANCEL_LENGTHS: RangeInclusive<usize> = 16..=12 + 256;
/// The longest StartupMessage that PostgreSQL accepts, in bytes.
const MAX_STARTUP: usize = 10_000;
/// An SSLRequest, as it is sent.
const ASK: [u8; 8] = *b"\0\0\0\x08\x04\xd2\x16\x2f";
/// The first byte of a TLS handshake (direct TLS).
const HANDSHAKE_RECORD: u8 = 22;

/// The first message of a client.
#[derive(Debug)]
pub enum PostgresStartup {
    /// The client requested TLS and got the answer.
    AskedForTls,
    /// The client begins a TLS handshake without a request.
    DirectTls,
    /// The client requests that a query of another connection is cancelled.
    Cancel(CancelRequest),
}

#[derive(Debug, Error)]
pub enum StartupError {
    #[error("not a PostgreSQL startup message")]
    Invalid,
    #[error("the client did not request TLS")]
    Unencrypted,
    /// Bytes behind the request are an attempt to pass them off as encrypted ones (CVE-2021-23214).
    #[error("plaintext bytes after an SSLRequest")]
    BehindRequest,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads the first message of a client, and answers it up to the point where TLS can begin.
///
/// # Errors
/// If the message is another one, or the stream ends or fails. A client that requests a session without TLS
/// gets an error response.
pub async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    client: &mut PrefixedIo<S>,
) -> Result<PostgresStartup, StartupError> {
    let mut declined = false;
    loop {
        let first = client.read_u8().await?;
        if first == HANDSHAKE_RECORD {
            client.unread(vec![first]);
            return Ok(PostgresStartup::DirectTls);
        }
        let mut head = [first, 0, 0, 0, 0, 0, 0, 0];
        client.read_exact(&mut head[1..]).await?;
        let [length, code] = [&head[..4], &head[4..]].map(|bytes| u32::from_be_bytes(bytes.try_into().expect("four")));
        match (length as usize, code) {
            (8, SSL_REQUEST) => {
                if has_more(client).await? {
                    return Err(StartupError::BehindRequest);
                }
                client.write_all(b"S").await?;
                return Ok(PostgresStartup::AskedForTls);
            }
            // Once only, like PostgreSQL.
            (8, GSSENC_REQUEST) if !declined => {
                declined = true;
                client.write_all(b"N").await?;
            }
            (length, CANCEL_REQUEST) if CANCEL_LENGTHS.contains(&length) => {
                let mut request = head.to_vec();
                request.resize(length, 0);
                client.read_exact(&mut request[head.len()..]).await?;
                return Ok(PostgresStartup::Cancel(CancelRequest(request)));
            }
            (length @ 9..=MAX_STARTUP, 0x0003_0000..=0x0003_ffff) => {
                // Closing with unread bytes would reset the connection, and the client might not see the error.
                skip(client, length - head.len()).await?;
                client.write_all(&encryption_required()).await?;
                return Err(StartupError::Unencrypted);
            }
            _ => return Err(StartupError::Invalid),
        }
    }
}

/// True if there are unread bytes.
async fn has_more(client: &mut (impl AsyncRead + Unpin)) -> io::Result<bool> {
    let mut byte = [0];
    let mut byte = ReadBuf::new(&mut byte);
    match poll_fn(|cx| Poll::Ready(Pin::new(&mut *client).poll_read(cx, &mut byte))).await {
        Poll::Ready(read) => read.map(|()| !byte.filled().is_empty()),
        Poll::Pending => Ok(false),
    }
}

/// The ErrorResponse for a client that does not request TLS.
fn encryption_required() -> Vec<u8> {
    let fields = b"SFATAL\0VFATAL\0C28000\0MTLS is required here: connect with sslmode=require or verify-full\0\0";
    [b"E", &(4 + fields.len() as u32).to_be_bytes()[..], fields].concat()
}

/// Requests TLS from a server. `false`: the server does not support it.
pub async fn ask_for_tls(server: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<bool> {
    server.write_all(&ASK).await?;
    server.flush().await?;
    // One byte only: the bytes behind it belong to the handshake.
    Ok(server.read_u8().await? == b'S')
}

/// Reads and discards `count` bytes.
async fn skip(stream: &mut (impl AsyncRead + Unpin), mut count: usize) -> io::Result<()> {
    while count > 0 {
        let read = poll_fn(|cx| {
            // Not a part of the future, so that a silent client holds no buffer.
            let mut bytes = [MaybeUninit::uninit(); 512];
            let length = bytes.len().min(count);
            let mut bytes = ReadBuf::uninit(&mut bytes[..length]);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut bytes))?;
            Poll::Ready(io::Result::Ok(bytes.filled().len()))
        });
        match read.await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => count -= read,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    const GSSENC: [u8; 8] = *b"\0\0\0\x08\x04\xd2\x16\x30";

    /// The outcome for a client that sends only these bytes, and the answer to it.
    async fn opened(said: &[u8]) -> (Option<Result<PostgresStartup, StartupError>>, Vec<u8>, PrefixedIo<DuplexStream>) {
        let (near, mut far) = duplex(1000);
        far.write_all(said).await.unwrap();
        let mut client = PrefixedIo::new(Vec::new(), near);
        let outcome = open(&mut client).now_or_never();
        let mut answer = vec![0; 1000];
        let length = far.read(&mut answer).now_or_never().map_or(0, Result::unwrap);
        answer.truncate(length);
        (outcome, answer, client)
    }

    fn cancel_request(length: u32) -> Vec<u8> {
        let mut request = [length.to_be_bytes(), CANCEL_REQUEST.to_be_bytes()].concat();
        request.resize(length as usize, 7);
        request
    }

    #[tokio::test]
    async fn tls_can_be_requested_or_direct() {
        let asked = |outcome: Option<Result<PostgresStartup, StartupError>>| {
            matches!(outcome, Some(Ok(PostgresStartup::AskedForTls)))
        };
        let (outcome, answer, _) = opened(&ASK).await;
        assert!(asked(outcome));
        assert_eq!(answer, b"S");
        // A client that prefers GSSAPI requests it first, and waits for the answer.
        let (near, mut far) = duplex(1000);
        let mut client = PrefixedIo::new(Vec::new(), near);
        let conversation = async {
            far.write_all(&GSSENC).await.unwrap();
            assert_eq!(far.read_u8().await.unwrap(), b'N');
            far.write_all(&ASK).await.unwrap();
            assert_eq!(far.read_u8().await.unwrap(), b'S');
        };
        let (outcome, ()) = tokio::join!(open(&mut client), conversation);
        assert!(asked(Some(outcome)));

        let (outcome, answer, mut client) = opened(&[22, 3, 1]).await;
        assert!(matches!(outcome, Some(Ok(PostgresStartup::DirectTls))) && answer.is_empty());
        assert_eq!(client.read_u8().await.unwrap(), 22, "it is left for the handshake");
    }

    #[tokio::test]
    async fn a_request_to_cancel_is_read_whole() {
        for length in [16, 12 + 256] {
            let request = cancel_request(length);
            let (outcome, answer, _) = opened(&request).await;
            assert!(matches!(outcome, Some(Ok(PostgresStartup::Cancel(read))) if read.0 == request));
            assert!(answer.is_empty());
            let (outcome, ..) = opened(&request[..request.len() - 1]).await;
            assert!(outcome.is_none(), "the rest is waited for");
        }
    }

    #[tokio::test]
    async fn plaintext_bytes_behind_the_request_are_refused_unanswered() {
        let (outcome, answer, _) = opened(&[&ASK[..], b"Q"].concat()).await;
        assert!(matches!(outcome, Some(Err(StartupError::BehindRequest))));
        assert!(answer.is_empty());
    }

    #[tokio::test]
    async fn a_session_without_tls_gets_an_error_response() {
        let startup = b"\0\0\0\x17\0\x03\0\0user\0postgres\0\0";
        let (outcome, ..) = opened(&startup[..startup.len() - 1]).await;
        assert!(outcome.is_none(), "the rest is waited for");
        let (outcome, answer, _) = opened(startup).await;
        assert!(matches!(outcome, Some(Err(StartupError::Unencrypted))));
        let length = u32::from_be_bytes(answer[1..5].try_into().unwrap()) as usize;
        assert_eq!((answer[0], length), (b'E', answer.len() - 1));
        assert!(String::from_utf8_lossy(&answer).contains("sslmode=require"));
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        let twice = [GSSENC, GSSENC].concat();
        for said in [&b"GET / HTTP/1.1\r\n"[..], &twice, &cancel_request(15), &cancel_request(269), &[0; 8], &[255; 8]]
        {
            let (outcome, ..) = opened(said).await;
            assert!(matches!(outcome, Some(Err(StartupError::Invalid))), "{said:?}: {outcome:?}");
        }
    }
}
