mod active;
pub mod pool;
mod sync;

use std::{
    fmt, io,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use jiff::{SignedDuration, Timestamp};
use tokio::{sync::Notify, time::Instant};

use self::{
    active::ActiveCount,
    pool::{Pool, PoolCounters, PoolFigures},
};
use super::dial::is_local;
use crate::model::{Backend, EndpointKey, Proximity};

/// The number of consecutive failures after which connections to an endpoint count as failing.
const FAILING_AFTER: u32 = 5;
/// The time without another attempt after which failures are forgotten.
const FAILING_LASTS: SignedDuration = SignedDuration::from_mins(5);

/// The live state of an endpoint, kept for as long as its key stays in its upstream or it has connections.
pub struct Endpoint {
    key: EndpointKey,
    /// Unique in this process, also among earlier endpoints with the same key.
    id: u64,
    backend: ArcSwap<Backend>,
    usable: AtomicBool,
    status: ArcSwap<HealthStatus>,
    on_standby: AtomicBool,
    /// In percent of the weight of the endpoint.
    share: AtomicU32,
    near: AtomicBool,
    active: ActiveCount,
    dialled: AtomicU64,
    connect_failures: AtomicU64,
    ejections: AtomicU64,
    probes_passed: AtomicU64,
    probes_failed: AtomicU64,
    /// Failed attempts to connect since the last success.
    failures_in_row: AtomicU32,
    /// The number of failures in a row that no longer count towards an ejection.
    forgiven_failures: AtomicU32,
    /// The number of consecutive failures that wakes the control task; 0: it is never woken.
    ejection_threshold: AtomicU32,
    last_failure: ArcSwapOption<RecentFailure>,
    control: Arc<Notify>,
    pool: ArcSwapOption<Pool>,
    pool_counters: PoolCounters,
}

/// The results of checks of an endpoint, for display.
#[derive(Clone, Debug)]
pub struct EndpointState {
    /// True if the endpoint has no active check or passes it.
    pub healthy: bool,
    /// The latest end of its ejection; `None`: not ejected.
    pub ejected_until: Option<Timestamp>,
    /// The latest failure of a probe or of an attempt to connect, of any age.
    pub last_failure: Option<Arc<RecentFailure>>,
}

#[derive(Clone, Debug)]
pub struct RecentFailure {
    pub at: Timestamp,
    pub reason: String,
}

/// The health of an endpoint, which decides whether it is usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HealthStatus {
    pub healthy: bool,
    /// True if the first probe, which decides its health, is in progress.
    pub pending_first_check: bool,
    pub ejected_until: Option<Instant>,
}

impl HealthStatus {
    pub fn usable(&self) -> bool {
        self.healthy && self.ejected_until.is_none()
    }
}

