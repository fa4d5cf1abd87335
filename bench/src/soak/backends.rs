//! Echo servers that can be killed. Each connection starts with a line that names the server and its incarnation.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use socket2::SockRef;
use tokio::{
    io::{self, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::timeline::{Incarnation, Timeline};
use crate::backend::{listen, local};

pub const COUNT: usize = 8;
/// The first backends are never killed, so that some connections survive the whole run.
pub const NEVER_KILLED: usize = 2;
/// The length of the first line.
pub const GREETING: usize = 12;

const PORT: u16 = 28600;

/// The method by which a killed backend closes its connections.
#[derive(Clone, Copy, Debug)]
pub enum Kill {
    /// With a FIN, like a process that ends.
    Close,
    /// With a RST.
    Reset,
}

/// All backends. They share one runtime with the clients.
pub struct BackendSet {
    timeline: Arc<Timeline>,
    running: Vec<Mutex<Option<RunningBackend>>>,
}

struct RunningBackend {
    incarnation: Incarnation,
    resets: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl BackendSet {
    pub fn start(timeline: Arc<Timeline>) -> Result<Self> {
        let start =
            |backend| RunningBackend::start(Incarnation { backend, number: 0 }).map(|server| Mutex::new(Some(server)));
        Ok(Self { timeline, running: (0..COUNT).map(start).collect::<Result<_>>()? })
    }

    /// Kills a backend, and starts it again after a pause.
    pub async fn kill(&self, backend: usize, kill: Kill, pause: Duration) -> Result<()> {
        let server = self.running[backend].lock().unwrap().take().context("the backend runs")?;
        let killed = server.incarnation;
        self.timeline.begin_kill(killed);
        server.kill(kill).await;
        self.timeline.end_kill(killed);
        tokio::time::sleep(pause).await;
        let server = RunningBackend::start(Incarnation { number: killed.number + 1, ..killed })?;
        *self.running[backend].lock().unwrap() = Some(server);
        self.timeline.note(format!("restart of backend {backend}"));
        Ok(())
    }
}

impl RunningBackend {
    fn start(incarnation: Incarnation) -> Result<Self> {
        let address = address(incarnation.backend);
        let listener = listen(address).with_context(|| format!("cannot listen on {address}"))?;
        let resets = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, incarnation, resets.clone()));
        Ok(Self { incarnation, resets, tasks })
    }

    async fn kill(mut self, kill: Kill) {
        self.resets.store(matches!(kill, Kill::Reset), Relaxed);
        self.tasks.shutdown().await;
    }
}

pub fn address(backend: usize) -> SocketAddr {
    local([127, 0, 77, backend as u8 + 1], PORT)
}

/// The backend with this address.
pub fn at(address: SocketAddr) -> Option<usize> {
    (0..COUNT).find(|backend| self::address(*backend) == address)
}

/// Reads the first line of a backend.
pub fn parse_greeting(line: &[u8; GREETING]) -> Option<Incarnation> {
    let (backend, number) = str::from_utf8(line).ok()?.strip_suffix('\n')?.split_once(' ')?;
    Some(Incarnation { backend: backend.parse().ok()?, number: number.parse().ok()? })
}

fn greeting(Incarnation { backend, number }: Incarnation) -> String {
    format!("{backend:02} {number:08}\n")
}

async fn accept(listener: TcpListener, incarnation: Incarnation, resets: Arc<AtomicBool>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let connection = ServerConnection { stream, resets: resets.clone() };
        connections.spawn(async move {
            // Clients account for failed connections.
            let _ = connection.serve(incarnation).await;
        });
    }
}

/// A connection that is reset on drop if its server was killed that way.
struct ServerConnection {
    stream: TcpStream,
    resets: Arc<AtomicBool>,
}

impl ServerConnection {
    async fn serve(mut self, incarnation: Incarnation) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        self.stream.write_all(greeting(incarnation).as_bytes()).await?;
        let mut buffer = vec![0; 16 << 10];
        loop {
            match self.stream.read(&mut buffer).await? {
                0 => return self.stream.shutdown().await,
                count => self.stream.write_all(&buffer[..count]).await?,
            }
        }
    }
}

impl Drop for ServerConnection {
    fn drop(&mut self) {
        if self.resets.load(Relaxed) {
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_names_the_incarnation() {
        let incarnation = Incarnation { backend: 7, number: 12 };
        let line: [u8; GREETING] = greeting(incarnation).into_bytes().try_into().unwrap();
        assert_eq!(parse_greeting(&line), Some(incarnation));
        assert_eq!(parse_greeting(b"something el"), None);
        assert_eq!(at(address(5)), Some(5));
    }
}
