//! The topology task, which owns listeners and upstreams: it applies the latest snapshot and reports the result.

mod local_addresses;
mod loops;
mod plan;
mod routing_table;

use std::{
    collections::{BTreeMap, BTreeSet},
    io, mem,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use futures::future::join_all;
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, oneshot, watch},
    time::{self, Instant},
};
use tracing::{debug, error, info, warn};

use self::{
    loops::LoopGuard,
    plan::{AddressesByPort, BindPlan, plan},
};
use super::{
    access_log::{ListenerLabel, QueuedEvents},
    accounting::ListenerCounters,
    admission::{Admission, Sources},
    listener::{
        ListenerConfig, ListenerSlot, ListenerState, TlsHandling,
        routes::{RouteTarget, Routes},
    },
    postgres::Cancels,
    socket::{self, Sharing},
    stream::{handshake_memory::HandshakeShare, relay_memory::RelayShare},
    tls::ServerTls,
    view::{DrainingListener, View},
    worker::{
        abort_on_panic::AbortOnPanic,
        handle::{Shared, SocketId, WorkerCommand},
    },
};
use crate::{
    capacity::Share,
    log_limit::LogLimiter,
    model::{self, BindState, Listener, ListenerDrain, ListenerKey, ObjectKey, Report, Snapshot},
    upstream::{Backends, Upstream, Upstreams, in_place},
};

/// The pause before the first retry of a bind; it doubles with each failure up to the longest one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// The listening sockets of one address.
pub type Sockets = (SocketAddr, Vec<Arc<AsyncFd<TcpListener>>>);

#[derive(Debug)]
pub enum TopologyCommand {
    /// Return the open sockets.
    Sockets(oneshot::Sender<Vec<Sockets>>),
    /// Close all sockets permanently; answered when they are closed.
    StopAccepting(oneshot::Sender<()>),
}

pub struct Topology {
    pub shared: Arc<Shared>,
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub reports: watch::Sender<Arc<Report>>,
    pub view: Arc<ArcSwap<View>>,
    pub upstreams: Upstreams,
    pub sources: Arc<Sources>,
    /// The descriptors of listening sockets and connections together.
    pub descriptors: usize,
    pub cancels: Arc<Cancels>,
    pub sharing: Sharing,
    /// Sockets from the previous process.
    pub inherited: BTreeMap<SocketAddr, Vec<TcpListener>>,
    /// Incremented when endpoints become usable or unusable.
    pub usable_changes: watch::Receiver<u64>,
    pub state: TopologyState,
}

/// The current listeners and sockets.
#[derive(Default)]
pub struct TopologyState {
    applied: Arc<Snapshot>,
    open: BTreeMap<SocketAddr, OpenAddress>,
    /// The number of sockets of the open addresses.
    listening: usize,
    failed: BTreeMap<SocketAddr, BindFailure>,
    listeners: BTreeMap<ListenerKey, ListenerEntry>,
    shares: BTreeMap<ObjectKey, LoadBalancerShares>,
    /// Removed listeners that still had connections at the last check.
    draining_listeners: BTreeMap<ListenerKey, DrainingListener>,
    next_id: u64,
    loop_guard: LoopGuard,
    /// True if a listener could not be set up, so that the next snapshot tries again.
    is_incomplete: bool,
    stopped: bool,
}

struct OpenAddress {
    listener: ListenerKey,
    /// The address of the sockets. If the listener has port 0, the kernel has chosen the port.
    bound: SocketAddr,
    slot: Arc<ListenerSlot>,
    sockets: Vec<OpenSocket>,
}

struct OpenSocket {
    id: SocketId,
    worker: usize,
    listening: Arc<AsyncFd<TcpListener>>,
}

struct BindFailure {
    listener: ListenerKey,
    sentence: Arc<str>,
    pause: Duration,
    retry_at: Instant,
}