impl Endpoint {
    pub(super) fn new(key: EndpointKey, backend: Arc<Backend>, control: Arc<Notify>) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(1);
        /// The status of new endpoints. Most endpoints keep it, so they share its memory.
        static HEALTHY: LazyLock<Arc<HealthStatus>> =
            LazyLock::new(|| Arc::new(HealthStatus { healthy: true, pending_first_check: false, ejected_until: None }));
        Self {
            key,
            id: IDS.fetch_add(1, Relaxed),
            backend: ArcSwap::from(backend),
            usable: AtomicBool::new(true),
            status: ArcSwap::from(HEALTHY.clone()),
            on_standby: AtomicBool::new(false),
            share: AtomicU32::new(100),
            near: AtomicBool::new(false),
            active: ActiveCount::default(),
            dialled: AtomicU64::new(0),
            connect_failures: AtomicU64::new(0),
            ejections: AtomicU64::new(0),
            probes_passed: AtomicU64::new(0),
            probes_failed: AtomicU64::new(0),
            failures_in_row: AtomicU32::new(0),
            forgiven_failures: AtomicU32::new(0),
            ejection_threshold: AtomicU32::new(0),
            last_failure: ArcSwapOption::empty(),
            control,
            pool: ArcSwapOption::empty(),
            pool_counters: PoolCounters::default(),
        }
    }

    pub fn key(&self) -> &EndpointKey {
        &self.key
    }

    /// Not zero.
    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn address(&self) -> SocketAddr {
        self.key.address
    }

    /// The settings of its backend.
    pub fn backend(&self) -> Guard<Arc<Backend>> {
        self.backend.load()
    }

    /// True if new connections may use the endpoint.
    pub fn usable(&self) -> bool {
        self.usable.load(Relaxed)
    }

    /// True if it may become usable as soon as its first probe ends.
    pub fn pending_first_check(&self) -> bool {
        self.status.load().pending_first_check
    }

    /// True if its priority level is active in at least one of its subsets. If not, it is on standby.
    pub fn in_service(&self) -> bool {
        !self.on_standby.load(Relaxed)
    }

    /// The effective share of its weight, in percent: less than 100 during slow start.
    pub fn share(&self) -> u32 {
        self.share.load(Relaxed)
    }

    /// True if the load balancer prefers the endpoint because of its locality.
    pub fn near(&self) -> bool {
        self.near.load(Relaxed)
    }

    pub fn state(&self) -> EndpointState {
        let status = self.status.load();
        EndpointState {
            healthy: status.healthy,
            ejected_until: status.ejected_until.map(wall_clock),
            last_failure: self.last_failure(),
        }
    }

    pub fn last_failure(&self) -> Option<Arc<RecentFailure>> {
        self.last_failure.load_full()
    }

    /// Open connections to this endpoint, including those that are being dialled.
    pub fn active(&self) -> u32 {
        self.active.get()
    }

    /// Established client connections, dialled or taken from the pool.
    pub fn connections(&self) -> u64 {
        self.dialled.load(Relaxed) + self.pool_counters.hits()
    }

    /// Failed attempts to connect, for clients and for the pool. Neither probes nor local failures count.
    pub fn connect_failures(&self) -> u64 {
        self.connect_failures.load(Relaxed)
    }

    pub fn ejections(&self) -> u64 {
        self.ejections.load(Relaxed)
    }

    /// Probes that passed.
    pub fn probes_passed(&self) -> u64 {
        self.probes_passed.load(Relaxed)
    }

    /// Probes that failed, without local failures.
    pub fn probes_failed(&self) -> u64 {
        self.probes_failed.load(Relaxed)
    }

    /// Records a successful dial for a client. Connections taken from the pool are counted separately.
    pub fn connected(&self) {
        self.dialled.fetch_add(1, Relaxed);
        self.reached();
    }

    /// Records a dial that failed or timed out. Local failures are not failures of the endpoint and are not counted.
    pub fn connect_failed(&self, error: &io::Error) {
        if is_local(error) {
            return;
        }
        self.connect_failures.fetch_add(1, Relaxed);
        self.note_failure(error.to_string());
        let in_row = self.failures_in_row.fetch_add(1, Relaxed).wrapping_add(1);
        let failures = in_row.saturating_sub(self.forgiven_failures.load(Relaxed));
        let threshold = self.ejection_threshold.load(Relaxed);
        // At every multiple, in case the endpoint could not be ejected the first time.
        if threshold > 0 && failures.is_multiple_of(threshold) {
            self.control.notify_one();
        }
    }

    /// Takes a preconnected socket that was never used and is alive; non-blocking, with the options of every backend
    /// connection set. `None`: there is none. No socket is ever handed out twice.
    pub fn take_preconnected(&self) -> Option<TcpStream> {
        self.pool.load().as_ref()?.take(&self.pool_counters)
    }

    /// True if sockets to it are connected in advance.
    pub fn has_pool(&self) -> bool {
        self.pool.load().is_some()
    }

    pub fn pool_figures(&self) -> PoolFigures {
        let idle = self.pool.load().as_ref().map_or(0, |pool| pool.idle());
        self.pool_counters.figures(idle)
    }

    /// True if connections to it keep failing: several in a row, the last one recently. It may still be usable, since
    /// the last endpoints of a priority level are not ejected. For display only; balancing ignores it.
    pub fn is_failing(&self) -> bool {
        let recent = |failure: &RecentFailure| Timestamp::now().duration_since(failure.at) < FAILING_LASTS;
        self.failures_in_row.load(Relaxed) >= FAILING_AFTER && self.last_failure.load().as_deref().is_some_and(recent)
    }

    /// The consecutive failures since it became usable.
    pub(super) fn consecutive_failures(&self) -> u32 {
        self.failures_in_row.load(Relaxed).saturating_sub(self.forgiven_failures.load(Relaxed))
    }

    pub(super) fn pool_counters(&self) -> &PoolCounters {
        &self.pool_counters
    }

    /// Records a successful attempt to connect.
    pub(super) fn reached(&self) {
        // A load first: every worker shares this cache line, and there is rarely a failure to reset.
        if self.failures_in_row.load(Relaxed) != 0 {
            self.failures_in_row.store(0, Relaxed);
            self.forgiven_failures.store(0, Relaxed);
        }
    }

    pub(super) fn note_failure(&self, reason: String) {
        self.last_failure.store(Some(Arc::new(RecentFailure { at: Timestamp::now(), reason })));
    }

    pub(super) fn count_probe(&self, passed: bool) {
        let count = if passed { &self.probes_passed } else { &self.probes_failed };
        count.fetch_add(1, Relaxed);
    }

    pub(super) fn count_ejection(&self) {
        self.ejections.fetch_add(1, Relaxed);
    }

    pub(super) fn configure(&self, backend: &Arc<Backend>, proximity: Proximity, ejection_threshold: Option<u16>) {
        self.near.store(proximity != Proximity::Remote, Relaxed);
        // Storing waits for readers.
        if **self.backend.load() != **backend {
            self.backend.store(backend.clone());
        }
        self.ejection_threshold.store(ejection_threshold.unwrap_or(0).into(), Relaxed);
    }

    /// Sets the health status. An endpoint that becomes usable again starts without failures. Returns true on a change.
    pub(super) fn set_status(&self, status: HealthStatus) -> bool {
        if **self.status.load() == status {
            return false;
        }
        self.status.store(Arc::new(status));
        let was_usable = self.usable.swap(status.usable(), Relaxed);
        if status.usable() && !was_usable {
            self.forgiven_failures.store(self.failures_in_row.load(Relaxed), Relaxed);
        }
        true
    }

    pub(super) fn note_share(&self, percent: u32) {
        self.share.store(percent, Relaxed);
    }

    pub(super) fn set_standby(&self, on_standby: bool) {
        self.on_standby.store(on_standby, Relaxed);
    }

    /// Replaces the pool; `None` flushes it.
    pub(super) fn set_pool(&self, pool: Option<Arc<Pool>>) {
        self.pool.store(pool);
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("key", &self.key)
            .field("usable", &self.usable())
            .field("active", &self.active())
            .finish_non_exhaustive()
    }
}

