//! Workers: threads with their own event loop and listening sockets. A connection never leaves its worker.

pub mod abort_on_panic;
pub mod handle;
pub mod sessions;
pub mod shutdown;

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd},
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::Duration,
};

use futures::FutureExt;
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::{Builder, LocalOptions},
    sync::{mpsc, oneshot},
    task::{JoinHandle, spawn_local},
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tracing::warn;

use self::{
    abort_on_panic::AbortOnPanic,
    handle::{DrainOutcome, Shared, SocketId, WorkerCommand, WorkerHandle},
    sessions::{CloseQuota, Sessions},
    shutdown::Drains,
};
use super::{
    accounting::CloseReason,
    connection::{
        self, AcceptedConnection, Permits, WorkerContext, handshake_limiter::HandshakeLimiter,
        record::ConnectionRecorder,
    },
    connections::{ConnectionQuery, FirstConnections, first_connections},
    listener::{ListenerConfig, ListenerSlot, ListenerState},
    socket,
    stream::pipe,
};
use crate::{
    capacity::Share,
    tcp::{
        self, TcpSocket,
        accept::{Backoff, accept, is_exhausted},
    },
};

/// The interval between heartbeats of a worker.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// The average interval at which connections to close are determined.
pub const DRAIN_TICK: Duration = Duration::from_millis(100);
/// The number of steps of TLS handshakes (a full one has a costly one, of 0.2 to 1 ms) that run before relays are
/// polled.
const HANDSHAKES_PER_TURN: usize = 4;
/// The number of tasks that run before the event loop polls for new events: otherwise relays that always have bytes to
/// move would starve the others.
const TASKS_PER_TURN: u32 = 16;
/// The maximum number of connections that are accepted from a socket that is being closed: as many as its queue holds.
const LAST_ACCEPTS: usize = 2 * socket::BACKLOG as usize;

/// The state of a worker, on its own thread.
#[derive(Debug)]
pub struct Worker {
    index: usize,
    shared: Arc<Shared>,
    context: WorkerContext,
    sessions: Sessions,
    sockets: RefCell<HashMap<SocketId, Socket>>,
}

#[derive(Debug)]
struct Socket {
    slot: Arc<ListenerSlot>,
    listening: Arc<AsyncFd<TcpListener>>,
    accepting: JoinHandle<()>,
}

/// Starts the thread of a worker. A panic of a worker aborts the process: its connections are lost, and its sockets
/// would keep collecting new ones.
pub fn start(
    index: usize,
    shared: Arc<Shared>,
    inbox: mpsc::UnboundedReceiver<WorkerCommand>,
) -> io::Result<thread::JoinHandle<()>> {
    let (started, outcome) = std::sync::mpsc::sync_channel(1);
    let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        let _abort = AbortOnPanic;
        let runtime = match Builder::new_current_thread()
            .enable_all()
            .event_interval(TASKS_PER_TURN)
            .build_local(LocalOptions::default())
        {
            Ok(runtime) => runtime,
            Err(error) => return drop(started.send(Err(error))),
        };
        let _ = started.send(Ok(()));
        pipe::allow(shared.pipes);
        let recorder = Rc::new(ConnectionRecorder::new(index, shared.access_log.clone()));
        let context = WorkerContext { recorder, handshakes: HandshakeLimiter::new(HANDSHAKES_PER_TURN) };
        let worker = Worker { index, shared, context, sessions: Sessions::default(), sockets: RefCell::default() };
        runtime.block_on(Rc::new(worker).run(inbox));
    })?;
    outcome.recv().map_err(io::Error::other)??;
    Ok(thread)
}

