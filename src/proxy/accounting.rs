//! Counters of connections: `accepted = active + Σ closed{reason}`, where refusals are reasons too.

use std::{
    array,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::labeled_enum::labeled_enum;

labeled_enum! {
    /// The reason why a connection ended. Every accepted connection ends with exactly one reason.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum CloseReason {
        /// Both sides closed their direction.
        Complete = "complete",
        /// The client reset the connection, died, or left TLS without a `close_notify`.
        ClientReset = "client_reset",
        /// The backend reset the connection, or died.
        BackendReset = "backend_reset",
        /// No byte in either direction for `timeouts.idle`.
        IdleTimeout = "idle_timeout",
        /// No byte in the remaining direction for `timeouts.halfClosed`.
        HalfClosedTimeout = "half_closed_timeout",
        /// The connection was open for `timeouts.maxDuration`.
        MaxDuration = "max_duration",
        /// Drained, because the pod of the endpoint is being deleted: `drain.endpointTerminating`.
        EndpointTerminating = "endpoint_terminating",
        /// Drained, because the endpoint is no longer listed: `drain.endpointRemoved`.
        EndpointRemoved = "endpoint_removed",
        /// Drained, because the endpoint is unhealthy: `drain.endpointUnhealthy`.
        EndpointUnhealthy = "endpoint_unhealthy",
        /// Drained, because the endpoint is in `drainedEndpoints`: `drain.endpointDrained`.
        EndpointDrained = "endpoint_drained",
        /// Drained, because a lower `priority` number serves again: `drain.failback`.
        Failback = "failback",
        /// Drained, because the listener is no longer declared: `drain.listenerRemoved`.
        ListenerRemoved = "listener_removed",
        /// Closed, because the endpoint had more than its share of connections: `rebalance`.
        Rebalanced = "rebalanced",
        /// Closed at shutdown, gradually over `drain.shutdown.spread`.
        Drained = "drained",
        /// Still open at the end of the shutdown drain.
        DrainDeadline = "drain_deadline",
        /// Refused: the process has as many connections as its file descriptors allow, except for the connections
        /// guaranteed to other load balancers.
        ProcessFull = "process_full",
        /// Refused: `limits.maxConnections`.
        ListenerFull = "listener_full",
        /// Refused: `limits.newConnections`.
        ListenerRate = "listener_rate",
        /// Refused: `limits.maxConnectionsPerSource`.
        SourceFull = "source_full",
        /// Refused: `limits.newConnectionsPerSource`.
        SourceRate = "source_rate",
        /// Refused: `access`.
        AccessDenied = "access_denied",
        /// Refused: the peer may not send a PROXY header, or is not in `trustedNetworks` of a listener that requires
        /// one.
        ProxyUntrusted = "proxy_untrusted",
        /// Refused: no valid PROXY header arrived in time.
        ProxyInvalid = "proxy_invalid",
        /// The TLS handshake failed; `tls_client_fault` in the access log has the cause.
        TlsFailed = "tls_failed",
        /// Refused: the client presented no certificate, or none that `tls.clientValidation` accepts; `tls_client_fault`
        /// in the access log has the cause.
        TlsClientCertificate = "tls_client_certificate",
        /// The TLS handshake took longer than `timeouts.handshake`.
        TlsTimeout = "tls_timeout",
        /// Closed, because unfinished handshakes used all memory for handshakes, and this one used more than 8 KiB.
        HandshakeMemory = "handshake_memory",
        /// Refused: newer requests to cancel queries replaced this one before it had reached all servers.
        CancelSuperseded = "cancel_superseded",
        /// Refused: no route matches the server name of the client.
        NoRoute = "no_route",
        /// Refused: no endpoint is usable.
        NoEndpoint = "no_endpoint",
        /// The TLS handshake with a backend failed. The endpoint's last failure has the cause.
        BackendTls = "backend_tls",
        /// Every attempt to connect to an endpoint failed.
        ConnectFailed = "connect_failed",
        /// No endpoint was reached within `connect.deadline`.
        ConnectTimeout = "connect_timeout",
        /// This host had no free local port for a connection to the backend's address.
        NoLocalPort = "no_local_port",
        /// This host had no file descriptor or memory for this connection or one to a backend.
        LocalFailure = "local_failure",
        /// An internal error of this program.
        Internal = "internal",
    }
}

