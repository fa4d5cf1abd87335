//! The servers behind the contenders. The first byte of a connection selects the behavior: one of the constants below,
//! otherwise the server echoes.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Sends data without end.
pub const STREAM: u8 = b'S';
/// Sends data without end, and reads the received data.
pub const BOTH: u8 = b'B';
/// Sends its own address, four bytes, and then echoes.
pub const WHO: u8 = b'W';
/// Answers each byte with [`CHUNK`] bytes.
pub const ASK: u8 = b'A';

/// The size of an answer to one byte, for [`ASK`].
pub const CHUNK: usize = 64 << 10;

/// The byte that streams consist of.
pub const FILLING: u8 = 7;

const LISTEN_QUEUE: i32 = 4096;

/// The expected start of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    None,
    ProxyV2,
}

/// Running servers, on the runtime that started them. Dropping this ends them.
pub struct Backends {
    received: Arc<AtomicU64>,
    servers: JoinSet<()>,
}

impl Backends {
    pub fn new() -> Self {
        Self { received: Arc::default(), servers: JoinSet::new() }
    }

    pub fn add(&mut self, address: SocketAddr, opening: Opening) -> Result<()> {
        let listener = listen(address).with_context(|| format!("a backend cannot listen on {address}"))?;
        self.servers.spawn(accept(listener, opening, self.received.clone()));
        Ok(())
    }

    /// The number of bytes received on connections of [`BOTH`].
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }
}

pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_QUEUE)?;
    TcpListener::from_std(socket.into())
}

async fn accept(listener: TcpListener, opening: Opening, received: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            // No free descriptors: clients notice, and other connections continue.
            tokio::task::yield_now().await;
            continue;
        };
        let received = received.clone();
        connections.spawn(async move {
            // A disconnect by the client is not an error. A client reports missing data itself.
            let _ = serve(stream, opening, &received).await;
        });
    }
}

async fn serve(mut stream: TcpStream, opening: Opening, received: &AtomicU64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if opening == Opening::ProxyV2 {
        read_proxy_header(&mut stream).await?;
    }
    // Echoes are small. A large buffer for each of thousands of connections would distort the measurement.
    let mut buffer = [0; 1024];
    let count = stream.read(&mut buffer).await?;
    match &buffer[..count] {
        [] => Ok(()),
        [STREAM, ..] => send_without_end(&mut stream).await,
        [BOTH, ..] => {
            let (mut reading, mut writing) = stream.split();
            tokio::try_join!(sink(&mut reading, received), send_without_end(&mut writing)).map(|_| ())
        }
        [WHO, ..] => {
            if let IpAddr::V4(address) = stream.local_addr()?.ip() {
                stream.write_all(&address.octets()).await?;
            }
            echo(stream, buffer).await
        }
        [ASK, ..] => answer(stream).await,
        first => {
            stream.write_all(first).await?;
            echo(stream, buffer).await
        }
    }
}

async fn echo(mut stream: TcpStream, mut buffer: [u8; 1024]) -> io::Result<()> {
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count]).await?,
        }
    }
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    let chunk = vec![FILLING; CHUNK];
    loop {
        stream.write_all(&chunk).await?;
        if stream.read(&mut [0]).await? == 0 {
            return Ok(());
        }
    }
}

async fn send_without_end(stream: &mut (impl AsyncWriteExt + Unpin)) -> io::Result<()> {
    let filling = vec![FILLING; 256 << 10];
    loop {
        stream.write_all(&filling).await?;
    }
}

async fn sink(stream: &mut (impl AsyncReadExt + Unpin), received: &AtomicU64) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            count => received.fetch_add(count as u64, Relaxed),
        };
    }
}

async fn read_proxy_header(stream: &mut TcpStream) -> io::Result<()> {
    let mut start = [0; 16];
    stream.read_exact(&mut start).await?;
    if !start.starts_with(b"\r\n\r\n\0\r\nQUIT\n") {
        return Err(io::Error::other("this is no PROXY header of version 2"));
    }
    let length = u16::from_be_bytes([start[14], start[15]]);
    stream.read_exact(&mut vec![0; length.into()]).await.map(|_| ())
}

/// The address of a backend on this machine.
pub fn local(host: [u8; 4], port: u16) -> SocketAddr {
    (Ipv4Addr::from(host), port).into()
}
