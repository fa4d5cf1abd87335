//! A client connection, step by step.

use std::{io, net::SocketAddr, time::Duration};

use fastrand::Rng;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::either::Either;

use super::{
    backends::{GREETING, parse_greeting},
    record::{ClientEnd, ClientRecord},
};
use crate::{
    contender::certificates::NAME,
    load::client::{Stream, is_resumed},
};

/// The time limit of each step, on a busy machine.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// The size of a piece of bulk data.
const PIECE: usize = 64 << 10;

/// The reason why a conversation did not reach its planned end.
pub enum Fault {
    /// The TCP connection was refused.
    Refused,
    Failed {
        step: &'static str,
        error: io::Error,
    },
    Corrupt(String),
}

impl From<Fault> for ClientEnd {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused => Self::Refused,
            Fault::Failed { step, error } => Self::Failed(format!("{step}: {error}")),
            Fault::Corrupt(difference) => Self::Corrupt(difference),
        }
    }
}

/// An open connection whose backend has sent its first line.
pub struct Connection<'a> {
    stream: Stream,
    record: &'a mut ClientRecord,
}

impl<'a> Connection<'a> {
    /// Connects, completes the TLS handshake, and reads the first line of the backend.
    pub async fn open(
        record: &'a mut ClientRecord,
        socket: TcpSocket,
        tls: Option<&TlsConnector>,
    ) -> Result<Self, Fault> {
        let stream = connect(socket, record.balancer.address).await?;
        let mut stream = secure(stream, tls, record).await?;
        let mut line = [0; GREETING];
        step("the first line", stream.read_exact(&mut line)).await?;
        let corrupt = || Fault::Corrupt(format!("the first line is {:?}", String::from_utf8_lossy(&line)));
        record.backend = Some(parse_greeting(&line).ok_or_else(corrupt)?);
        record.received += GREETING as u64;
        Ok(Self { stream, record })
    }

    /// Sends random bytes and expects them back.
    pub async fn echo(&mut self, rng: &mut Rng, length: usize) -> Result<(), Fault> {
        let sent: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(length).collect();
        let mut answer = vec![0; length];
        step("sending", self.stream.write_all(&sent)).await?;
        step("sending", self.stream.flush()).await?;
        self.record.sent += length as u64;
        step("an answer", self.stream.read_exact(&mut answer)).await?;
        self.record.received += length as u64;
        verify(&sent, &answer, 0)
    }

    /// Waits, and fails if the connection ends before that.
    pub async fn idle(&mut self, pause: Duration) -> Result<(), Fault> {
        match timeout(pause, self.stream.read(&mut [0])).await {
            Err(_) => Ok(()),
            Ok(Ok(0)) => Err(failed("idle", io::ErrorKind::UnexpectedEof)),
            Ok(Ok(_)) => Err(Fault::Corrupt("a byte that was not requested".into())),
            Ok(Err(error)) => Err(Fault::Failed { step: "idle", error }),
        }
    }

    /// Sends this number of pieces, and reads them back at the same time.
    pub async fn transfer(self, seed: u64, pieces: u64) -> Result<Self, Fault> {
        let Self { stream, record } = self;
        let (reading, writing) = split(stream);
        let sending = send(writing, seed, pieces);
        let (reading, writing) = tokio::try_join!(receive(reading, seed, pieces), sending)?;
        record.sent += pieces * PIECE as u64;
        record.received += pieces * PIECE as u64;
        Ok(Self { stream: reading.unsplit(writing), record })
    }

    /// Ends the direction to the backend, and waits for the end of the other one.
    pub async fn finish(mut self) -> Result<ClientEnd, Fault> {
        step("ending", self.stream.shutdown()).await?;
        match step("the end", self.stream.read(&mut [0])).await? {
            0 => Ok(ClientEnd::Complete),
            _ => Err(Fault::Corrupt("more bytes than were requested".into())),
        }
    }

    /// Resets the connection.
    pub fn reset(self) -> Result<ClientEnd, Fault> {
        let tcp = match &self.stream {
            Either::Left(tcp) => tcp,
            Either::Right(tls) => tls.get_ref().0,
        };
        match SockRef::from(tcp).set_linger(Some(Duration::ZERO)) {
            Ok(()) => Ok(ClientEnd::Reset),
            Err(error) => Err(Fault::Failed { step: "resetting", error }),
        }
    }
}

async fn connect(socket: TcpSocket, server: SocketAddr) -> Result<TcpStream, Fault> {
    match step("connecting", socket.connect(server)).await {
        Err(Fault::Failed { error, .. }) if error.kind() == io::ErrorKind::ConnectionRefused => Err(Fault::Refused),
        result => result,
    }
}

async fn secure(tcp: TcpStream, tls: Option<&TlsConnector>, record: &mut ClientRecord) -> Result<Stream, Fault> {
    let Some(tls) = tls else { return Ok(Either::Left(tcp)) };
    let name = NAME.try_into().map_err(|_| failed("the server name", io::ErrorKind::InvalidInput))?;
    let stream = Either::Right(Box::new(step("the TLS handshake", tls.connect(name, tcp)).await?));
    // A resumed session has the certificate of its first handshake.
    if let Either::Right(tls) = &stream
        && !is_resumed(&stream)
    {
        let certificates = tls.get_ref().1.peer_certificates().unwrap_or_default();
        let version = certificates.first().and_then(|certificate| record.balancer.version_of(certificate));
        record.certificate = Some(version.ok_or_else(|| Fault::Corrupt("an unknown certificate".into()))?);
    }
    Ok(stream)
}

async fn send(mut writing: WriteHalf<Stream>, seed: u64, pieces: u64) -> Result<WriteHalf<Stream>, Fault> {
    let (mut rng, mut piece) = (Rng::with_seed(seed), vec![0; PIECE]);
    for _ in 0..pieces {
        rng.fill(&mut piece);
        step("sending data", writing.write_all(&piece)).await?;
    }
    step("sending data", writing.flush()).await?;
    Ok(writing)
}

async fn receive(mut reading: ReadHalf<Stream>, seed: u64, pieces: u64) -> Result<ReadHalf<Stream>, Fault> {
    let (mut rng, mut expected, mut piece) = (Rng::with_seed(seed), vec![0; PIECE], vec![0; PIECE]);
    for number in 0..pieces {
        rng.fill(&mut expected);
        step("receiving data", reading.read_exact(&mut piece)).await?;
        verify(&expected, &piece, number * PIECE as u64)?;
    }
    Ok(reading)
}

fn verify(sent: &[u8], received: &[u8], offset: u64) -> Result<(), Fault> {
    match sent.iter().zip(received).position(|(sent, received)| sent != received) {
        None => Ok(()),
        Some(position) => Err(Fault::Corrupt(format!("byte {} differs", offset + position as u64))),
    }
}

/// Runs a step with the time limit.
async fn step<T>(step: &'static str, future: impl Future<Output = io::Result<T>>) -> Result<T, Fault> {
    match timeout(STEP_TIMEOUT, future).await {
        Ok(result) => result.map_err(|error| Fault::Failed { step, error }),
        Err(_) => Err(failed(step, io::ErrorKind::TimedOut)),
    }
}

fn failed(step: &'static str, kind: io::ErrorKind) -> Fault {
    Fault::Failed { step, error: kind.into() }
}
