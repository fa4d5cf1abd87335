//! A constant number of open connections. A client whose connection ends opens the next one.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use fastrand::Rng;
use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Semaphore, watch},
    time::{Instant, sleep},
};
use tokio_rustls::client::TlsStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{NAME, record::Record};
use crate::{
    clients::{Connection, Failure, brief_visit},
    cluster::WAIT_LIMIT,
};

/// The interval of messages on each connection.
pub const MESSAGE_INTERVAL: Duration = Duration::from_secs(10);
/// Every fifth client ends its connections by itself, after a random part of this time.
const LIMITED_EVERY: usize = 5;
const LONGEST: Duration = Duration::from_secs(120);
/// The pause of a client whose connection has ended.
const RETRY_DELAY: Duration = Duration::from_secs(2);
/// The number of connections through a node that are opened at the same time.
const CONCURRENT_OPENINGS: usize = 32;

/// A port of a node, which leads to a listener of the replica on that node.
#[derive(Clone, Debug)]
pub struct Entrance {
    pub node: String,
    pub ip: IpAddr,
    pub node_port: u16,
    pub load_balancer: &'static str,
    pub is_tls: bool,
}

impl Entrance {
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.node_port)
    }

    /// True if a connection is served.
    pub async fn serves(&self, trusted: &TrustedCertificates) -> bool {
        if self.is_tls { trusted.open(self.address()).await.is_ok() } else { brief_visit(self.address()).await.is_ok() }
    }
}

/// The number of certificates that clients accept: a verification compares a limited number of signatures.
const ACCEPTED_CERTIFICATES: usize = 20;

/// The certificates that clients accept, the latest one first.
#[derive(Clone, Default)]
pub struct TrustedCertificates(Arc<Mutex<Vec<CertificateDer<'static>>>>);

impl TrustedCertificates {
    pub fn add(&self, certificate: CertificateDer<'static>) {
        let mut certificates = self.0.lock().unwrap();
        certificates.insert(0, certificate);
        certificates.truncate(ACCEPTED_CERTIFICATES);
    }

    async fn open(&self, address: SocketAddr) -> Result<Connection<TlsStream<TcpStream>>, Failure> {
        let trusted = self.0.lock().unwrap().clone();
        Connection::open_tls(address, NAME, &trusted.iter().collect::<Vec<_>>()).await
    }
}

/// The clients and the ended connections.
pub struct Population {
    shared: Arc<Shared>,
    clients: TaskTracker,
    count: usize,
}

struct Shared {
    trusted: TrustedCertificates,
    /// Limits concurrent openings through each node: those through a lost node take long.
    openings: BTreeMap<String, Semaphore>,
    records: Mutex<Vec<Record>>,
    stop: CancellationToken,
    /// Requests a message on each connection, before the end of its interval. The value is the number of the request.
    request: watch::Sender<u64>,
    answers: Mutex<Answers>,
}

/// The number of clients that had an answer since a request.
#[derive(Default)]
struct Answers {
    request: u64,
    count: usize,
}

impl Population {
    /// Starts this number of clients, distributed over the entrances.
    pub fn start(entrances: &[Entrance], count: usize, trusted: TrustedCertificates, rng: &mut Rng) -> Self {
        let openings = |entrance: &Entrance| (entrance.node.clone(), Semaphore::new(CONCURRENT_OPENINGS));
        let shared = Arc::new(Shared {
            trusted,
            openings: entrances.iter().map(openings).collect(),
            records: Mutex::default(),
            stop: CancellationToken::new(),
            request: watch::Sender::default(),
            answers: Mutex::default(),
        });
        let clients = TaskTracker::new();
        for number in 0..count {
            let entrance = entrances[number % entrances.len()].clone();
            let is_limited = (number / entrances.len()).is_multiple_of(LIMITED_EVERY);
            let client = Client { shared: shared.clone(), entrance, is_limited, rng: rng.fork(), answered: 0 };
            clients.spawn(client.run());
        }
        Self { shared, clients, count }
    }

    /// Waits until each client has an open connection, and an answer to a message that it sends from now on.
    pub async fn all_answer(&self) {
        let request = self.shared.answers.lock().unwrap().request + 1;
        *self.shared.answers.lock().unwrap() = Answers { request, count: 0 };
        self.shared.request.send_replace(request);
        let deadline = Instant::now() + WAIT_LIMIT;
        loop {
            let (answered, count) = (self.shared.answers.lock().unwrap().count, self.count);
            if answered == count {
                return;
            }
            if Instant::now() > deadline {
                let failed: Vec<_> = self.records().into_iter().filter(|record| record.failure.is_some()).collect();
                panic!(
                    "{answered} of {count} clients have an answer; {} failed: {:#?}",
                    failed.len(),
                    failed.iter().rev().take(20).collect::<Vec<_>>()
                );
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The connections that have ended so far.
    pub fn records(&self) -> Vec<Record> {
        self.shared.records.lock().unwrap().clone()
    }

    /// Ends all connections, after a last message on each. Returns the ends of all connections.
    pub async fn leave(self) -> Vec<Record> {
        self.shared.stop.cancel();
        self.clients.close();
        self.clients.wait().await;
        self.records()
    }
}

/// A client that opens one connection after the other.
struct Client {
    shared: Arc<Shared>,
    entrance: Entrance,
    is_limited: bool,
    rng: Rng,
    /// The last request that it has answered.
    answered: u64,
}

impl Client {
    async fn run(mut self) {
        let shared = self.shared.clone();
        while !shared.stop.is_cancelled() {
            let permit = shared.openings[&self.entrance.node].acquire().await.expect("the semaphore is never closed");
            let (opened, mut backend) = (Instant::now(), None);
            let address = self.entrance.address();
            let outcome = if self.entrance.is_tls {
                let opening = Box::pin(shared.trusted.open(address)).await;
                drop(permit);
                self.hold(opening, &mut backend).await
            } else {
                let opening = Box::pin(Connection::open(address)).await;
                drop(permit);
                self.hold(opening, &mut backend).await
            };
            let Entrance { node, load_balancer, is_tls, .. } = self.entrance.clone();
            let (ended, failure) = (Instant::now(), outcome.err());
            let has_failed = failure.is_some();
            let record = Record { node, load_balancer, is_tls, backend, opened, ended, failure };
            shared.records.lock().unwrap().push(record);
            if has_failed {
                shared.stop.run_until_cancelled(sleep(RETRY_DELAY)).await;
            }
        }
    }

    /// Holds a connection open until its planned end: the end of its lifetime, or that of the run.
    async fn hold<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        opening: Result<Connection<S>, Failure>,
        backend: &mut Option<String>,
    ) -> Result<(), Failure> {
        let (mut connection, shared) = (opening?, self.shared.clone());
        *backend = Some(connection.backend.clone());
        let end = self.is_limited.then(|| Instant::now() + LONGEST.mul_f64(self.rng.f64()));
        let mut request = shared.request.subscribe();
        loop {
            let is_last = shared.stop.is_cancelled() || end.is_some_and(|end| end <= Instant::now());
            let requested = *request.borrow_and_update();
            connection.echo("still here").await?;
            self.note_answer(requested);
            if is_last {
                return connection.finish().await;
            }
            tokio::select! {
                () = shared.stop.cancelled() => {}
                _ = request.changed() => {}
                result = connection.idle(MESSAGE_INTERVAL) => result?,
            }
        }
    }

    fn note_answer(&mut self, request: u64) {
        let mut answers = self.shared.answers.lock().unwrap();
        if request == answers.request && request > self.answered {
            answers.count += 1;
            self.answered = request;
        }
    }
}