/// The classes of close reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CloseClass {
    /// Ended by the client, the backend or a setting.
    Normal,
    /// Refused before a backend was dialled.
    Refused,
    /// Aborted, or never connected to a backend.
    Failed,
}

impl CloseReason {
    /// True if the connection was refused before a backend was dialled. Refusals are logged at a bounded rate.
    pub const fn is_refusal(self) -> bool {
        matches!(self.class(), CloseClass::Refused)
    }

    /// True if the connection was refused, aborted, or never connected to a backend.
    pub const fn is_failure(self) -> bool {
        !matches!(self.class(), CloseClass::Normal)
    }

    /// The outcome of the connection in the access log.
    pub const fn outcome(self) -> &'static str {
        if self.is_failure() { FAILURE } else { SUCCESS }
    }

    const fn class(self) -> CloseClass {
        match self {
            Self::Complete
            | Self::IdleTimeout
            | Self::HalfClosedTimeout
            | Self::MaxDuration
            | Self::EndpointTerminating
            | Self::EndpointRemoved
            | Self::EndpointUnhealthy
            | Self::EndpointDrained
            | Self::Failback
            | Self::ListenerRemoved
            | Self::Rebalanced
            | Self::Drained => CloseClass::Normal,
            Self::ProcessFull
            | Self::ListenerFull
            | Self::ListenerRate
            | Self::SourceFull
            | Self::SourceRate
            | Self::AccessDenied
            | Self::ProxyUntrusted
            | Self::ProxyInvalid
            | Self::TlsFailed
            | Self::TlsClientCertificate
            | Self::TlsTimeout
            | Self::HandshakeMemory
            | Self::CancelSuperseded
            | Self::NoRoute
            | Self::NoEndpoint => CloseClass::Refused,
            Self::ClientReset
            | Self::BackendReset
            | Self::DrainDeadline
            | Self::BackendTls
            | Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::NoLocalPort
            | Self::LocalFailure
            | Self::Internal => CloseClass::Failed,
        }
    }
}

/// The outcomes of connections in the access log, as in the Elastic Common Schema.
pub const SUCCESS: &str = "success";
pub const FAILURE: &str = "failure";

/// One value for each reason.
#[derive(Clone, Debug)]
struct ByReason<T>([T; CloseReason::ALL.len()]);

impl<T: Default> Default for ByReason<T> {
    fn default() -> Self {
        Self(array::from_fn(|_| T::default()))
    }
}

/// The counters of one listener, with one shard for each worker so that workers never share a cache line.
///
/// Counters outlive changes of the listener's configuration.
#[derive(Debug)]
pub struct ListenerCounters {
    shards: Box<[Shard]>,
}

/// The number of refusals of a listener that each worker logs in a second; the others are only counted.
const LOGGED_REFUSALS_PER_SECOND: u64 = 10;

/// The counters of one worker. Only that worker's thread writes them.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Shard {
    accepted: Counter,
    closed: ByReason<Counter>,
    pub bytes_to_backend: Counter,
    pub bytes_to_client: Counter,
    pub tls_full_handshakes: Counter,
    pub tls_resumed_handshakes: Counter,
    pub backend_tls_full_handshakes: Counter,
    pub backend_tls_resumed_handshakes: Counter,
    /// The second of the last refusal, and the refusals in it.
    refusals: (AtomicU64, AtomicU64),
    connect: Histogram,
    duration: Histogram,
}

impl ListenerCounters {
    pub fn new(workers: usize) -> Self {
        Self { shards: (0..workers).map(|_| Shard::default()).collect() }
    }

    /// The shard of this worker.
    pub fn shard(&self, worker: usize) -> &Shard {
        &self.shards[worker]
    }

