//! TLS over a stream, without a buffer for each connection.
//!
//! The interface of tokio-rustls keeps a receive buffer of 4 KiB for as long as a connection is open. With
//! [`rustls::unbuffered`], records are received, encrypted and decrypted in buffers that all connections of a thread
//! share. A connection keeps only a record that has not arrived completely, and bytes that could not be passed on yet.

mod session;
#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    fmt,
    future::poll_fn,
    io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustls::{
    ClientConfig, CommonState, Error, ProtocolVersion, ServerConfig,
    client::UnbufferedClientConnection,
    pki_types::ServerName,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncryptError, UnbufferedStatus, WriteTraffic},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::session::{MAX_INCOMPLETE, TlsSession, encode};
use crate::proxy::stream::relay_memory::discard_front;

/// The largest read, in bytes: 128 KiB of plaintext in full records.
const MAX_READ: usize = 129 * 1024;
/// The smallest read, and the read size of handshakes.
const MIN_READ: usize = 4 * 1024;
/// The largest number of bytes encrypted at once. With half of it, bulk transfers take 6 % more CPU.
const MAX_WRITE: usize = 128 * 1024;
/// The largest plaintext of a record (RFC 8446, section 5.1).
const RECORD: usize = 16 * 1024;
/// The bytes that TLS 1.3 adds to a record: header, content type and tag. TLS 1.2 adds 21 to 29.
const RECORD_OVERHEAD: usize = 5 + 1 + 16;
/// Space for the overhead of [`MAX_WRITE`] bytes, and for the usual size of session tickets in front of them.
const OVERHEAD: usize = 4 * 1024;
/// The largest session tickets that wait for the first data, in bytes.
const MAX_DEFERRED: usize = 4 * 1024;
/// The number of reads without plaintext after which the task yields.
const READS_PER_TURN: usize = 4;

thread_local! {
    static RECEIVED: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_INCOMPLETE + MAX_READ]);
    static ENCRYPTED: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_WRITE + OVERHEAD]);
}

/// TLS with a client, in the role of the server.
pub type ServerStream<S> = TlsStream<UnbufferedServerConnection, S>;
/// TLS with an endpoint, in the role of the client.
pub type ClientStream<S> = TlsStream<UnbufferedClientConnection, S>;