/// The shares of a load balancer in limited resources of the process.
struct LoadBalancerShares {
    connections: Arc<Share>,
    handshakes: Arc<HandshakeShare>,
    relay_memory: Arc<RelayShare>,
    queued_events: Arc<QueuedEvents>,
}

struct ListenerEntry {
    listener: Arc<ListenerState>,
    tls: Option<Arc<ServerTls>>,
    /// The last declared drain policy.
    drain: ListenerDrain,
}

impl Topology {
    /// Runs until the sender of orders is dropped.
    pub async fn run(mut self, mut orders: mpsc::UnboundedReceiver<TopologyCommand>) {
        let _abort = AbortOnPanic;
        loop {
            let retry_at = self.state.failed.values().map(|failure| failure.retry_at).min();
            let next_refresh = self.state.loop_guard.next_refresh();
            tokio::select! {
                changed = self.snapshots.changed() => match changed {
                    Ok(()) => {
                        let started = Instant::now();
                        self.apply().await;
                        self.shared.apply_duration.observe(started.elapsed().as_secs_f64());
                        debug!(generation = self.state.applied.generation, "applied");
                    }
                    Err(_) => return,
                },
                order = orders.recv() => match order {
                    Some(TopologyCommand::Sockets(answer)) => drop(answer.send(self.sockets())),
                    Some(TopologyCommand::StopAccepting(done)) => {
                        self.stop_accepting().await;
                        let _ = done.send(());
                    }
                    None => return,
                },
                Ok(()) = self.usable_changes.changed() => self.publish(Report::clone, View::clone),
                () = sleep_until(retry_at) => self.retry().await,
                () = sleep_until(next_refresh) => self.refresh_loops(),
            }
        }
    }

    /// Make before break: upstreams in, listeners in, listeners out, upstreams out.
    async fn apply(&mut self) {
        let snapshot = self.snapshots.borrow_and_update().clone();
        if self.state.stopped {
            return;
        }
        let previous = mem::replace(&mut self.state.applied, snapshot.clone());
        self.update_upstreams();
        if self.is_settled()
            && let Some(changed) = previous.changed_listeners(&snapshot)
        {
            for key in changed {
                self.keep(snapshot.listeners[&key].bind, &key);
            }
            return self.report_upstreams();
        }
        let open: BTreeSet<SocketAddr> = self.state.open.keys().copied().collect();
        let inherited = self.inherited.keys().copied().collect();
        let plan = plan(&open, &inherited, &snapshot.listeners);
        self.state.is_incomplete = false;
        let opening: BTreeSet<SocketAddr> = plan.open.iter().map(|bind| bind.address).collect();
        self.state.failed.retain(|address, _| opening.contains(address));
        for bind in plan.open {
            self.open(bind).await;
        }
        for (address, listener) in plan.keep {
            self.keep(address, &listener);
        }
        self.close_all(plan.close).await;
        self.forget_listeners();
        self.divide();
        self.upstreams.retain(&snapshot.upstreams);
        // The previous process accepts what waits in the queues of inherited sockets that are not configured here.
        self.inherited.clear();
        self.report();
    }

    /// True if all listeners are set up at one address each and none drains, so that unchanged listeners need no work.
    fn is_settled(&self) -> bool {
        let TopologyState { open, listeners, failed, draining_listeners, is_incomplete, .. } = &self.state;
        let is_one_each = open.len() == listeners.len();
        is_one_each && self.inherited.is_empty() && failed.is_empty() && draining_listeners.is_empty() && !is_incomplete
    }

    /// Loops depend on the addresses of this host, which can change.
    fn refresh_loops(&mut self) {
        if in_place(|| self.state.loop_guard.refresh()) && !self.state.stopped {
            let upstreams = self.state.loop_guard.search(&self.state.applied);
            self.upstreams.update(&upstreams);
            self.report_upstreams();
        }
    }

