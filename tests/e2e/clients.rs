//! Clients of a load balancer whose backends send their names and echo lines.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// The time limit of each wait of a client.
pub const LIMIT: Duration = Duration::from_secs(10);
/// The range of local ports. It is large enough that a load does not reuse a port within two minutes.
const FIRST_PORT: u16 = 2_000;
const LAST_PORT: u16 = u16::MAX;

/// The failure of a client.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    Refused,
    Reset,
    Unreachable,
    TimedOut,
    /// The peer ended the connection cleanly, but too early.
    EndedEarly,
    Strange(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Strange(what) => f.write_str(what),
            other => write!(f, "{other:?}"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
                Self::Reset
            }
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Self::Unreachable,
            io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::UnexpectedEof => Self::EndedEarly,
            _ => Self::Strange(error.to_string()),
        }
    }
}

/// An open connection to a backend that has sent its name.
pub struct Connection<S = TcpStream> {
    stream: BufReader<S>,
    /// The name of the backend.
    pub backend: String,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Result<Self, Failure> {
        Self::open_saying(address, "").await
    }

    /// Opens a connection that begins with this text: a PROXY header.
    pub async fn open_saying(address: SocketAddr, first: &str) -> Result<Self, Failure> {
        let mut stream = dial(address).await?;
        stream.write_all(first.as_bytes()).await?;
        Self::greeted(stream).await
    }

    /// The local address of the connection.
    pub fn local_address(&self) -> SocketAddr {
        self.stream.get_ref().local_addr().unwrap()
    }
}

impl Connection<TlsStream<TcpStream>> {
    /// Opens a TLS connection that trusts only these certificates.
    pub async fn open_tls(
        address: SocketAddr,
        name: &str,
        trusted: &[&CertificateDer<'static>],
    ) -> Result<Self, Failure> {
        Self::open_tls_showing(address, name, trusted, None).await
    }

    /// Opens a TLS connection with a client certificate and its key.
    pub async fn open_tls_showing(
        address: SocketAddr,
        name: &str,
        trusted: &[&CertificateDer<'static>],
        shown: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
    ) -> Result<Self, Failure> {
        let mut roots = RootCertStore::empty();
        for certificate in trusted {
            roots.add((*certificate).clone()).unwrap();
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots);
        let config = match shown {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => config.with_client_auth_cert(vec![certificate], key).unwrap(),
        };
        let stream = dial(address).await?;
        let connector = TlsConnector::from(Arc::new(config));
        let handshake = connector.connect(name.to_owned().try_into().unwrap(), stream);
        Self::greeted(timeout(LIMIT, handshake).await.map_err(|_| Failure::TimedOut)??).await
    }

    /// The certificate of the peer.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.stream.get_ref().get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    async fn greeted(stream: S) -> Result<Self, Failure> {
        let mut connection = Self { stream: BufReader::new(stream), backend: String::new() };
        let greeting = connection.line().await?;
        let Some(name) = greeting.strip_prefix("hello from ") else {
            return Err(Failure::Strange(format!("was greeted with `{greeting}`")));
        };
        connection.backend = name.to_owned();
        Ok(connection)
    }

    /// The next line from the backend, without its line end.
    pub async fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        match timeout(LIMIT, self.stream.read_line(&mut line)).await {
            Err(_) => Err(Failure::TimedOut),
            Ok(Ok(0)) => Err(Failure::EndedEarly),
            Ok(Ok(_)) if !line.ends_with('\n') => Err(Failure::EndedEarly),
            Ok(Ok(_)) => Ok(line.trim_end().to_owned()),
            Ok(Err(error)) => Err(error.into()),
        }
    }

    /// Sends a line, and expects its echo.
    pub async fn echo(&mut self, text: &str) -> Result<(), Failure> {
        self.stream.write_all(format!("{text}\n").as_bytes()).await?;
        self.stream.flush().await?;
        let answer = self.line().await?;
        if answer == text { Ok(()) } else { Err(Failure::Strange(format!("`{answer}` came back for `{text}`"))) }
    }

    /// Waits, and fails if the connection ends before that.
    pub async fn idle(&mut self, pause: Duration) -> Result<(), Failure> {
        match timeout(pause, self.stream.fill_buf()).await {
            Err(_) => Ok(()),
            Ok(Ok([])) => Err(Failure::EndedEarly),
            Ok(Ok(bytes)) => Err(Failure::Strange(format!("{} bytes came unrequested", bytes.len()))),
            Ok(Err(error)) => Err(error.into()),
        }
    }

    /// Ends the client's direction, and waits for the end from the peer.
    pub async fn finish(mut self) -> Result<(), Failure> {
        self.stream.shutdown().await?;
        let mut rest = Vec::new();
        timeout(LIMIT, self.stream.read_to_end(&mut rest)).await.map_err(|_| Failure::TimedOut)??;
        if rest.is_empty() { Ok(()) } else { Err(Failure::Strange(format!("{} bytes too many", rest.len()))) }
    }
}

/// Connects from a port that no other client of this address has used. kube-proxy sends a connection from a used port
/// to the pod of the previous connection, for two minutes after its end, even if that pod is gone.
async fn dial(address: SocketAddr) -> Result<TcpStream, Failure> {
    let any = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = loop {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // Clients of other addresses may use the port.
        socket.set_reuseaddr(true)?;
        match socket.bind(SocketAddr::new(any, next_port(address))) {
            Ok(()) => break socket,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error.into()),
        }
    };
    let stream = timeout(LIMIT, socket.connect(address)).await.map_err(|_| Failure::TimedOut)??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The next local port. The first one is random: another run may have used the same address recently.
fn next_port(address: SocketAddr) -> u16 {
    static PORTS: LazyLock<Mutex<BTreeMap<SocketAddr, u16>>> = LazyLock::new(Mutex::default);
    let mut ports = PORTS.lock().unwrap();
    let port = ports.entry(address).or_insert_with(|| fastrand::u16(FIRST_PORT..=LAST_PORT));
    *port = if *port < LAST_PORT { *port + 1 } else { FIRST_PORT };
    *port
}

/// Connects, checks an echo and ends cleanly. Returns the name of the backend.
pub async fn visit(address: SocketAddr) -> Result<String, Failure> {
    let mut connection = Connection::open(address).await?;
    connection.echo("there and back").await?;
    let backend = connection.backend.clone();
    connection.finish().await?;
    Ok(backend)
}

/// The time limit for clients that retry: a Service that nodes do not know yet drops packets, and all that follow from
/// the same port.
pub const SOON: Duration = Duration::from_millis(500);

/// Like [`visit`], for clients that retry.
pub async fn brief_visit(address: SocketAddr) -> Result<String, Failure> {
    timeout(SOON, visit(address)).await.unwrap_or(Err(Failure::TimedOut))
}

/// Only connects, for clients that retry.
pub async fn brief_dial(address: SocketAddr) -> Result<TcpStream, Failure> {
    timeout(SOON, dial(address)).await.unwrap_or(Err(Failure::TimedOut))
}
