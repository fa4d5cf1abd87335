//! Many clients of an echo server that sends its name first. Each client has its own address, to be found in the access
//! log.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::timeout,
};

/// The time limit of one step of a client.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// The outcome of one client.
#[derive(Debug)]
pub struct Outcome {
    pub source: Ipv4Addr,
    /// The name of its backend, if it was received.
    pub backend: Option<String>,
    pub sent: u64,
    pub received: u64,
    /// The failure, and the step in which it occurred.
    pub failure: Option<(Step, io::Error)>,
}

impl Outcome {
    pub fn of(index: u32) -> Self {
        Self { source: source(index), backend: None, sent: 0, received: 0, failure: None }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Connect,
    Greeting,
    Echo,
    End,
}

/// The clients `0..total`, a limited number at a time.
#[derive(Debug)]
pub struct Swarm {
    pub server: SocketAddr,
    pub total: u32,
    pub concurrency: usize,
    pub progress: Arc<Progress>,
}

/// The numbers of clients that have started and ended.
#[derive(Debug, Default)]
pub struct Progress {
    begun: AtomicU32,
    ended: AtomicU32,
}

impl Progress {
    /// Returns once this many clients have ended.
    pub async fn reaches(&self, count: u32) {
        while self.ended.load(Relaxed) < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Swarm {
    pub async fn run(self) -> Vec<Outcome> {
        let mut tasks = JoinSet::new();
        for _ in 0..self.concurrency {
            let (server, total, progress) = (self.server, self.total, self.progress.clone());
            tasks.spawn(async move {
                let mut outcomes = Vec::new();
                while let Some(index) = Some(progress.begun.fetch_add(1, Relaxed)).filter(|index| *index < total) {
                    outcomes.push(once(server, index).await);
                    progress.ended.fetch_add(1, Relaxed);
                }
                outcomes
            });
        }
        tasks.join_all().await.into_iter().flatten().collect()
    }
}

/// The address of a client, unique in 127.0.0.0/8.
pub fn source(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 1).to_bits() + index)
}

/// Connects from the client's address.
pub async fn connect(server: SocketAddr, index: u32) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((IpAddr::from(source(index)), 0).into())?;
    let stream = with_timeout(socket.connect(server)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads the line that the server sends first: its name.
pub async fn greeting(stream: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    loop {
        match with_timeout(stream.read_u8()).await? {
            b'\n' => break,
            byte => line.push(byte),
        }
    }
    let line = String::from_utf8(line).map_err(io::Error::other)?;
    line.strip_prefix("hello from ").map(Into::into).ok_or_else(|| io::Error::other(format!("greeted by `{line}`")))
}

/// Sends bytes and concurrently reads as many; they must be equal.
pub async fn echo(stream: &mut TcpStream, bytes: &[u8], outcome: &mut Outcome) -> io::Result<()> {
    let (mut reading, mut writing) = stream.split();
    let mut echoed = vec![0; bytes.len()];
    let Outcome { sent, received, .. } = outcome;
    let write = async {
        writing.write_all(bytes).await?;
        *sent += bytes.len() as u64;
        Ok(())
    };
    let read = async {
        reading.read_exact(&mut echoed).await?;
        *received += bytes.len() as u64;
        Ok(())
    };
    with_timeout(async { tokio::try_join!(write, read) }).await?;
    if echoed == bytes { Ok(()) } else { Err(io::Error::other("other bytes came back")) }
}

async fn once(server: SocketAddr, index: u32) -> Outcome {
    let mut outcome = Outcome::of(index);
    outcome.failure = converse(server, index, &mut outcome).await.err();
    outcome
}

async fn converse(server: SocketAddr, index: u32, outcome: &mut Outcome) -> Result<(), (Step, io::Error)> {
    let during = |step: Step| move |error: io::Error| (step, error);
    let mut stream = connect(server, index).await.map_err(during(Step::Connect))?;
    let name = greeting(&mut stream).await.map_err(during(Step::Greeting))?;
    outcome.received += "hello from \n".len() as u64 + name.len() as u64;
    outcome.backend = Some(name);
    echo(&mut stream, &payload(index), outcome).await.map_err(during(Step::Echo))?;
    stream.shutdown().await.map_err(during(Step::End))?;
    match with_timeout(stream.read(&mut [0])).await.map_err(during(Step::End))? {
        0 => Ok(()),
        _ => Err((Step::End, io::Error::other("more came back than was sent"))),
    }
}

/// The bytes of a client, unique to it. Usually few, sometimes more than the sockets' buffers hold.
fn payload(index: u32) -> Vec<u8> {
    let numbers = if index.is_multiple_of(500) { 64 * 1024 } else { 1 + index % 400 };
    index.to_le_bytes().repeat(numbers as usize)
}

async fn with_timeout<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(STEP_TIMEOUT, step).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