    fn update_upstreams(&mut self) {
        let upstreams = self.state.loop_guard.without_loops(&self.state.applied);
        self.upstreams.update(&upstreams);
    }

    async fn open(&mut self, bind: BindPlan) {
        let BindPlan { address, listener: key, overlaps } = bind;
        let Some(config) = self.listener_config(&key) else { return };
        let sharing = if overlaps { Sharing::Shared } else { self.sharing };
        let sockets = match self.listen(address, sharing, &config.listener) {
            Ok(sockets) => sockets,
            Err(error) => return self.failed(address, key, &error),
        };
        self.state.failed.remove(&address);
        info!(listener = %key, %address, "listening");
        let slot = Arc::new(ListenerSlot::from(config));
        let bound = sockets.first().and_then(|socket| socket.local_addr().ok()).unwrap_or(address);
        let mut open = OpenAddress { listener: key.clone(), bound, slot: slot.clone(), sockets: Vec::new() };
        let mut answers = Vec::new();
        for (number, socket) in sockets.into_iter().enumerate() {
            self.state.next_id += 1;
            let (id, worker) = (self.state.next_id, number % self.shared.workers.len());
            let (done, answer) = oneshot::channel();
            let order = WorkerCommand::Listen { id, slot: slot.clone(), socket, done };
            let _ = self.shared.workers[worker].orders.send(order);
            answers.push((id, worker, answer));
        }
        let mut failure = None;
        for (id, worker, answer) in answers {
            match answer.await.map_err(io::Error::other).flatten() {
                Ok(listening) => open.sockets.push(OpenSocket { id, worker, listening }),
                Err(error) => failure = Some(error),
            }
        }
        self.state.listening += open.sockets.len();
        self.state.open.insert(address, open);
        if let Some(error) = failure {
            // Connections to a socket that no worker accepts from would wait forever.
            if let Some(closed) = self.close(address) {
                closed.await;
            }
            self.failed(address, key, &error);
        }
    }

    /// Opens at least one socket for each worker: inherited ones first, all of which are served whatever their number.
    fn listen(&mut self, address: SocketAddr, sharing: Sharing, listener: &Listener) -> io::Result<Vec<TcpListener>> {
        let count = self.shared.workers.len();
        let sockets = match self.inherited.remove(&address) {
            Some(mut inherited) if !inherited.is_empty() => {
                while inherited.len() < count {
                    inherited.push(socket::join(&inherited[0])?);
                }
                inherited
            }
            _ if self.state.listening + count > self.descriptors / 2 => {
                let most = self.descriptors / 2;
                return Err(io::Error::other(format!(
                    "listening sockets use all of their {most} file descriptors, and each listener needs {count}: \
                     raise the limit of open files, or run fewer workers"
                )));
            }
            _ => socket::open(address, count, sharing)?,
        };
        for socket in &sockets {
            socket::set_inherited_options(socket, listener.keepalive)?;
        }
        Ok(sockets)
    }

    /// Divides the connections that the remaining descriptors allow, and the memory for handshakes and slow receivers,
    /// among the load balancers.
    fn divide(&self) {
        let TopologyState { listeners, shares, .. } = &self.state;
        let (listening, capacity) = (self.state.listening, &self.shared.capacity);
        let (before, total) = (capacity.total(), self.descriptors.saturating_sub(listening) / 2);
        let served = |object: &ObjectKey| listeners.range(object.listeners()).next().is_some();
        let (holders, former): (Vec<_>, Vec<_>) = shares.iter().partition(|(object, _)| served(object));
        capacity.divide(
            total,
            holders.iter().map(|(_, shares)| &*shares.connections),
            former.iter().map(|(_, shares)| &*shares.connections),
        );
        self.shared.handshake_memory.divide(
            holders.iter().map(|(_, shares)| &*shares.handshakes),
            former.iter().map(|(_, shares)| &*shares.handshakes),
        );
        self.shared.relay_memory.divide(holders.len());
        if total != before {
            info!(connections = total, listening_sockets = listening, "connection limit by file descriptors");
        }
    }