    /// The traffic of all workers, without the details of [`Self::totals`].
    pub fn traffic(&self) -> ListenerTraffic {
        let mut traffic = ListenerTraffic::default();
        let mut closed = 0;
        for shard in &self.shards {
            for (reason, counter) in CloseReason::ALL.into_iter().zip(&shard.closed.0) {
                let count = counter.get();
                closed += count;
                traffic.failures += if reason.is_failure() { count } else { 0 };
            }
        }
        for shard in &self.shards {
            traffic.accepted += shard.accepted.get();
            traffic.bytes += shard.bytes_to_backend.get() + shard.bytes_to_client.get();
        }
        traffic.active = traffic.accepted.saturating_sub(closed);
        traffic
    }

    /// The sum over all workers. Closed connections are read before accepted ones, so `active` is never negative.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for shard in &self.shards {
            for (sum, counter) in totals.closed.0.iter_mut().zip(&shard.closed.0) {
                *sum += counter.get();
            }
        }
        for shard in &self.shards {
            totals.accepted += shard.accepted.get();
            totals.bytes_to_backend += shard.bytes_to_backend.get();
            totals.bytes_to_client += shard.bytes_to_client.get();
            totals.tls_full_handshakes += shard.tls_full_handshakes.get();
            totals.tls_resumed_handshakes += shard.tls_resumed_handshakes.get();
            totals.backend_tls_full_handshakes += shard.backend_tls_full_handshakes.get();
            totals.backend_tls_resumed_handshakes += shard.backend_tls_resumed_handshakes.get();
            totals.connect.add(&shard.connect);
            totals.duration.add(&shard.duration);
        }
        totals
    }
}

impl Shard {
    pub fn accept(&self) {
        self.accepted.add(1);
    }

    pub fn close(&self, reason: CloseReason) {
        self.closed.0[reason as usize].add(1);
    }

    /// Counts a refusal in this second. Returns false if the access log has as many refusals of the second as it may.
    pub fn may_log_refusal(&self, second: u64) -> bool {
        let (last, count) = &self.refusals;
        let before = if last.load(Relaxed) == second { count.load(Relaxed) } else { 0 };
        last.store(second, Relaxed);
        count.store(before + 1, Relaxed);
        before < LOGGED_REFUSALS_PER_SECOND
    }

    /// Adds the time from the choice of the first endpoint to an established connection.
    pub fn record_connect(&self, took: Duration) {
        self.connect.observe(took, &CONNECT_BOUNDS);
    }

    /// Adds the time from accept to the end of a connection.
    pub fn record_duration(&self, duration: Duration) {
        self.duration.observe(duration, &DURATION_BOUNDS);
    }
}

/// The traffic of a listener since it was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenerTraffic {
    pub accepted: u64,
    pub active: u64,
    /// Connections that were refused, aborted, or never connected to a backend.
    pub failures: u64,
    /// In both directions.
    pub bytes: u64,
}

/// The totals of a listener since it was created.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    pub accepted: u64,
    closed: ByReason<u64>,
    pub bytes_to_backend: u64,
    pub bytes_to_client: u64,
    pub tls_full_handshakes: u64,
    pub tls_resumed_handshakes: u64,
    pub backend_tls_full_handshakes: u64,
    pub backend_tls_resumed_handshakes: u64,
    pub connect: HistogramTotals,
    pub duration: HistogramTotals,
}

impl Totals {
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closed.0[reason as usize]
    }

    pub fn closed_in_all(&self) -> u64 {
        self.closed.0.iter().sum()
    }

    pub fn active(&self) -> u64 {
        self.accepted.saturating_sub(self.closed_in_all())
    }
}

/// A counter with a single writing thread, without locked instructions.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed) + amount, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of the buckets of a [`Histogram`], in seconds, without that of the last bucket, which has none.
pub type Bounds = [f64; 14];

/// The bounds for connect times. The default of `connect.deadline` is 10 s.
pub const CONNECT_BOUNDS: Bounds =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// The bounds for durations of connections.
pub const DURATION_BOUNDS: Bounds =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0, 3600.0, 86_400.0];

/// The number of buckets of a [`Histogram`].
const BUCKETS: usize = CONNECT_BOUNDS.len() + 1;

/// A histogram of durations with a single writing thread.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    nanoseconds: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: array::from_fn(|_| Counter::default()), nanoseconds: Counter::default() }
    }
}