/// A stream of plaintext over the encrypted stream `S`.
///
/// Reads return 0 bytes after the peer's `close_notify`, and fail with [`io::ErrorKind::UnexpectedEof`] if the
/// encrypted stream ends without it (RFC 8446, section 6.1). Violations of the protocol are
/// [`io::ErrorKind::InvalidData`] with an [`Error`] inside.
pub struct TlsStream<C, S> {
    session: C,
    stream: S,
    /// Received bytes of a record or handshake message that is not complete.
    incomplete: Vec<u8>,
    /// Decrypted bytes that have not been read.
    decrypted: Vec<u8>,
    /// Encrypted bytes that are still to be sent.
    unsent: Vec<u8>,
    /// True if `unsent` is sent with the next data, see [`ServerStream::accept`].
    defers_unsent: bool,
    /// The peer has sent `close_notify`.
    peer_has_ended: bool,
    has_sent_close_notify: bool,
    /// The error that has ended the session. Reads return it behind the bytes before it.
    error: Option<Box<Error>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> ServerStream<S> {
    /// Waits for a handshake as the server. `on_received` is called with the number of bytes received so far, and ends
    /// the handshake with its error.
    ///
    /// The session tickets at the end of a TLS 1.3 handshake are sent with the first data: a separate packet costs about
    /// as much as a message, and no client waits for tickets. BoringSSL does the same. Large tickets, which contain
    /// certificates of the client, are sent at once: an idle connection must not hold them.
    pub async fn accept(
        config: Arc<ServerConfig>,
        stream: S,
        on_received: impl FnMut(usize) -> io::Result<()>,
    ) -> io::Result<Self> {
        let session = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
        let mut accepted = Self::new(session, stream).shake_hands(on_received).await?;
        let has_tickets = accepted.state().protocol_version() == Some(ProtocolVersion::TLSv1_3);
        if has_tickets && accepted.unsent.len() <= MAX_DEFERRED {
            accepted.defers_unsent = true;
        } else {
            accepted.send().await?;
        }
        Ok(accepted)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> ClientStream<S> {
    /// Does a handshake as the client of the server `name`.
    pub async fn connect(config: Arc<ClientConfig>, name: ServerName<'static>, stream: S) -> io::Result<Self> {
        let session = UnbufferedClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut connected = Self::new(session, stream).shake_hands(|_| Ok(())).await?;
        connected.send().await?;
        Ok(connected)
    }
}

impl<C: TlsSession, S> TlsStream<C, S> {
    fn new(session: C, stream: S) -> Self {
        Self {
            session,
            stream,
            incomplete: Vec::new(),
            decrypted: Vec::new(),
            unsent: Vec::new(),
            defers_unsent: false,
            peer_has_ended: false,
            has_sent_close_notify: false,
            error: None,
        }
    }

    /// The negotiated parameters.
    pub fn state(&self) -> &CommonState {
        self.session.state()
    }

    /// True if encrypted data is still to be sent.
    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty() && !self.defers_unsent
    }

    /// The memory of bytes that are received or encrypted and could not be passed on.
    pub fn held(&self) -> usize {
        let unsent = if self.defers_unsent { 0 } else { self.unsent.capacity() };
        self.incomplete.capacity() + self.decrypted.capacity() + unsent
    }

    /// Frees this memory. The stream cannot be used after that.
    pub fn discard_held(&mut self) {
        (self.incomplete, self.decrypted, self.unsent) = (Vec::new(), Vec::new(), Vec::new());
    }

    /// The encrypted stream.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Processes all complete records. Decrypted bytes go to `output`, and those beyond its end are kept. Returns the
    /// number of bytes that are processed.
    fn process_records(&mut self, records: &mut [u8], output: &mut ReadBuf<'_>) -> Result<usize, Error> {
        let mut processed = 0;
        loop {
            let UnbufferedStatus { mut discard, state } = self.session.process_records(&mut records[processed..]);
            let settled = match state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        let (now, later) = record.payload.split_at(record.payload.len().min(output.remaining()));
                        output.put_slice(now);
                        self.decrypted.extend_from_slice(later);
                    }
                    false
                }
                ConnectionState::EncodeTlsData(data) => {
                    encode(data, &mut self.unsent);
                    false
                }
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    false
                }
                ConnectionState::PeerClosed | ConnectionState::Closed => {
                    self.peer_has_ended = true;
                    true
                }
                // Early data is not enabled.
                _ => true,
            };
            processed += discard;
            if settled {
                return Ok(processed);
            }
        }
    }

    /// Encrypts `bytes` into `output`, behind the unsent bytes. Returns the number of bytes in `output`.
    fn encrypt(&mut self, bytes: &[u8], output: &mut Vec<u8>) -> io::Result<usize> {
        self.with_write_traffic(|traffic, unsent| {
            let behind = unsent.len();
            output.resize(output.len().max(behind + OVERHEAD), 0);
            output[..behind].copy_from_slice(unsent);
            unsent.clear();
            loop {
                match traffic.encrypt(bytes, &mut output[behind..]) {
                    Ok(count) => return Ok(behind + count),
                    Err(EncryptError::InsufficientSize(size)) => output.resize(behind + size.required_size, 0),
                    Err(EncryptError::EncryptExhausted) => return Err(Error::EncryptError),
                }
            }
        })
    }

    /// Adds a `close_notify` to the unsent bytes, unless the session has failed.
    fn close_session(&mut self) {
        // An error was reported before, with an alert.
        let _ = self.with_write_traffic(|traffic, unsent| {
            let behind = unsent.len();
            unsent.resize(behind + OVERHEAD, 0);
            let count = traffic.queue_close_notify(&mut unsent[behind..]).map_err(|_| Error::EncryptError)?;
            unsent.truncate(behind + count);
            Ok(())
        });
    }

    /// Calls `write` once the session can encrypt data, with the bytes that must be sent before that data.
    fn with_write_traffic<T>(
        &mut self,
        write: impl FnOnce(&mut WriteTraffic<'_, C::SideData>, &mut Vec<u8>) -> Result<T, Error>,
    ) -> io::Result<T> {
        let closed = || Err(io::ErrorKind::BrokenPipe.into());
        if self.error.is_some() {
            return closed();
        }
        let mut incomplete = mem::take(&mut self.incomplete);
        if !incomplete.is_empty() || self.state().wants_write() {
            match self.process_records(&mut incomplete, &mut ReadBuf::new(&mut [])) {
                Ok(processed) => drop(incomplete.drain(..processed)),
                Err(error) => return Err(self.fail(error)),
            }
        }
        let result = match self.session.process_records(&mut incomplete).state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => write(&mut traffic, &mut self.unsent),
            Ok(_) => return closed(),
            Err(error) => Err(error),
        };
        self.incomplete = incomplete;
        result.map_err(|error| self.fail(error))
    }

    /// Ends the session with an error. The alert that describes it is added to the unsent bytes.
    #[cold]
    fn fail(&mut self, error: Error) -> io::Error {
        // The session considers them processed.
        self.incomplete = Vec::new();
        while self.state().wants_write() {
            match self.session.process_records(&mut []).state {
                Ok(ConnectionState::EncodeTlsData(alert)) => encode(alert, &mut self.unsent),
                _ => break,
            }
        }
        self.error = Some(Box::new(error.clone()));
        invalid(error)
    }

    /// Keeps the beginning of a record.
    fn keep(&mut self, incomplete: &[u8]) {
        let (length, capacity) = (incomplete.len(), self.incomplete.capacity());
        if length > capacity || capacity > 2 * length {
            self.incomplete = incomplete.to_vec();
        } else {
            self.incomplete.clear();
            self.incomplete.extend_from_slice(incomplete);
        }
    }

    fn unexpected_end(&self) -> io::Error {
        let message = match self.state().is_handshaking() {
            true => "the peer closed the connection",
            false => "the peer closed the connection without close_notify",
        };
        io::Error::new(io::ErrorKind::UnexpectedEof, message)
    }
}