    fn failed(&mut self, address: SocketAddr, listener: ListenerKey, error: &io::Error) {
        let sentence: Arc<str> = socket::cannot_listen(address, error).into();
        let before = self.state.failed.get(&address);
        let pause = before.map_or(FIRST_RETRY, |before| (before.pause * 2).min(LONGEST_RETRY));
        let retry_at = Instant::now() + pause;
        self.state.failed.insert(address, BindFailure { listener, sentence, pause, retry_at });
    }

    async fn retry(&mut self) {
        let now = Instant::now();
        let due = self.state.failed.iter().filter(|(_, failure)| failure.retry_at <= now);
        let due: Vec<_> = due.map(|(address, failure)| (*address, failure.listener.clone())).collect();
        let mut by_port: AddressesByPort = self.state.open.keys().copied().collect();
        for (address, listener) in due {
            self.open(BindPlan { address, listener, overlaps: by_port.overlap(address) }).await;
            if self.state.open.contains_key(&address) {
                by_port.insert(address);
            }
        }
        let open: BTreeSet<SocketAddr> = self.state.open.keys().copied().collect();
        self.close_all(plan(&open, &BTreeSet::new(), &self.state.applied.listeners).close).await;
        self.divide();
        self.report();
    }

    /// Closes addresses that are no longer configured, except those of a listener whose new address could not be
    /// opened.
    async fn close_all(&mut self, addresses: Vec<SocketAddr>) {
        let failed: BTreeSet<ListenerKey> =
            self.state.failed.values().map(|failure| failure.listener.clone()).collect();
        let mut closing = Vec::new();
        for address in addresses {
            let Some(open) = self.state.open.get(&address) else { continue };
            if !failed.contains(&open.listener) {
                closing.extend(self.close(address));
            }
        }
        join_all(closing).await;
    }

    /// Applies the current configuration of its listener to an address that stays open.
    fn keep(&mut self, address: SocketAddr, key: &ListenerKey) {
        if self.state.open.get(&address).is_some_and(|open| open.listener == *key && self.serves_already(open)) {
            return;
        }
        let Some(config) = self.listener_config(key) else { return };
        let Some(open) = self.state.open.get_mut(&address) else { return };
        let before = open.slot.load_full();
        if before.listener.keepalive != config.listener.keepalive {
            for socket in &open.sockets {
                if let Err(error) = socket::set_inherited_options(socket.listening.get_ref(), config.listener.keepalive)
                {
                    warn!(listener = %key, %error, "cannot change tcpKeepalive");
                }
            }
        }
        open.listener = key.clone();
        open.slot.store(config);
    }

    /// True if an address already has the current configuration: a change of endpoints changes no listener.
    fn serves_already(&self, open: &OpenAddress) -> bool {
        let config = open.slot.load();
        let wanted = self.state.applied.listeners.get(&open.listener);
        let upstream = self.upstreams.find(&config.listener.upstream);
        wanted.is_some_and(|wanted| *wanted == config.listener)
            && upstream.is_some_and(|upstream| Arc::ptr_eq(&upstream, &config.upstream))
    }

    /// Closes an address after accepting the connections that wait. The future is ready when the address is free.
    fn close(&mut self, address: SocketAddr) -> Option<impl Future<Output = ()> + use<>> {
        let open = self.state.open.remove(&address)?;
        self.state.listening -= open.sockets.len();
        info!(listener = %open.listener, %address, "no longer listening");
        let mut closed = Vec::new();
        for OpenSocket { id, worker, listening } in open.sockets {
            drop(listening);
            let (done, answer) = oneshot::channel();
            let _ = self.shared.workers[worker].orders.send(WorkerCommand::Close { id, done });
            closed.push(answer);
        }
        Some(async { drop(join_all(closed).await) })
    }

