//! Connections to endpoints for admitted clients.

use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use futures::{FutureExt, future::LocalBoxFuture};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout, timeout_at},
};
use tracing::warn;

use super::{record::ConnectionRecord, sides::BackendConnection};
use crate::{
    log_limit::LogLimiter,
    model::{Backend, BackendTls, ProxyVersion, StartTls},
    proxy::{
        access_log::{Attempts, ConnectFault, FailedEndpoint},
        accounting::CloseReason,
        postgres, proxy_protocol,
        stream::{Stream, with_preamble::WithPreamble},
        tls::{ClientStream, ClientTls},
    },
    tcp::TcpSocket,
    upstream::{ActiveConnection, Endpoint, Subset, TriedEndpoints, dial, is_local},
};

/// The client information that an endpoint gets ahead of the client's bytes.
#[derive(Debug)]
pub struct ClientInfo<'a> {
    pub stream: &'a Stream,
    pub client: SocketAddr,
    /// The address that the client connected to, from a PROXY header.
    pub destination: Option<SocketAddr>,
    pub client_tls: Option<Arc<ClientTls>>,
    pub encryption: Encryption,
}

/// The TLS mode of a connection to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// TLS of the backend, if configured.
    OfBackend,
    /// The client's own TLS, passed through after this StartTLS request.
    PassedThrough(Option<StartTls>),
}

impl<'a> ClientInfo<'a> {
    pub fn new(stream: &'a Stream, encryption: Encryption, record: &ConnectionRecord) -> Self {
        let (client, destination, client_tls) = (record.client(), record.destination, record.tls());
        Self { stream, client, destination, client_tls, encryption }
    }

    /// The PROXY header. Fails if the client has disconnected.
    fn header(&self, version: ProxyVersion) -> Result<Box<[u8]>, CloseReason> {
        let destination = match self.destination {
            Some(announced) => announced,
            None => self.stream.local_addr().map_err(|_| CloseReason::ClientReset)?,
        };
        Ok(proxy_protocol::encode(version, self.client, destination, self.client_tls.as_deref()))
    }

    fn preamble(&self, backend: &Backend) -> Result<Preamble, CloseReason> {
        let header = backend.proxy_protocol.map(|version| self.header(version)).transpose()?;
        let tls = backend.tls.as_ref().filter(|_| self.encryption == Encryption::OfBackend).cloned();
        let start_tls = match self.encryption {
            Encryption::OfBackend => tls.as_ref().and_then(|tls| tls.terms.start_tls),
            Encryption::PassedThrough(start_tls) => start_tls,
        };
        Ok(Preamble { header, start_tls, tls })
    }
}

/// The first bytes and the handshake of a connection to an endpoint.
struct Preamble {
    header: Option<Box<[u8]>>,
    start_tls: Option<StartTls>,
    tls: Option<Arc<BackendTls>>,
}

impl Preamble {
    /// True if the endpoint must answer before the client's bytes are sent.
    fn expects_answer(&self) -> bool {
        self.start_tls.is_some() || self.tls.is_some()
    }
}

/// Connects to an endpoint: takes a preconnected socket or dials. Tries other endpoints until one answers, or attempts
/// or time run out. `attempts` records the endpoints tried.
pub async fn first_reachable(
    subset: &Subset,
    client_info: &ClientInfo<'_>,
    attempts: &mut Attempts,
) -> Result<(BackendConnection, ActiveConnection), CloseReason> {
    let settings = subset.connect();
    let mut tried = TriedEndpoints::default();
    let mut failure = CloseReason::NoEndpoint;
    let (mut deadline, mut decided) = (None, false);
    while attempts.count < settings.attempts.get() {
        let Some(active) = subset.pick_again(client_info.client.ip(), &tried) else {
            if decided || !tried.is_empty() {
                return Err(failure);
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + settings.deadline);
            // Leave time for dialling.
            let until = deadline - settings.deadline / 4;
            // The next iteration picks an endpoint that has become usable in the meantime.
            decided = !wait_for_probes(subset, client_info.stream, until).await?;
            continue;
        };
        attempts.count += 1;
        let endpoint = active.endpoint();
        let preamble = client_info.preamble(&endpoint.backend())?;
        let ready = endpoint.take_preconnected().and_then(|socket| TcpSocket::new(socket).ok());
        let ready = match ready {
            Some(ready) if !preamble.expects_answer() => {
                return Ok((BackendConnection::Plain(WithPreamble::new(preamble.header, Stream::new(ready))), active));
            }
            ready => ready,
        };
        let now = Instant::now();
        let deadline = *deadline.get_or_insert(now + settings.deadline);
        let attempt = Attempt { address: endpoint.address(), ends: deadline.min(now + settings.timeout) };
        let is_dialled = ready.is_none();
        let error = match attempt.reach(ready, preamble).await {
            Ok(reached) => {
                if is_dialled {
                    endpoint.connected();
                }
                return Ok((reached, active));
            }
            Err(error) => error,
        };
        // The deadline cut this attempt short: not a failure of the endpoint.
        let is_cut_short = error.is_timeout && attempt.ends < now + settings.timeout;
        let fault = if is_cut_short { ConnectFault::Deadline } else { error.fault() };
        attempts.failed.push(FailedEndpoint { address: attempt.address, fault });
        if is_cut_short {
            return Err(CloseReason::ConnectTimeout);
        }
        endpoint.connect_failed(&error.cause);
        failure = reason_for(&error, endpoint.address(), subset.local_fault_log());
        if Instant::now() >= deadline {
            return Err(CloseReason::ConnectTimeout);
        }
        tried.insert(endpoint);
    }
    Err(failure)
}