fn wall_clock(instant: Instant) -> Timestamp {
    let left = instant.saturating_duration_since(Instant::now());
    Timestamp::now().checked_add(left).unwrap_or(Timestamp::MAX)
}

/// A connection to an endpoint, counted as active until this is dropped.
#[derive(Debug)]
pub struct ActiveConnection {
    endpoint: Arc<Endpoint>,
}

impl ActiveConnection {
    pub(super) fn begin(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.active.begin();
        Self { endpoint: endpoint.clone() }
    }

    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }
}

impl Drop for ActiveConnection {
    fn drop(&mut self) {
        self.endpoint.active.end();
    }
}

/// The endpoints that one connection has tried. The first ten need no allocation.
#[derive(Clone, Debug, Default)]
pub struct TriedEndpoints {
    /// Ids; 0: free.
    first: [u64; 10],
    more: Vec<u64>,
    /// True if endpoints whose last attempt failed, for any connection, count as tried too.
    with_failing: bool,
}

impl TriedEndpoints {
    pub fn insert(&mut self, endpoint: &Endpoint) {
        if self.contains(endpoint) {
            return;
        }
        match self.first.iter_mut().find(|slot| **slot == 0) {
            Some(slot) => *slot = endpoint.id,
            None => self.more.push(endpoint.id),
        }
    }