    fn listener_config(&mut self, key: &ListenerKey) -> Option<Arc<ListenerConfig>> {
        let listener = self.state.applied.listeners.get(key)?.clone();
        let Some(upstream) = self.upstreams.find(&listener.upstream) else {
            error!(listener = %key, upstream = %listener.upstream, "the listener's upstream is missing: not served");
            self.state.is_incomplete = true;
            return None;
        };
        let entry = self.entry(key);
        entry.drain = listener.drain;
        let tls = match (&entry.tls, &listener.tls) {
            (_, None) => None,
            (entry, Some(wanted)) => match updated(entry.as_ref(), wanted) {
                Ok(tls) => Some(tls),
                Err(error) => {
                    error!(listener = %key, %error, "cannot set up TLS: not served");
                    self.state.is_incomplete = true;
                    return None;
                }
            },
        };
        entry.tls.clone_from(&tls);
        let tls_handling = tls_handling(&listener, &upstream, tls);
        let label = Arc::new(ListenerLabel {
            label: key.to_string().into(),
            load_balancer: key.object.to_string().into(),
            name: (*listener.name).into(),
        });
        Some(Arc::new(ListenerConfig { listener, label, state: entry.listener.clone(), upstream, tls_handling }))
    }

    fn entry(&mut self, key: &ListenerKey) -> &mut ListenerEntry {
        let TopologyState { listeners, shares, draining_listeners, next_id, .. } = &mut self.state;
        listeners.entry(key.clone()).or_insert_with(|| {
            if let Some(DrainingListener { listener, drain }) = draining_listeners.remove(key) {
                return ListenerEntry { listener, tls: None, drain };
            }
            *next_id += 1;
            let own = shares.entry(key.object.clone()).or_insert_with(|| LoadBalancerShares {
                connections: Arc::new(Share::new(self.shared.capacity.clone())),
                handshakes: Arc::new(HandshakeShare::new(key.object.clone(), self.shared.handshake_memory.clone())),
                relay_memory: Arc::new(RelayShare::new(key.object.clone(), self.shared.relay_memory.clone())),
                queued_events: Arc::default(),
            });
            let listener = ListenerState {
                key: key.clone(),
                id: *next_id,
                counters: ListenerCounters::new(self.shared.workers.len()),
                admission: Arc::new(Admission::new(key.clone(), self.sources.clone())),
                share: own.connections.clone(),
                handshakes: own.handshakes.clone(),
                relay_memory: own.relay_memory.clone(),
                queued_events: own.queued_events.clone(),
                process_full_log: LogLimiter::new(),
                cancels: self.cancels.clone(),
            };
            ListenerEntry { listener: Arc::new(listener), tls: None, drain: ListenerDrain::default() }
        })
    }

    fn forget_listeners(&mut self) {
        let TopologyState { applied, listeners, draining_listeners, shares, .. } = &mut self.state;
        listeners.retain(|key, entry| {
            let wanted = applied.listeners.contains_key(key);
            if !wanted {
                let draining = DrainingListener { listener: entry.listener.clone(), drain: entry.drain };
                draining_listeners.insert(key.clone(), draining);
            }
            wanted
        });
        draining_listeners.retain(|_, draining| draining.listener.counters.totals().active() > 0);
        let used = |object: &ObjectKey| {
            listeners.range(object.listeners()).next().is_some()
                || draining_listeners.range(object.listeners()).next().is_some()
        };
        shares.retain(|object, _| used(object));
    }

    fn sockets(&self) -> Vec<Sockets> {
        let open = self.state.open.iter();
        open.map(|(address, open)| (*address, open.sockets.iter().map(|socket| socket.listening.clone()).collect()))
            .collect()
    }

    async fn stop_accepting(&mut self) {
        self.state.stopped = true;
        self.state.failed.clear();
        let addresses: Vec<SocketAddr> = self.state.open.keys().copied().collect();
        join_all(addresses.into_iter().filter_map(|address| self.close(address))).await;
        self.report();
    }

