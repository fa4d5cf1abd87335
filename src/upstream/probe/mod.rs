//! Probes of endpoints, on their own connections: never on the path of a client's connection, and at most one at a time
//! for each endpoint.

mod bounded;
mod connection;
mod exchange;
mod failure;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod grpc;
mod http;
mod mysql;
mod postgres;
mod redis;
mod role;
mod shortage;
mod start_tls;
#[cfg(test)]
mod tests;
mod tls;
mod words;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tracing::warn;

pub(super) use self::tls::ProbeTlsClient;
use self::{
    bounded::Bounded,
    connection::{ProbeConnection, ProbeStream},
    failure::ProbeError,
    postgres::SessionEncryption,
    shortage::ShortageRecord,
};
use super::{
    dial::{dial, is_local},
    endpoint::Endpoint,
};
use crate::{
    capacity::{TenantPermit, TenantQueue},
    log_limit::LogLimiter,
    model::{ActiveCheck, Backend, BackendTls, Probe, ProxyVersion, Transport},
};

/// The outcome of a probe: passed, or the reason of its failure.
pub(super) type ProbeResult = Result<(), String>;

/// The target of probes, and its settings.
#[derive(Clone, PartialEq)]
pub(super) struct ProbeTarget {
    pub address: SocketAddr,
    pub check: Arc<ActiveCheck>,
    /// The PROXY header that connections begin with.
    pub proxy_protocol: Option<ProxyVersion>,
    /// `None`: no TLS.
    pub tls: Option<ProbeTlsClient>,
}

/// Probes at each interval, the first time after `delay`. `report` returns true if the endpoint is healthy.
///
/// A local failure is reported as `None`. A probe waits for a permit of `queue`; its interval and timeout begin with
/// the permit.
pub(super) async fn probe(
    target: Arc<ProbeTarget>,
    queue: Arc<TenantQueue>,
    delay: Duration,
    report: impl Fn(Option<ProbeResult>) -> bool,
) {
    let check = &*target.check;
    let mut is_logged = false;
    sleep(delay).await;
    loop {
        let permit = permit(&queue).await;
        let started = Instant::now();
        let deadline = started + check.timeout;
        // On the heap only while in progress: between probes, thousands of tasks only wait for a timer.
        let healthy = match Box::pin(target.ask(deadline)).await {
            Ok(connection) => {
                let healthy = report(Some(Ok(())));
                let _ = timeout_at(deadline, Box::pin(close(connection))).await;
                healthy
            }
            Err(ProbeError::Io(error)) if is_local(&error) => {
                if !is_logged {
                    warn!(endpoint = %target.address, reason = %error, "cannot probe");
                }
                is_logged = true;
                report(None)
            }
            Err(failure) => report(Some(Err(failure.to_string()))),
        };
        drop(permit);
        let interval = if healthy { check.interval } else { check.unhealthy_interval };
        sleep_until(started + jittered(interval, check.jitter_percent)).await;
    }
}

/// Waits for the permit of one probe, in order of requests.
async fn permit(queue: &Arc<TenantQueue>) -> TenantPermit {
    static LOG: LogLimiter = LogLimiter::new();
    if let Some(permit) = queue.try_enter() {
        return permit;
    }
    if LOG.allow() {
        warn!(
            namespace = queue.namespace(),
            "the probes of a namespace have reached the limit that file descriptors allow, and others wait: raise the \
             limit of open files"
        );
    }
    // On the heap, like probes in progress.
    Box::pin(queue.enter()).await
}

impl ProbeTarget {
    /// `None`: the endpoint has no active check.
    pub fn of(endpoint: &Endpoint) -> Option<Self> {
        let backend = endpoint.backend();
        let check = backend.active_check.clone()?;
        let address = endpoint.address();
        let tls = Self::tls(&backend, &check, address);
        Some(Self { address, check, proxy_protocol: backend.proxy_protocol, tls })
    }

