//! A client.

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use rustls::{HandshakeKind, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;

use super::socket;

/// The size of a small message.
pub const MESSAGE: usize = 64;

pub type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// The address of the server, and the transport.
#[derive(Clone)]
pub struct Client {
    pub server: SocketAddr,
    pub tls: Option<ClientTls>,
}

/// TLS with the server name that the client requests.
#[derive(Clone)]
pub struct ClientTls {
    pub connector: TlsConnector,
    pub name: ServerName<'static>,
}

impl Client {
    pub async fn connect(&self) -> io::Result<Stream> {
        let stream = socket::connect(self.server).await?;
        match &self.tls {
            None => Ok(Either::Left(stream)),
            Some(tls) => Ok(Either::Right(Box::new(tls.connector.connect(tls.name.clone(), stream).await?))),
        }
    }

    /// A connection that has answered once, so that it is open to the backend too.
    pub async fn connect_and_echo(&self) -> io::Result<Stream> {
        let mut stream = self.connect().await?;
        echo(&mut stream).await?;
        Ok(stream)
    }
}

/// Sends a unique message and expects it back.
pub async fn echo(stream: &mut Stream) -> io::Result<()> {
    let sent = message();
    stream.write_all(&sent).await?;
    stream.flush().await?;
    let mut answer = [0; MESSAGE];
    stream.read_exact(&mut answer).await?;
    if answer == sent { Ok(()) } else { Err(io::Error::other("other bytes came back than were sent")) }
}

/// The first byte never selects another behavior of the backend than the echo.
pub fn message() -> [u8; MESSAGE] {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut message = [b'E'; MESSAGE];
    message[8..16].copy_from_slice(&NEXT.fetch_add(1, Relaxed).to_le_bytes());
    message
}

/// Ends a connection like a typical client: with a close_notify alert if it uses TLS, and without waiting for the peer.
pub async fn close(mut stream: Stream) -> io::Result<()> {
    match &mut stream {
        Either::Left(_) => Ok(()),
        Either::Right(tls) => tls.shutdown().await,
    }
}

pub fn is_resumed(stream: &Stream) -> bool {
    match stream {
        Either::Left(_) => false,
        Either::Right(tls) => tls.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed),
    }
}
