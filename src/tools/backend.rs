//! A test backend: an echo server that sends its name.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

/// A listening echo server. It sends its lines first (see [`EchoOptions`]), then every received byte back. It closes the
/// connection after the client has closed its direction and everything is answered.
pub struct EchoServer {
    listener: TcpListener,
    address: SocketAddr,
    delay: Duration,
    greeting: Arc<str>,
    connections: Arc<Connections>,
}

/// The settings of a [`EchoServer`].
#[derive(Clone, Debug)]
pub struct EchoOptions {
    /// The listening address. Port 0 takes a free port. `[::]`: all addresses of both families.
    pub address: SocketAddr,
    /// The name in the first line: `hello from <name>`.
    pub name: Option<String>,
    /// The delay before each answered chunk.
    pub delay: Duration,
    /// A line that is sent first, or after the name. A missing line end is added.
    pub greeting: Option<String>,
}

/// The numbers of a backend's connections.
#[derive(Debug, Default)]
pub struct Connections {
    open: AtomicU64,
    total: AtomicU64,
}

impl Connections {
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// The number since the backend started to listen.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}

impl EchoServer {
    /// Starts to listen. Needs a tokio runtime. The error names the address and the reason.
    pub fn bind(options: EchoOptions) -> io::Result<Self> {
        let listener = listen(options.address).map_err(|error| explain(options.address, error))?;
        Ok(Self {
            address: listener.local_addr()?,
            listener,
            delay: options.delay,
            greeting: greeting(options.name.as_deref(), options.greeting.as_deref()).into(),
            connections: Arc::default(),
        })
    }

    /// The listening address, with the actual port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The numbers, which are updated while it serves.
    pub fn connections(&self) -> Arc<Connections> {
        self.connections.clone()
    }

    /// Serves until cancellation, then closes the connections and returns.
    pub async fn serve(self, cancel: CancellationToken) {
        let tasks = TaskTracker::new();
        info!(address = %self.address, "backend is listening");
        while let Some(accepted) = cancel.run_until_cancelled(self.listener.accept()).await {
            match accepted {
                Ok((stream, client)) => {
                    let echo = self.echo(stream, client);
                    let cancel = cancel.clone();
                    tasks.spawn(async move { cancel.run_until_cancelled(echo).await });
                }
                // No descriptors or memory: other connections may free some.
                Err(error) => {
                    warn!(address = %self.address, %error, "backend cannot accept connections");
                    cancel.run_until_cancelled(sleep(Duration::from_millis(100))).await;
                }
            }
        }
        drop(self.listener);
        tasks.close();
        tasks.wait().await;
    }

    fn echo(&self, mut stream: TcpStream, client: SocketAddr) -> impl Future<Output = ()> + use<> {
        let open = OpenConnection::begin(self.connections.clone());
        let (greeting, delay) = (self.greeting.clone(), self.delay);
        async move {
            let _open = open;
            match echo(&mut stream, &greeting, delay).await {
                Ok(bytes) => debug!(%client, bytes, "connection ended"),
                Err(error) => debug!(%client, %error, "connection failed"),
            }
        }
    }
}

/// Counts as open until it is dropped.
struct OpenConnection(Arc<Connections>);

impl OpenConnection {
    fn begin(connections: Arc<Connections>) -> Self {
        connections.total.fetch_add(1, Ordering::Relaxed);
        connections.open.fetch_add(1, Ordering::Relaxed);
        Self(connections)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Echoes a connection. Returns the number of bytes sent back.
async fn echo(stream: &mut TcpStream, greeting: &str, delay: Duration) -> io::Result<u64> {
    stream.set_nodelay(true)?;
    stream.write_all(greeting.as_bytes()).await?;
    let mut buffer = vec![0; 16 * 1024];
    let mut echoed = 0;
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            stream.shutdown().await?;
            return Ok(echoed);
        }
        sleep(delay).await;
        stream.write_all(&buffer[..count]).await?;
        echoed += count as u64;
    }
}

fn greeting(name: Option<&str>, greeting: Option<&str>) -> String {
    let mut lines = name.map(|name| format!("hello from {name}\n")).unwrap_or_default();
    if let Some(greeting) = greeting {
        lines.push_str(greeting);
        if !greeting.ends_with('\n') {
            lines.push('\n');
        }
    }
    lines
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match listen_on(address) {
        // On a machine without IPv6, all addresses are all IPv4 addresses.
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && is_ipv6_missing(&error) => {
            listen_on((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        result => result,
    }
}

fn is_ipv6_missing(error: &io::Error) -> bool {
    let is_refused = || Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).is_err();
    error.kind() == io::ErrorKind::AddrNotAvailable || is_refused()
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    TcpListener::from_std(socket.into())
}

fn explain(address: SocketAddr, error: io::Error) -> io::Error {
    let cause = match error.kind() {
        io::ErrorKind::AddrInUse => "another program uses the port: stop it, or choose another port".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this host does not have that address".to_owned(),
        io::ErrorKind::PermissionDenied => "no permission to use the port: choose a port of 1024 or higher".to_owned(),
        _ => error.to_string(),
    };
    io::Error::new(error.kind(), format!("cannot listen on {address}: {cause}"))
}

#[cfg(test)]
mod tests;