impl Histogram {
    #[inline]
    fn observe(&self, duration: Duration, bounds: &Bounds) {
        let seconds = duration.as_secs_f64();
        self.buckets[bounds.partition_point(|bound| *bound < seconds)].add(1);
        self.nanoseconds.add(duration.as_nanos() as u64);
    }
}

/// The sum of several histograms.
#[derive(Clone, Debug, Default)]
pub struct HistogramTotals {
    /// Observations in each bucket, not cumulated; the last one counts values above all [`Bounds`].
    pub buckets: [u64; BUCKETS],
    pub seconds: f64,
}

impl HistogramTotals {
    fn add(&mut self, histogram: &Histogram) {
        for (sum, counter) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *sum += counter.get();
        }
        self.seconds += histogram.nanoseconds.get() as f64 / 1e9;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_place_and_label() {
        for (place, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place, "{reason:?}");
        }
        let labels: std::collections::BTreeSet<_> = CloseReason::ALL.map(CloseReason::label).into();
        assert_eq!(labels.len(), CloseReason::ALL.len());
    }

    #[test]
    fn the_documented_table_of_reasons_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/close-reasons.md");
        let text = std::fs::read_to_string(path).unwrap();
        let table = "| reason | outcome | meaning |\n|---|---|---|\n";
        let (before, rows) = text.split_once(table).expect("docs/close-reasons.md has the table");
        let after: String = rows.split_inclusive('\n').skip_while(|line| line.starts_with('|')).collect();
        let row = |reason: CloseReason| {
            let label = reason.label();
            let name = if reason.is_failure() { format!("[`{label}`](#{label})") } else { format!("`{label}`") };
            format!("| {name} | {} | {} |\n", reason.outcome(), reason.meaning())
        };
        let current = format!("{before}{table}{}{after}", CloseReason::ALL.map(row).concat());
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, current).unwrap();
        } else {
            assert_eq!(text, current, "docs/close-reasons.md is not current: run `make generate`");
        }
    }

    #[test]
    fn the_documentation_has_a_section_for_each_failure() {
        let text = include_str!("../../docs/close-reasons.md");
        let sections: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("### ")).collect();
        let failures = CloseReason::ALL.into_iter().filter(|reason| reason.is_failure());
        assert_eq!(sections, failures.map(CloseReason::label).collect::<Vec<_>>());
    }

    #[test]
    fn refusals_of_one_listener_leave_the_log_open_for_those_of_another() {
        let [flooded, other] = [(); 2].map(|()| ListenerCounters::new(1));
        let logged = |counters: &ListenerCounters, second: u64, refusals: usize| {
            (0..refusals).filter(|_| counters.shard(0).may_log_refusal(second)).count()
        };
        assert_eq!(logged(&flooded, 0, 1000), 10);
        assert_eq!(logged(&other, 0, 3), 3);
        assert_eq!(logged(&flooded, 0, 1), 0);
        assert_eq!(logged(&flooded, 1, 1000), 10);
    }

    #[test]
    fn totals_are_sums_over_workers() {
        let counters = ListenerCounters::new(2);
        counters.shard(0).accept();
        counters.shard(0).accept();
        counters.shard(1).close(CloseReason::Complete);
        counters.shard(1).record_duration(Duration::from_millis(3));
        counters.shard(0).record_duration(Duration::from_secs(1_000_000));
        let totals = counters.totals();
        assert_eq!((totals.accepted, totals.active(), totals.closed(CloseReason::Complete)), (2, 1, 1));
        let traffic = counters.traffic();
        assert_eq!((traffic.accepted, traffic.active, traffic.failures), (2, 1, 0));
        assert_eq!(totals.duration.buckets, [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert!((totals.duration.seconds - 1_000_000.003).abs() < 1e-6);
    }

    #[test]
    fn connect_times_have_their_own_bounds() {
        let counters = ListenerCounters::new(1);
        for milliseconds in [30, 80, 200, 3000, 20_000] {
            counters.shard(0).record_connect(Duration::from_millis(milliseconds));
        }
        assert_eq!(counters.totals().connect.buckets, [0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1]);
    }
}
