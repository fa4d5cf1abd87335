//! Clients of all kinds, which open one connection after the other.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use fastrand::Rng;
use tokio::{net::TcpSocket, task::JoinSet, time::timeout};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::{
    accounting::Accounting,
    balancer::LoadBalancer,
    certificates::CertificateAuthority,
    connection::{Connection, Fault},
    record::{ClientEnd, ClientKind, ClientRecord},
    source,
    transport::Transport,
};
use crate::load::tls::{Sessions, connector};

/// The number of clients of each kind, for each instance.
const POPULATION: [(ClientKind, usize); 5] = [
    (ClientKind::Short, 8),
    (ClientKind::Reset, 2),
    (ClientKind::Long, 60),
    (ClientKind::Permanent, 40),
    (ClientKind::Bulk, 3),
];

/// The time limit for the clean end of all clients.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// The largest number of pieces of 64 KiB in a transfer.
const MAX_PIECES: u64 = 64;

/// All kinds of clients, with each transport.
pub fn kinds() -> impl Iterator<Item = (ClientKind, Transport)> {
    POPULATION.into_iter().flat_map(|(kind, _)| [(kind, Transport::Plain), (kind, Transport::Tls)])
}

/// The clients of all instances.
pub struct ClientPool {
    context: ClientContext,
    tasks: JoinSet<Result<()>>,
    stop: CancellationToken,
}

/// The connection settings and the results that all clients share.
#[derive(Clone)]
pub struct ClientContext {
    full: TlsConnector,
    resumed: TlsConnector,
    accounting: Arc<Accounting>,
    open: Arc<AtomicUsize>,
    /// The longest duration of a connection of [`ClientKind::Long`].
    longest: Duration,
}

impl ClientContext {
    pub fn new(authority: &CertificateAuthority, accounting: Arc<Accounting>, longest: Duration) -> Result<Self> {
        Ok(Self {
            full: connector(&authority.certificate(), Sessions::Full)?,
            resumed: connector(&authority.certificate(), Sessions::Resumed)?,
            accounting,
            open: Arc::default(),
            longest,
        })
    }

    /// The number of open connections.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Opens a connection, uses it, ends it, and accounts for it. Returns its end. Fails without a free address.
    pub async fn visit(
        &self,
        balancer: &Arc<LoadBalancer>,
        kind: ClientKind,
        rng: &mut Rng,
        stop: &CancellationToken,
    ) -> Result<ClientEnd> {
        let (socket, local) = source::bind()?;
        let mut record = ClientRecord::begin(balancer.clone(), kind, local);
        self.open.fetch_add(1, Relaxed);
        let conversation = self.converse(&mut record, socket, rng, stop);
        record.end = Box::pin(conversation).await.unwrap_or_else(ClientEnd::from);
        self.open.fetch_sub(1, Relaxed);
        record.ended = Instant::now();
        let end = record.end.clone();
        self.accounting.add_record(record);
        Ok(end)
    }

    async fn converse(
        &self,
        record: &mut ClientRecord,
        socket: TcpSocket,
        rng: &mut Rng,
        stop: &CancellationToken,
    ) -> Result<ClientEnd, Fault> {
        let (kind, opened) = (record.kind, record.opened);
        let tls = if rng.bool() { &self.full } else { &self.resumed };
        let tls = record.balancer.is_tls().then_some(tls);
        let mut connection = Connection::open(record, socket, tls).await?;
        match kind {
            ClientKind::Short | ClientKind::Reset => {
                for _ in 0..rng.usize(1..4) {
                    let length = rng.usize(1..4096);
                    connection.echo(rng, length).await?;
                }
            }
            ClientKind::Long => {
                let end = opened + self.longest.mul_f64(rng.f64());
                echo_at_intervals(&mut connection, rng, Some(end), stop).await?;
            }
            ClientKind::Permanent => echo_at_intervals(&mut connection, rng, None, stop).await?,
            ClientKind::Bulk => connection = connection.transfer(rng.u64(..), rng.u64(1..=MAX_PIECES)).await?,
        }
        if kind == ClientKind::Reset { connection.reset() } else { connection.finish().await }
    }
}

impl ClientPool {
    pub fn new(context: ClientContext) -> Self {
        Self { context, tasks: JoinSet::new(), stop: CancellationToken::new() }
    }

    /// Starts clients of these load balancers, of which some always serve.
    pub fn add(&mut self, balancers: &Arc<[Arc<LoadBalancer>]>, rng: &mut Rng) {
        for (kind, count) in POPULATION {
            for _ in 0..count {
                let (context, balancers) = (self.context.clone(), balancers.clone());
                self.tasks.spawn(repeat(context, balancers, kind, rng.fork(), self.stop.clone()));
            }
        }
    }

    /// Lets all clients end their connections cleanly. Fails if a client has failed or exceeds the time limit.
    pub async fn end(mut self) -> Result<()> {
        self.stop.cancel();
        let ended = async {
            while let Some(ended) = self.tasks.join_next().await {
                ended??;
            }
            Ok(())
        };
        timeout(END_TIMEOUT, ended).await.context("clients did not end in time")?
    }
}

async fn repeat(
    context: ClientContext,
    balancers: Arc<[Arc<LoadBalancer>]>,
    kind: ClientKind,
    mut rng: Rng,
    stop: CancellationToken,
) -> Result<()> {
    while !stop.is_cancelled() {
        let serving: Vec<_> = balancers.iter().filter(|balancer| balancer.serves()).collect();
        if let Some(balancer) = rng.choice(serving) {
            context.visit(balancer, kind, &mut rng, &stop).await?;
        }
        let pause = Duration::from_millis(match kind {
            ClientKind::Short | ClientKind::Reset => rng.u64(50..250),
            ClientKind::Long | ClientKind::Permanent => rng.u64(100..1000),
            ClientKind::Bulk => rng.u64(500..1500),
        });
        stop.run_until_cancelled(tokio::time::sleep(pause)).await;
    }
    Ok(())
}

/// Exchanges a byte at random intervals until a time, or until the clients are stopped.
async fn echo_at_intervals(
    connection: &mut Connection<'_>,
    rng: &mut Rng,
    end: Option<Instant>,
    stop: &CancellationToken,
) -> Result<(), Fault> {
    loop {
        connection.echo(rng, 1).await?;
        let pause = Duration::from_millis(rng.u64(200..2000));
        match stop.run_until_cancelled(connection.idle(pause)).await {
            Some(result) => result?,
            None => return Ok(()),
        }
        if end.is_some_and(|end| end <= Instant::now()) {
            return Ok(());
        }
    }
}