impl<C: TlsSession, S: AsyncRead + AsyncWrite + Unpin> TlsStream<C, S> {
    async fn shake_hands(mut self, mut on_received: impl FnMut(usize) -> io::Result<()>) -> io::Result<Self> {
        // The first message of a client.
        self.process_records(&mut [], &mut ReadBuf::new(&mut [])).map_err(invalid)?;
        let mut total = 0;
        poll_fn(|cx| {
            while self.state().is_handshaking() {
                // Read even if the peer accepts nothing: it may still be sending.
                let _: Poll<()> = self.poll_send(cx)?;
                total += ready!(self.poll_receive(cx, &mut ReadBuf::new(&mut [])))?;
                on_received(total)?;
            }
            Poll::Ready(Ok::<_, io::Error>(()))
        })
        .await?;
        Ok(self)
    }

    async fn send(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_send(cx)).await
    }

    /// Receives once, and processes the complete records. Returns the number of bytes received, at least 1.
    fn poll_receive(&mut self, cx: &mut Context<'_>, output: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        RECEIVED.with_borrow_mut(|buffer| {
            let kept = self.incomplete.len();
            let most = if self.state().is_handshaking() { MAX_INCOMPLETE } else { C::MAX_INCOMPLETE };
            if kept >= most {
                return Poll::Ready(Err(self.fail(Error::PeerSentOversizedRecord)));
            }
            // The plaintext of full records then fills `output`.
            let records = output.remaining() + output.remaining().div_ceil(RECORD) * RECORD_OVERHEAD;
            let size = records.saturating_sub(kept).clamp(MIN_READ, MAX_READ);
            let mut read_buffer = ReadBuf::new(&mut buffer[kept..kept + size]);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read_buffer))?;
            let count = read_buffer.filled().len();
            if count == 0 {
                return Poll::Ready(Err(self.unexpected_end()));
            }
            buffer[..kept].copy_from_slice(&self.incomplete);
            let records = &mut buffer[..kept + count];
            let before = output.filled().len();
            match self.process_records(records, output) {
                // Bytes after `close_notify` are ignored.
                Ok(_) if self.peer_has_ended => self.incomplete = Vec::new(),
                Ok(processed) => self.keep(&records[processed..]),
                Err(error) => {
                    let error = self.fail(error);
                    // Try once: a failure to send the alert must not hide its cause.
                    let _ = self.poll_send(cx);
                    if output.filled().len() == before {
                        return Poll::Ready(Err(error));
                    }
                }
            }
            Poll::Ready(Ok(count))
        })
    }

    /// Sends all bytes that are still to be sent. If the stream fails, they are discarded.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.defers_unsent = false;
        if self.unsent.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let (sent, result) = poll_write_some(&mut self.stream, cx, &self.unsent);
        if let Err(error) = result {
            self.unsent = Vec::new();
            return Poll::Ready(Err(error));
        }
        discard_front(&mut self.unsent, sent);
        if self.unsent.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl<C: TlsSession, S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<C, S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, output: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if output.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..READS_PER_TURN {
            if !this.decrypted.is_empty() {
                let count = this.decrypted.len().min(output.remaining());
                output.put_slice(&this.decrypted[..count]);
                discard_front(&mut this.decrypted, count);
                return Poll::Ready(Ok(()));
            }
            if let Some(error) = &this.error {
                return Poll::Ready(Err(invalid(Error::clone(error))));
            }
            if this.peer_has_ended {
                return Poll::Ready(Ok(()));
            }
            let before = output.filled().len();
            ready!(this.poll_receive(cx, output))?;
            if output.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<C: TlsSession, S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<C, S> {
    /// Encrypts up to 128 KiB. Bytes that the encrypted stream does not accept now are sent by the next write, flush or
    /// shutdown.
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if !mem::take(&mut this.defers_unsent) {
            ready!(this.poll_send(cx))?;
        }
        let taken = bytes.len().min(MAX_WRITE);
        ENCRYPTED.with_borrow_mut(|buffer| {
            let length = this.encrypt(&bytes[..taken], buffer)?;
            let (sent, result) = poll_write_some(&mut this.stream, cx, &buffer[..length]);
            result?;
            this.unsent.extend_from_slice(&buffer[sent..length]);
            if this.unsent.is_empty() {
                this.unsent = Vec::new();
            }
            Poll::Ready(Ok(taken))
        })
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.defers_unsent {
            ready!(this.poll_send(cx))?;
        }
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !mem::replace(&mut this.has_sent_close_notify, true) {
            this.close_session();
        }
        ready!(this.poll_send(cx))?;
        match ready!(Pin::new(&mut this.stream).poll_shutdown(cx)) {
            // The peer has closed the connection already.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }
}

impl<C, S: fmt::Debug> fmt::Debug for TlsStream<C, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("stream", &self.stream).finish_non_exhaustive()
    }
}

/// Writes until everything is written or the stream would block. Returns the number of bytes written.
fn poll_write_some(
    stream: &mut (impl AsyncWrite + Unpin),
    cx: &mut Context<'_>,
    bytes: &[u8],
) -> (usize, io::Result<()>) {
    let mut done = 0;
    while done < bytes.len() {
        match Pin::new(&mut *stream).poll_write(cx, &bytes[done..]) {
            Poll::Ready(Ok(0)) => return (done, Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(count)) => done += count,
            Poll::Ready(Err(error)) => return (done, Err(error)),
            Poll::Pending => break,
        }
    }
    (done, Ok(()))
}

fn invalid(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