    /// Reports the state of all listeners and upstreams.
    fn report(&mut self) {
        let TopologyState { applied, open, failed, listeners, draining_listeners, loop_guard, .. } = &self.state;
        // Excludes narrower addresses that are kept open within the listener's own address.
        let own = |(address, open): &(&SocketAddr, &OpenAddress)| open.slot.load().listener.bind == **address;
        let bound = open.iter().filter(own).map(|(_, open)| (open.listener.clone(), BindState::Bound(open.bound)));
        let failed = failed.values();
        let failed = failed.map(|failure| (failure.listener.clone(), BindState::Failed(failure.sentence.clone())));
        let report = Report {
            generation: applied.generation,
            listeners: Arc::new(bound.chain(failed).collect()),
            loops: loop_guard.found().clone(),
            // Set by `publish`.
            usable_changes: 0,
        };
        let live = listeners.values().map(|entry| entry.listener.clone());
        let draining = draining_listeners.values().map(|draining| draining.listener.clone());
        let view = View {
            snapshot: applied.clone(),
            // Set by `publish`.
            report: Arc::default(),
            listeners: live.chain(draining).collect(),
            draining: draining_listeners.values().cloned().collect(),
            upstreams: self.upstreams.iter().map(|(key, upstream)| (key.clone(), upstream.clone())).collect(),
        };
        self.publish(|_| report, |_| view);
    }

    /// Reports changed endpoints, with the listeners and upstreams of the last report.
    fn report_upstreams(&mut self) {
        let TopologyState { applied, loop_guard, .. } = &self.state;
        let (snapshot, generation, loops) = (applied.clone(), applied.generation, loop_guard.found().clone());
        self.publish(|last| Report { generation, loops, ..last.clone() }, |last| View { snapshot, ..last.clone() });
    }

    /// Publishes a report and a view, made from the last ones.
    fn publish(&mut self, report: impl FnOnce(&Report) -> Report, view: impl FnOnce(&View) -> View) {
        let usable_changes = *self.usable_changes.borrow_and_update();
        let report = Arc::new(Report { usable_changes, ..report(&self.reports.borrow()) });
        self.view.store(Arc::new(View { report: report.clone(), ..view(&self.view.load()) }));
        self.reports.send_if_modified(|last| {
            let changed = **last != *report;
            *last = report;
            changed
        });
    }
}

/// Waits until this time; forever without one.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Updates the previous TLS state, or creates one.
fn updated(entry: Option<&Arc<ServerTls>>, wanted: &model::Tls) -> Result<Arc<ServerTls>, rustls::Error> {
    match entry {
        Some(entry) => entry.update(wanted).map(|()| entry.clone()),
        None => ServerTls::new(wanted).map(Arc::new),
    }
}

fn tls_handling(listener: &Listener, upstream: &Arc<Upstream>, entry: Option<Arc<ServerTls>>) -> TlsHandling {
    let subset = |backends: &Option<Arc<[Arc<str>]>>| upstream.subset(&Backends::named(backends));
    let (Some(declared), Some(tls)) = (&listener.tls, entry) else { return TlsHandling::Plaintext(subset(&None)) };
    if let Some(route) = declared.only_route() {
        return TlsHandling::Terminate { tls, subset: subset(&route.backends) };
    }
    let has_names = declared.routes.iter().any(|route| !route.server_names.is_empty());
    let route = |route: &model::Route| RouteTarget {
        name: has_names.then(|| route.server_names.first().cloned().unwrap_or_else(|| DEFAULT_ROUTE.into())),
        mode: route.mode,
        subset: subset(&route.backends),
    };
    let routes = Routes::new(declared.routes.iter().map(|declared| (&declared.server_names[..], route(declared))));
    TlsHandling::SniRouting { tls, routes }
}

/// The name of the route without server names.
const DEFAULT_ROUTE: &str = "*";