/// Waits for pending first checks. Returns true if there were any. A client that disconnects or half-closes during this
/// time is not connected: clients of a starting database retry again and again, and the database must get each only
/// once.
///
/// Boxed, because few connections wait.
#[cold]
fn wait_for_probes<'a>(
    subset: &'a Subset,
    client: &'a Stream,
    until: Instant,
) -> LocalBoxFuture<'a, Result<bool, CloseReason>> {
    async move {
        let mut waited = pin!(timeout_at(until, subset.wait_for_first_checks()));
        loop {
            let outcome = timeout(LIVENESS_INTERVAL, &mut waited).await;
            match outcome {
                Ok(Ok(false) | Err(_)) => return Ok(false),
                _ if client.peer_has_ended() => return Err(CloseReason::ClientReset),
                Ok(Ok(true)) => return Ok(true),
                Err(_) => {}
            }
        }
    }
    .boxed_local()
}

/// The interval at which a waiting client is checked for disconnection.
const LIVENESS_INTERVAL: Duration = Duration::from_secs(1);

/// Connects to an endpoint for purposes other than a client's session. The caller bounds the time.
pub async fn open(endpoint: &Endpoint, client_info: &ClientInfo<'_>) -> io::Result<BackendConnection> {
    let preamble = client_info.preamble(&endpoint.backend()).map_err(|_| io::ErrorKind::NotConnected)?;
    let address = endpoint.address();
    encrypt(Stream::new(dial(address).await?), preamble, address).await
}

/// An attempt to reach one endpoint.
#[derive(Clone, Copy)]
struct Attempt {
    address: SocketAddr,
    ends: Instant,
}

/// The failure of an attempt.
struct AttemptError {
    cause: io::Error,
    /// True if the endpoint failed during the handshake.
    of_tls: bool,
    is_timeout: bool,
}

impl AttemptError {
    /// The failure of a handshake. A shortage of this host is not one of the endpoint.
    fn of_handshake(cause: io::Error) -> Self {
        Self { of_tls: !is_local(&cause), cause, is_timeout: false }
    }

    #[cold]
    fn fault(&self) -> ConnectFault {
        if self.of_tls {
            return if self.is_timeout { ConnectFault::TlsTimeout } else { ConnectFault::Tls };
        }
        match self.cause.kind() {
            _ if is_local(&self.cause) && self.cause.kind() == io::ErrorKind::AddrNotAvailable => {
                ConnectFault::NoLocalPort
            }
            _ if is_local(&self.cause) => ConnectFault::LocalFailure,
            io::ErrorKind::TimedOut => ConnectFault::Timeout,
            io::ErrorKind::ConnectionRefused => ConnectFault::Refused,
            io::ErrorKind::ConnectionReset => ConnectFault::Reset,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => ConnectFault::Unreachable,
            _ => ConnectFault::Other,
        }
    }
}

impl Attempt {
    async fn reach(self, ready: Option<TcpSocket>, preamble: Preamble) -> Result<BackendConnection, AttemptError> {
        let too_late = |of_tls, what: &str| {
            let cause = io::Error::new(io::ErrorKind::TimedOut, what);
            AttemptError { cause, of_tls, is_timeout: true }
        };
        let tcp = match ready {
            Some(ready) => ready,
            None => timeout_at(self.ends, dial(self.address))
                .await
                .map_err(|_| too_late(false, "no answer within connect.timeout"))?
                .map_err(|cause| AttemptError { cause, of_tls: false, is_timeout: false })?,
        };
        if !preamble.expects_answer() {
            return Ok(BackendConnection::Plain(WithPreamble::new(preamble.header, Stream::new(tcp))));
        }
        // Boxed: a handshake's state is large, and most connections have none.
        timeout_at(self.ends, Box::pin(encrypt(Stream::new(tcp), preamble, self.address)))
            .await
            .map_err(|_| too_late(true, "the TLS handshake did not finish within connect.timeout"))?
            .map_err(AttemptError::of_handshake)
    }
}