impl Worker {
    async fn run(self: Rc<Self>, mut inbox: mpsc::UnboundedReceiver<WorkerCommand>) {
        spawn_local(self.context.handshakes.clone().renew());
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                order = inbox.recv() => match order {
                    Some(WorkerCommand::Stop) | None => return self.abandon(inbox),
                    Some(order) => self.follow(order),
                },
                _ = heartbeat.tick() => {
                    let now = self.shared.started.elapsed().as_millis() as u64;
                    self.shared.workers[self.index].heartbeat.store(now, Relaxed);
                    pipe::close_spare();
                }
            }
        }
    }

    fn follow(self: &Rc<Self>, order: WorkerCommand) {
        match order {
            WorkerCommand::Listen { id, slot, socket, done } => {
                let _ = done.send(self.listen(id, slot, socket));
            }
            WorkerCommand::Close { id, done } => self.close(id, done),
            // The connection is recorded if this fails.
            WorkerCommand::Adopt(tcp, accepted) => drop(self.serve(tcp, *accepted)),
            WorkerCommand::Count { done } => drop(done.send(self.sessions.established())),
            WorkerCommand::Rank { requests, done } => drop(done.send(self.sessions.first_to_close(&requests))),
            WorkerCommand::CloseSome { requests, done } => drop(done.send(self.sessions.close(&requests))),
            WorkerCommand::List { query, done } => {
                let worker = self.clone();
                spawn_local(async move { worker.list(&query, done).await });
            }
            WorkerCommand::Drain { drains, done } => {
                let worker = self.clone();
                spawn_local(async move { done.send(worker.drain(drains).await) });
            }
            WorkerCommand::Stop => {}
        }
    }

    fn listen(
        self: &Rc<Self>,
        id: SocketId,
        slot: Arc<ListenerSlot>,
        socket: TcpListener,
    ) -> io::Result<Arc<AsyncFd<TcpListener>>> {
        let listening = Arc::new(tcp::listening(socket).map_err(socket::in_call("epoll_ctl"))?);
        let accepting = spawn_local(self.clone().accept_all(slot.clone(), listening.clone()));
        self.sockets.borrow_mut().insert(id, Socket { slot, listening: listening.clone(), accepting });
        Ok(listening)
    }

    fn close(self: &Rc<Self>, id: SocketId, done: oneshot::Sender<()>) {
        let socket = self.sockets.borrow_mut().remove(&id);
        let Some(Socket { slot, listening, accepting }) = socket else { return };
        accepting.abort();
        // Closing the socket would reset the connections that wait in its queue, also during a takeover: the process that
        // takes over may replace the address by a wider or narrower one.
        for _ in 0..LAST_ACCEPTS {
            match accept(listening.get_ref()).and_then(|(tcp, peer)| self.accepted(tcp, peer, &slot)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock || is_exhausted(&error) => break,
                // This connection failed while it waited; others may wait behind it.
                Ok(()) | Err(_) => {}
            }
        }
        drop(listening);
        spawn_local(async move {
            // The task holds the socket too: the address is free only when it has ended.
            let _ = accepting.await;
            let _ = done.send(());
        });
    }

    /// Accepts forever; the runtime polls open connections after a bounded number of accepts.
    async fn accept_all(self: Rc<Self>, slot: Arc<ListenerSlot>, socket: Arc<AsyncFd<TcpListener>>) {
        let _abort = AbortOnPanic;
        let mut backoff = Backoff::new(slot.load().state.key.to_string());
        loop {
            let accepted = socket.async_io(Interest::READABLE, accept).await;
            match accepted.and_then(|(tcp, peer)| self.accepted(tcp, peer, &slot)) {
                Ok(()) => backoff.succeeded(),
                Err(error) => {
                    if let Some(pause) = backoff.failed(&error) {
                        sleep(pause).await;
                    }
                }
            }
        }
    }

    /// Counts a new connection, and refuses it or passes it to the least busy worker. Fails like [`Worker::serve`].
    fn accepted(self: &Rc<Self>, tcp: TcpStream, peer: SocketAddr, slot: &ListenerSlot) -> io::Result<()> {
        let config = slot.load_full();
        config.state.counters.shard(self.index).accept();
        let at = Instant::now();
        let permits = match self.admit(&tcp, &config, at) {
            Ok(permits) => permits,
            Err(reason) => {
                reset(&tcp);
                self.context.recorder.record_unserved(&config, peer, at, reason);
                return Ok(());
            }
        };
        let accepted = AcceptedConnection { peer, config, at, permits };
        self.own().open.fetch_add(1, Relaxed);
        match self.less_busy() {
            None => self.serve(tcp, accepted),
            Some(other) => {
                self.hand_over(tcp, accepted, other);
                Ok(())
            }
        }
    }

    fn hand_over(&self, tcp: TcpStream, accepted: AcceptedConnection, other: &WorkerHandle) {
        other.open.fetch_add(1, Relaxed);
        self.own().open.fetch_sub(1, Relaxed);
        if let Err(returned) = other.orders.send(WorkerCommand::Adopt(tcp, Box::new(accepted)))
            && let WorkerCommand::Adopt(tcp, accepted) = returned.0
        {
            // The other worker has stopped, and this one is about to stop.
            other.open.fetch_sub(1, Relaxed);
            reset(&tcp);
            self.context.recorder.record_unserved(
                &accepted.config,
                accepted.peer,
                accepted.at,
                CloseReason::DrainDeadline,
            );
        }
    }

    /// Records a counted connection that no event loop could take.
    fn lost(&self, accepted: &AcceptedConnection, reason: CloseReason) {
        self.own().open.fetch_sub(1, Relaxed);
        self.context.recorder.record_unserved(&accepted.config, accepted.peer, accepted.at, reason);
    }

    fn own(&self) -> &WorkerHandle {
        &self.shared.workers[self.index]
    }

    fn admit(&self, tcp: &TcpStream, config: &ListenerConfig, now: Instant) -> Result<Permits, CloseReason> {
        let permit =
            if tcp.as_fd().as_raw_fd() < self.shared.spare_from { Share::permit(&config.state.share) } else { None };
        let permit = permit.ok_or_else(|| self.process_full(config))?;
        let listener = config.state.admission.admit_connection(&config.listener.limits, now.into_std())?;
        Ok((permit, listener))
    }

    #[cold]
    fn process_full(&self, config: &ListenerConfig) -> CloseReason {
        let ListenerState { key, share, process_full_log, .. } = &*config.state;
        if process_full_log.allow() {
            warn!(
                listener = %key, connections = share.in_use(), guaranteed = share.guaranteed(),
                process_limit = self.shared.capacity.total(),
                "connections are refused, because all unreserved file descriptors are in use: raise the limit of open \
                 files"
            );
        }
        CloseReason::ProcessFull
    }

    /// The least busy worker, if this one has clearly more connections. The kernel spreads connections over workers by
    /// a hash, which is uneven.
    fn less_busy(&self) -> Option<&WorkerHandle> {
        let own = self.own().open();
        let least = self.shared.workers.iter().min_by_key(|worker| worker.open())?;
        let open = least.open() + 1;
        (own > open + open / 8).then_some(least)
    }

    /// Serves a connection in a task. Fails if this worker's event loop, which only now learns of the socket, cannot
    /// take it; the connection is then recorded.
    fn serve(self: &Rc<Self>, tcp: TcpStream, accepted: AcceptedConnection) -> io::Result<()> {
        let tcp = TcpSocket::new(tcp).inspect_err(|_| self.lost(&accepted, CloseReason::LocalFailure))?;
        let session = Rc::new(self.context.recorder.begin(&accepted.config, accepted.peer, accepted.at));
        self.sessions.add(session.clone(), |place| {
            let registered = SessionGuard { worker: self.clone(), place };
            let served = connection::serve(tcp, accepted, self.context.clone(), session);
            // Not an `async` block, which would store the future twice: where it is captured and where it is awaited.
            spawn_local(served.map(|()| drop(registered))).abort_handle()
        });
        Ok(())
    }

    /// Lists open connections, unless the answer is not wanted any more.
    async fn list(&self, query: &ConnectionQuery, done: oneshot::Sender<FirstConnections>) {
        let first = first_connections(&self.sessions, query, || !done.is_closed()).await;
        let _ = done.send(first);
    }

    /// Drains open connections as their listeners declare: idle ones first.
    async fn drain(self: Rc<Self>, mut drains: Drains) -> DrainOutcome {
        let open = |drains: &Drains| {
            let mut open = vec![0; drains.len()];
            self.sessions.for_each(|session| open[drains.of(session.listener)] += 1);
            open
        };
        let at_first = self.sessions.len();
        drains.begin(&open(&drains));
        let mut drained = DrainOutcome::default();
        while self.sessions.len() > 0 {
            let due = drains.due(&open(&drains), Instant::now());
            self.sessions.close_first(&due, |session| drains.of(session.listener));
            for CloseQuota { count, reason } in due {
                if reason == CloseReason::DrainDeadline {
                    drained.reset += count;
                } else {
                    drained.closed += count;
                }
            }
            sleep(jittered(DRAIN_TICK)).await;
        }
        drained.by_themselves = at_first.saturating_sub(drained.closed + drained.reset);
        drained
    }

    /// Resets and records the connections that are still open or queued, before the event loop ends.
    fn abandon(&self, mut inbox: mpsc::UnboundedReceiver<WorkerCommand>) {
        self.sessions.close_all(CloseReason::DrainDeadline);
        inbox.close();
        while let Ok(order) = inbox.try_recv() {
            if let WorkerCommand::Adopt(tcp, accepted) = order {
                reset(&tcp);
                self.lost(&accepted, CloseReason::DrainDeadline);
            }
        }
    }
}

/// Removes an open connection from its worker when its task ends, in every case.
struct SessionGuard {
    worker: Rc<Worker>,
    place: usize,
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.worker.sessions.remove(self.place);
        self.worker.shared.workers[self.worker.index].open.fetch_sub(1, Relaxed);
    }
}

/// Randomises a pause, so that several tasks do not run at the same time.
pub fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64())
}

/// Makes the close of this socket a reset.
fn reset(tcp: &impl AsFd) {
    // Fails only for a connection that is already closed.
    let _ = socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}
