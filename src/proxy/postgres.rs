//! How a PostgreSQL session asks for TLS, in the clear, before anything else
//! ([Message Flow](https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL)).

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
/// A CancelRequest in bytes: with a key of 4 bytes, or since protocol 3.2 of up to 256.
const CANCEL_LENGTHS: RangeInclusive<usize> = 16..=12 + 256;
/// The longest StartupMessage that PostgreSQL takes, in bytes.
const MAX_STARTUP: usize = 10_000;
/// An SSLRequest, as it is sent.
const ASK: [u8; 8] = *b"\0\0\0\x08\x04\xd2\x16\x2f";
/// What begins a TLS handshake without being asked for.
const HANDSHAKE_RECORD: u8 = 22;

/// What a client begins with.
#[derive(Debug)]
pub enum PostgresStartup {
    /// It has asked for TLS and has been answered.
    AskedForTls,
    /// It begins a handshake without asking.
    DirectTls,
    /// It wants a query of another connection to be cancelled.
    Cancel(CancelRequest),
}

#[derive(Debug, Error)]
pub enum StartupError {
    #[error("not the beginning of a PostgreSQL session")]
    Invalid,
    #[error("the session would not be encrypted")]
    Unencrypted,
    /// Whoever puts bytes behind the request wants them to be taken for encrypted ones (CVE-2021-23214).
    #[error("bytes in the clear behind an SSLRequest")]
    BehindRequest,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads what a client begins with, and answers it as far as TLS can begin.
///
/// # Errors
/// If it is something else, or the stream ends or fails. A client that wants a session without TLS is told so.
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
            // Once: PostgreSQL answers each request at most once, too.
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
                // Closing with something unread would reset the connection, and the client might never see why.
                skip(client, length - head.len()).await?;
                client.write_all(&encryption_required()).await?;
                return Err(StartupError::Unencrypted);
            }
            _ => return Err(StartupError::Invalid),
        }
    }
}

/// Whether something has come that is not read yet.
async fn has_more(client: &mut (impl AsyncRead + Unpin)) -> io::Result<bool> {
    let mut byte = [0];
    let mut byte = ReadBuf::new(&mut byte);
    match poll_fn(|cx| Poll::Ready(Pin::new(&mut *client).poll_read(cx, &mut byte))).await {
        Poll::Ready(read) => read.map(|()| !byte.filled().is_empty()),
        Poll::Pending => Ok(false),
    }
}

/// An ErrorResponse for a client that asks for no TLS.
fn encryption_required() -> Vec<u8> {
    let fields = b"SFATAL\0VFATAL\0C28000\0MTLS is required here: connect with sslmode=require or verify-full\0\0";
    [b"E", &(4 + fields.len() as u32).to_be_bytes()[..], fields].concat()
}

/// Asks a server for TLS on behalf of a client that was answered already. `false`: it has none.
pub async fn ask_for_tls(server: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<bool> {
    server.write_all(&ASK).await?;
    server.flush().await?;
    // One byte: what comes behind it is the handshake's.
    Ok(server.read_u8().await? == b'S')
}

/// Reads so many bytes and forgets them.
async fn skip(stream: &mut (impl AsyncRead + Unpin), mut count: usize) -> io::Result<()> {
    while count > 0 {
        let read = poll_fn(|cx| {
            // Not a part of the future, so that a client that sends nothing more has none.
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

    /// What is made of a client that says this and then nothing more, and what it is answered.
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
    async fn tls_can_be_asked_for_or_begun_at_once() {
        let asked = |outcome: Option<Result<PostgresStartup, StartupError>>| {
            matches!(outcome, Some(Ok(PostgresStartup::AskedForTls)))
        };
        let (outcome, answer, _) = opened(&ASK).await;
        assert!(asked(outcome));
        assert_eq!(answer, b"S");
        // A client that would rather have GSSAPI asks for that first, and waits for the answer.
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
    async fn bytes_in_the_clear_behind_the_request_are_refused_unanswered() {
        let (outcome, answer, _) = opened(&[&ASK[..], b"Q"].concat()).await;
        assert!(matches!(outcome, Some(Err(StartupError::BehindRequest))));
        assert!(answer.is_empty());
    }

    #[tokio::test]
    async fn a_session_without_tls_is_told_what_is_wanted() {
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