/// Negotiates TLS with an endpoint, except TLS that is passed through.
async fn encrypt(stream: Stream, preamble: Preamble, address: SocketAddr) -> io::Result<BackendConnection> {
    let mut stream = WithPreamble::new(preamble.header, stream);
    if preamble.start_tls == Some(StartTls::Postgres) {
        ask_for_tls(&mut stream).await?;
    }
    let Some(tls) = preamble.tls else { return Ok(BackendConnection::Plain(stream)) };
    Ok(BackendConnection::Tls(Box::new(shake_hands(stream, &tls, address).await?)))
}

/// Requests TLS from an endpoint. [`is_local`] recognises the shortages of this host.
async fn ask_for_tls(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    match postgres::ask_for_tls(stream).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(io::Error::other("the endpoint does not support TLS")),
        Err(error) if is_local(&error) => Err(error),
        Err(_) => Err(io::Error::other("the endpoint closed the connection instead of starting TLS")),
    }
}

/// Does a TLS handshake with an endpoint. [`is_local`] recognises the shortages of this host.
async fn shake_hands<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    tls: &BackendTls,
    address: SocketAddr,
) -> io::Result<ClientStream<S>> {
    // Without verification the name does not matter, and no server name is sent for an address.
    let name = tls.terms.server_name.clone().unwrap_or(ServerName::IpAddress(address.ip().into()));
    let connected = ClientStream::connect(tls.client.config.clone(), name.clone(), stream).await;
    connected.map_err(|error| {
        if is_local(&error) {
            return error;
        }
        if let Some(error) = error.get_ref().and_then(|error| error.downcast_ref()) {
            tls.client.forget_undecryptable_session(&name, error);
        }
        io::Error::new(error.kind(), format!("TLS handshake failed: {error}"))
    })
}

/// The close reason of a failed attempt. Shortages of this host are logged at a bounded rate.
fn reason_for(error: &AttemptError, endpoint: SocketAddr, log: &LogLimiter) -> CloseReason {
    if error.of_tls {
        return CloseReason::BackendTls;
    }
    let error = &error.cause;
    if !is_local(error) {
        return CloseReason::ConnectFailed;
    }
    let no_port = error.kind() == io::ErrorKind::AddrNotAvailable;
    if log.allow() {
        let what_to_do = if no_port {
            "no free local port for this endpoint: widen net.ipv4.ip_local_port_range, or add endpoints"
        } else {
            "no file descriptor or memory left on this host"
        };
        warn!(%endpoint, %error, "cannot connect: {what_to_do}");
    }
    if no_port { CloseReason::NoLocalPort } else { CloseReason::LocalFailure }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    use rustix::io::Errno;
    use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
    use tokio::io::{ReadBuf, join, sink};

    use super::*;
    use crate::model::{BackendTlsTerms, TlsClientConfig};

    /// A connection whose reads fail.
    struct FailingReader(Errno);

    impl AsyncRead for FailingReader {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(self.0.into()))
        }
    }

    /// The fault and the close reason of handshakes that fail with this error.
    async fn failures(error: Errno) -> [(ConnectFault, CloseReason); 2] {
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let terms = BackendTlsTerms { server_name: None, authorities: None, certificate: None, start_tls: None };
        let tls = BackendTls { terms, client: TlsClientConfig::new(config, None) };
        let address = SocketAddr::from(([192, 0, 2, 1], 5432));
        let stream = || join(FailingReader(error), sink());
        let requested = ask_for_tls(&mut stream()).await.err();
        let negotiated = shake_hands(stream(), &tls, address).await.err();
        [requested, negotiated].map(|cause| {
            let error = AttemptError::of_handshake(cause.unwrap());
            (error.fault(), reason_for(&error, address, &LogLimiter::new()))
        })
    }

    #[tokio::test]
    async fn a_shortage_of_this_host_during_a_handshake_is_no_failure_of_the_endpoint() {
        for shortage in [Errno::NOBUFS, Errno::NOMEM] {
            assert_eq!(failures(shortage).await, [(ConnectFault::LocalFailure, CloseReason::LocalFailure); 2]);
        }
        assert_eq!(failures(Errno::CONNRESET).await, [(ConnectFault::Tls, CloseReason::BackendTls); 2]);
    }
}