    pub fn contains(&self, endpoint: &Endpoint) -> bool {
        let mut ids = self.first.iter().take_while(|id| **id != 0).chain(&self.more);
        ids.any(|id| *id == endpoint.id) || (self.with_failing && endpoint.consecutive_failures() > 0)
    }

    /// A copy in which endpoints whose last attempt failed count as tried too.
    pub fn with_failing(&self) -> Self {
        Self { with_failing: true, ..self.clone() }
    }

    pub fn is_empty(&self) -> bool {
        self.first[0] == 0
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    fn endpoint() -> Arc<Endpoint> {
        let key = EndpointKey { backend: "b".into(), address: "127.0.0.1:1".parse().unwrap(), uid: None };
        Arc::new(Endpoint::new(key, Arc::default(), Arc::default()))
    }

    #[test]
    fn a_connection_counts_until_it_is_dropped() {
        let endpoint = endpoint();
        let first = ActiveConnection::begin(&endpoint);
        let second = ActiveConnection::begin(&endpoint);
        assert_eq!(endpoint.active(), 2);
        drop(first);
        assert_eq!(endpoint.active(), 1);
        drop(second);
        assert_eq!(endpoint.active(), 0);
    }

    #[test]
    fn local_failures_are_not_the_endpoints() {
        let endpoint = endpoint();
        endpoint.connect_failed(&Errno::MFILE.into());
        assert_eq!((endpoint.connect_failures(), endpoint.consecutive_failures()), (0, 0));
        assert!(endpoint.state().last_failure.is_none());
        endpoint.connect_failed(&Errno::CONNREFUSED.into());
        assert_eq!((endpoint.connect_failures(), endpoint.consecutive_failures()), (1, 1));
        assert!(endpoint.state().last_failure.unwrap().reason.contains("refused"));
    }

    #[test]
    fn a_success_resets_consecutive_failures_but_not_their_total() {
        let endpoint = endpoint();
        endpoint.connect_failed(&Errno::CONNREFUSED.into());
        endpoint.connected();
        assert_eq!((endpoint.connect_failures(), endpoint.consecutive_failures()), (1, 0));
        assert_eq!(endpoint.connections(), 1);
    }

    #[test]
    fn failing_endpoints_count_as_tried_on_request_until_one_attempt_succeeds() {
        let endpoint = endpoint();
        let tried = TriedEndpoints::default();
        assert!(!tried.with_failing().contains(&endpoint));
        endpoint.connect_failed(&Errno::CONNREFUSED.into());
        assert!(tried.with_failing().contains(&endpoint) && !tried.contains(&endpoint));
        endpoint.connected();
        assert!(!tried.with_failing().contains(&endpoint));
    }

    #[test]
    fn failing_lasts_through_ejections_until_an_attempt_succeeds() {
        let endpoint = endpoint();
        let usable = |usable| HealthStatus { healthy: usable, pending_first_check: false, ejected_until: None };
        for failures in 1..=FAILING_AFTER {
            assert!(!endpoint.is_failing(), "{failures}");
            endpoint.connect_failed(&Errno::CONNREFUSED.into());
        }
        assert!(endpoint.is_failing());
        endpoint.set_status(usable(false));
        endpoint.set_status(usable(true));
        assert_eq!(
            (endpoint.is_failing(), endpoint.consecutive_failures()),
            (true, 0),
            "no reason to eject it at once"
        );
        endpoint.connect_failed(&Errno::CONNREFUSED.into());
        assert_eq!((endpoint.is_failing(), endpoint.consecutive_failures()), (true, 1));
        endpoint.connected();
        assert_eq!((endpoint.is_failing(), endpoint.consecutive_failures()), (false, 0));
    }

    #[test]
    fn any_number_of_endpoints_can_have_been_tried() {
        let endpoints: Vec<_> = (0..25).map(|_| endpoint()).collect();
        let mut tried = TriedEndpoints::default();
        assert!(tried.is_empty());
        for (count, endpoint) in endpoints.iter().enumerate() {
            assert!(!tried.contains(endpoint));
            tried.insert(endpoint);
            tried.insert(endpoint);
            assert!(endpoints[..=count].iter().all(|endpoint| tried.contains(endpoint)));
        }
        assert_eq!(tried.more.len(), 15);
    }
}