    fn tls(backend: &Backend, check: &ActiveCheck, address: SocketAddr) -> Option<ProbeTlsClient> {
        let is_own_port = check.port.is_none_or(|port| port.get() == address.port());
        let is_encrypted = match check.transport {
            Transport::Plain => false,
            Transport::AsConnections | Transport::Tls => true,
            Transport::ByPort => is_own_port,
        };
        let of_connections = backend.tls.as_ref().filter(|_| is_encrypted);
        let of = |tls: &BackendTls, name: Option<&ServerName<'static>>| {
            let client = ProbeTlsClient::of(tls, name, address);
            // Another port belongs to another server, which may not be PostgreSQL.
            if is_own_port || matches!(check.probe, Probe::Postgres(_)) { client } else { client.without_asking() }
        };
        match (&check.probe, of_connections) {
            (Probe::Tls(name), Some(tls)) => Some(of(tls, name.as_ref()).that_never_resumes()),
            (Probe::Tls(name), None) => Some(ProbeTlsClient::accepting_any_certificate(name.as_ref())),
            (Probe::Grpc(_), Some(tls)) => Some(of(tls, None).speaking(grpc::PROTOCOL)),
            (_, Some(tls)) => Some(of(tls, None)),
            (_, None) => None,
        }
    }

    /// Runs the probe. Returns the connection if it passed.
    async fn ask(&self, deadline: Instant) -> Result<ProbeConnection, ProbeError> {
        let address = SocketAddr::new(self.address.ip(), self.port());
        let stream = timeout_at(deadline, dial(address)).await.map_err(|_| self.timed_out())??;
        self.ask_over(stream, deadline).await
    }

    /// Runs the probe over a new connection. After a shortage of this host, a failure says nothing about the endpoint,
    /// and the shortage is returned instead.
    async fn ask_over(
        &self,
        stream: impl ProbeStream + 'static,
        deadline: Instant,
    ) -> Result<ProbeConnection, ProbeError> {
        let shortage = ShortageRecord::default();
        let stream = Box::new(Bounded::new(stream, shortage.clone()));
        let asked = async {
            let connection = timeout_at(deadline, self.begin(stream)).await.map_err(|_| self.timed_out())??;
            self.found(connection, deadline).await
        };
        let failed = |failure| shortage.error().map_or_else(|| self.without_password(failure), ProbeError::Io);
        asked.await.map_err(failed)
    }

    /// Replaces a failure that quotes the password, which a server may repeat.
    fn without_password(&self, failure: ProbeError) -> ProbeError {
        /// Shorter passwords occur in ordinary words.
        const SHORTEST: usize = 4;

        let password = match &self.check.probe {
            Probe::Postgres(session) => session.as_ref().and_then(|session| session.password.as_ref()),
            Probe::MySql(session) => session.password.as_ref(),
            Probe::Redis(session) => session.password.as_ref(),
            Probe::Tcp | Probe::Tls(_) | Probe::Http(_) | Probe::Grpc(_) | Probe::Exchange(_) => None,
        };
        let is_quoted = |sentence: &str| {
            password
                .is_some_and(|password| password.reveal().len() >= SHORTEST && sentence.contains(&**password.reveal()))
        };
        match failure {
            ProbeError::Unexpected(sentence) if is_quoted(&sentence) => {
                ProbeError::unexpected("the answer repeats the password of the check and is not shown")
            }
            failure @ (ProbeError::Io(_) | ProbeError::Unexpected(_)) => failure,
        }
    }

    async fn found(&self, mut connection: ProbeConnection, deadline: Instant) -> Result<ProbeConnection, ProbeError> {
        match &self.check.probe {
            // These two can report a partial answer at the deadline.
            Probe::Exchange(exchange) => exchange::ask(&mut connection, exchange, deadline).await?,
            Probe::Http(request) => {
                let asked = http::ask(&mut connection, request, self.address, deadline).await;
                asked.ok_or_else(|| self.timed_out())??;
            }
            Probe::Tcp | Probe::Tls(_) | Probe::Grpc(_) | Probe::Postgres(_) | Probe::MySql(_) | Probe::Redis(_) => {
                return timeout_at(deadline, self.ask_on(connection)).await.map_err(|_| self.timed_out())?;
            }
        }
        Ok(connection)
    }

    fn timed_out(&self) -> ProbeError {
        ProbeError::unexpected(format!("no answer within {:?}", self.check.timeout))
    }

    /// The port that is probed.
    fn port(&self) -> u16 {
        self.check.port.map_or(self.address.port(), |port| port.get())
    }

    /// Sends the PROXY header, and negotiates TLS.
    async fn begin(&self, mut stream: ProbeConnection) -> Result<ProbeConnection, ProbeError> {
        if matches!(self.check.probe, Probe::Tcp) {
            return Ok(stream);
        }
        if let Some(version) = self.proxy_protocol.filter(|_| self.port() == self.address.port()) {
            stream.write_all(proxy_header(version)).await?;
        }
        match (&self.check.probe, &self.tls) {
            // The server sends the first message, before TLS begins.
            (Probe::MySql(_), _) | (_, None) => Ok(stream),
            (_, Some(tls)) => tls.begin(stream).await,
        }
    }

    async fn ask_on(&self, mut connection: ProbeConnection) -> Result<ProbeConnection, ProbeError> {
        let tls = self.tls.as_ref();
        let encryption = if tls.is_some() { SessionEncryption::Tls } else { SessionEncryption::None };
        match &self.check.probe {
            Probe::Tcp | Probe::Tls(_) | Probe::Exchange(_) | Probe::Http(_) => {}
            Probe::Grpc(health) => grpc::ask(&mut connection, health).await?,
            Probe::Postgres(session) => connection = postgres::ask(connection, session.as_ref(), encryption).await?,
            Probe::MySql(session) => connection = mysql::ask(connection, session, tls).await?,
            Probe::Redis(session) => redis::ask(&mut connection, session).await?,
        }
        Ok(connection)
    }
}

/// A header without client addresses, which marks the connection as a probe.
fn proxy_header(version: ProxyVersion) -> &'static [u8] {
    match version {
        ProxyVersion::V1 => b"PROXY UNKNOWN\r\n",
        ProxyVersion::V2 => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    }
}

/// Ends its direction first and reads the rest: closing with unread bytes would reset the connection, which servers
/// with greetings log as an error.
async fn close(mut connection: ProbeConnection) {
    let mut unread = [0; 512];
    if connection.shutdown().await.is_ok() {
        while connection.read(&mut unread).await.is_ok_and(|count| count > 0) {}
    }
}

/// Randomises an interval by this many percent, so that probes of many endpoints do not synchronise.
fn jittered(interval: Duration, percent: u8) -> Duration {
    let most = f64::from(percent) / 100.0;
    interval.mul_f64(1.0 - most + fastrand::f64() * 2.0 * most)
}
