//! Moves bytes both ways between a client and a backend until the connection ends.
//!
//! One future polls both directions with a buffer that all connections of a thread share: what could not be written at
//! once is the only thing that a connection keeps, so an idle one holds no buffer and a slow reader makes its sender
//! wait. Each direction ends by itself (half-close); a reset ends both.
//!
//! Between the two sides are also the kernel's buffers, which may hold megabytes that were written and have not arrived.
//! As long as that gets less the connection is not silent, and before the end of a connection that one side broke off
//! the other gets what was sent to it.

#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    task::yield_now,
    time::{Instant, Sleep, sleep, sleep_until},
};

use super::{
    accounting::CloseReason,
    pipe::Pipe,
    proxy_protocol::{Inspection, SignatureGuard},
    stream::Stream,
};

/// What is read at once.
const BUFFER: usize = 64 * 1024;
/// What is read at once for a receiver that did not take everything the last time.
const BUFFER_UNDER_BACKPRESSURE: usize = 16 * 1024;
/// Below this a pipe that was filled by a direction that moved much makes it one that does not: small messages are copied
/// at less cost. It is what sixteen segments of a network with small ones come to, which is as many as a pipe holds, and
/// less.
const SMALL: usize = 8 * 1024;
/// What one direction may move before the other connections of the worker have their turn.
const BYTES_PER_TURN: usize = 128 * 1024;
/// How long a side that is about to be reset may leave what was sent to it where it is. Also how long a client may go on
/// sending to a backend that has ended and gone: closing while bytes come in resets the connection.
const LINGER: Duration = Duration::from_secs(5);
/// How often a side that is not being read is asked whether it still is there, and how long nothing must have moved
/// before its answer counts.
const LOOK: Duration = Duration::from_secs(1);
/// How often is looked whether what was sent has arrived.
const DELIVERY_TICK: Duration = Duration::from_millis(10);

thread_local! {
    static SHARED: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into());
}

/// One side of a relayed connection.
pub trait Side: AsyncRead + AsyncWrite + Unpin {
    /// The TCP connection below.
    fn stream(&mut self) -> &mut Stream;

    /// The same, if bytes may be moved to and from it as they are.
    fn plain(&self) -> Option<&TcpStream>;
}

/// When a relayed connection is ended by the clock; `None`: never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deadlines {
    /// After this long without a byte in either direction.
    pub idle: Option<Duration>,
    /// After this long without a byte in the remaining direction, once one has ended.
    pub half_closed: Option<Duration>,
    /// At this time in any case.
    pub end: Option<Instant>,
}

/// What is told about the bytes of a connection while they move, not at its end.
pub trait Meter {
    fn sent_to_backend(&self, bytes: usize);
    fn sent_to_client(&self, bytes: usize);
    /// Called after each turn that moved bytes.
    fn active(&self, now: Instant);
}

/// Moves bytes until both directions have ended, one side breaks, or a deadline passes.
///
/// With a `guard`, a client whose first bytes are a PROXY protocol signature is cut off before they are complete.
pub async fn both_ways(
    client: &mut impl Side,
    backend: &mut impl Side,
    deadlines: Deadlines,
    guard: Option<SignatureGuard>,
    meter: &impl Meter,
) -> CloseReason {
    let mut relay = Relay {
        up: Direction::new(guard),
        down: Direction::new(None),
        deadlines,
        last_activity: Instant::now(),
        undelivered: (0, 0),
        linger_until: None,
        look_at: None,
        timer: None,
    };
    match poll_fn(|cx| relay.poll(cx, client, backend, meter)).await {
        Ending::Clean(reason) => {
            client.stream().ended_cleanly();
            backend.stream().ended_cleanly();
            reason
        }
        Ending::Cut(reason) => reason,
        Ending::ClientBroke(reason) => {
            deliver(backend).await;
            reason
        }
        Ending::BackendBroke(reason) => {
            deliver(client).await;
            reason
        }
    }
}

struct Relay {
    /// From the client to the backend.
    up: Direction,
    /// From the backend to the client.
    down: Direction,
    deadlines: Deadlines,
    last_activity: Instant,
    /// What had not arrived at the client and the backend when that was last asked.
    undelivered: (usize, usize),
    linger_until: Option<Instant>,
    look_at: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Relay {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut impl Side,
        backend: &mut impl Side,
        meter: &impl Meter,
    ) -> Poll<Ending> {
        let mut moved = false;
        let ending = SHARED.with_borrow_mut(|buffer| {
            loop {
                let before = (self.up.state, self.down.state);
                let last = self.down.state == State::Done;
                let up = self.up.poll(cx, client, backend, last, buffer, |bytes| {
                    moved = true;
                    meter.sent_to_backend(bytes);
                });
                if let Poll::Ready(Err(fault)) = up
                    && let Some(ending) = self.up_failed(fault)
                {
                    return Some(ending);
                }
                let last = self.up.state == State::Done;
                let down = self.down.poll(cx, backend, client, last, buffer, |bytes| {
                    moved = true;
                    meter.sent_to_client(bytes);
                });
                if let Poll::Ready(Err(fault)) = down
                    && let Some(ending) = self.down_failed(fault)
                {
                    return Some(ending);
                }
                if (self.up.state, self.down.state) == before {
                    return self.ended();
                }
                // An end is passed on like bytes are: the time of the remaining direction begins with it.
                moved = true;
            }
        });
        if moved {
            self.last_activity = Instant::now();
            meter.active(self.last_activity);
        }
        match ending {
            Some(ending) => Poll::Ready(ending),
            None => self.poll_clock(cx, client.stream(), backend.stream()),
        }
    }

    fn up_failed(&mut self, fault: Fault) -> Option<Ending> {
        match fault {
            Fault::Forbidden => Some(Ending::Cut(CloseReason::ProxyUntrusted)),
            Fault::Read => Some(Ending::ClientBroke(self.client_broke())),
            // The backend has said everything and is gone: let the client have it before it learns of the rest.
            Fault::Write if self.down.state == State::Done => {
                self.up.state = State::Discarding;
                self.linger_until = Some(Instant::now() + LINGER);
                None
            }
            // What the backend said before it broke is still to be read; its end then is no clean one.
            Fault::Write => {
                self.up.state = State::Broken;
                self.down.source_broke = true;
                None
            }
        }
    }

    fn down_failed(&mut self, fault: Fault) -> Option<Ending> {
        match fault {
            Fault::Read => Some(Ending::BackendBroke(CloseReason::BackendReset)),
            Fault::Write if self.up.state.is_over() => Some(Ending::Cut(CloseReason::ClientReset)),
            Fault::Write => {
                self.down.state = State::Broken;
                self.up.source_broke = true;
                None
            }
            Fault::Forbidden => unreachable!("only clients' bytes are guarded"),
        }
    }

    fn client_broke(&self) -> CloseReason {
        if self.linger_until.is_some() { CloseReason::BackendReset } else { CloseReason::ClientReset }
    }

    fn ended(&self) -> Option<Ending> {
        match (self.up.state, self.down.state) {
            (State::Done, State::Done) if self.linger_until.is_some() => Some(Ending::Clean(CloseReason::BackendReset)),
            (State::Done, State::Done) => Some(Ending::Clean(CloseReason::Complete)),
            _ => None,
        }
    }

    /// Ends the connection when a deadline has passed; otherwise makes sure that the next one wakes this task. A timer
    /// that was set before bytes moved fires early and is set anew then: moving bytes never touches it.
    fn poll_clock(&mut self, cx: &mut Context<'_>, client: &Stream, backend: &Stream) -> Poll<Ending> {
        let looks = self.leaves_client_unread() || self.leaves_backend_unread();
        if looks && self.look_at.is_none() {
            self.look_at = Some(Instant::now() + LOOK);
        }
        loop {
            let Some((due, alarm)) = self.next_alarm() else {
                self.timer = None;
                return Poll::Pending;
            };
            let timer = match &mut self.timer {
                Some(timer) if timer.deadline() <= due => timer,
                Some(timer) => {
                    timer.as_mut().reset(due);
                    timer
                }
                None => self.timer.insert(Box::pin(sleep_until(due))),
            };
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            if now < due {
                timer.as_mut().reset(due);
                continue;
            }
            match alarm {
                Alarm::End => return Poll::Ready(Ending::Cut(CloseReason::MaxDuration)),
                Alarm::Silence(_) | Alarm::Linger if self.still_delivers(client, backend) => {
                    self.last_activity = now;
                    self.linger_until = self.linger_until.map(|_| now + LINGER);
                }
                Alarm::Silence(reason) => return Poll::Ready(Ending::Cut(reason)),
                Alarm::Linger => return Poll::Ready(Ending::Cut(CloseReason::BackendReset)),
                Alarm::Look => {
                    self.look_at = looks.then(|| now + LOOK);
                    if let Some(ending) = self.look(now, client, backend) {
                        return Poll::Ready(ending);
                    }
                }
            }
        }
    }

    fn next_alarm(&self) -> Option<(Instant, Alarm)> {
        let half_closed = self.up.state.is_over() || self.down.state.is_over();
        let after = |silence: Duration| self.last_activity.checked_add(silence);
        [
            (self.deadlines.end, Alarm::End),
            (self.linger_until, Alarm::Linger),
            (self.deadlines.idle.and_then(after), Alarm::Silence(CloseReason::IdleTimeout)),
            (
                self.deadlines.half_closed.filter(|_| half_closed).and_then(after),
                Alarm::Silence(CloseReason::HalfClosedTimeout),
            ),
            (self.look_at, Alarm::Look),
        ]
        .into_iter()
        .filter_map(|(due, alarm)| Some((due?, alarm)))
        .min_by_key(|(due, _)| *due)
    }

    /// Whether a reset by the client would not wake this task: because the backend is slow, or the client has said
    /// everything.
    fn leaves_client_unread(&self) -> bool {
        !self.up.is_reading()
    }

    /// The same for the backend. One that has said everything may break: the client has it, and an end to it.
    fn leaves_backend_unread(&self) -> bool {
        !self.down.is_reading() && self.down.state != State::Done
    }

    /// Finds a side that broke while it was not being read.
    fn look(&mut self, now: Instant, client: &Stream, backend: &Stream) -> Option<Ending> {
        if now < self.last_activity + LOOK {
            return None;
        }
        if self.still_delivers(client, backend) {
            self.last_activity = now;
            return None;
        }
        if self.leaves_client_unread() && (self.up.source_broke || client.has_failed()) {
            return Some(Ending::Cut(self.client_broke()));
        }
        let backend_broke = self.leaves_backend_unread() && (self.down.source_broke || backend.has_failed());
        backend_broke.then_some(Ending::Cut(CloseReason::BackendReset))
    }

    /// Whether what the kernel has to deliver has changed since the last time, and is not nothing.
    fn still_delivers(&mut self, client: &Stream, backend: &Stream) -> bool {
        // What was on its way to a side that broke will never arrive.
        let to = |direction: &Direction, side: &Stream| if direction.is_broken() { 0 } else { side.undelivered() };
        let undelivered = (to(&self.down, client), to(&self.up, backend));
        undelivered != (0, 0) && undelivered != std::mem::replace(&mut self.undelivered, undelivered)
    }
}

/// What the clock wakes a relay for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alarm {
    End,
    Linger,
    Silence(CloseReason),
    Look,
}

/// How a relayed connection ends for both sides.
enum Ending {
    Clean(CloseReason),
    /// Both are reset now.
    Cut(CloseReason),
    /// The backend is reset when it has what the client sent before.
    ClientBroke(CloseReason),
    /// The client is reset when it has what the backend sent before.
    BackendBroke(CloseReason),
}

/// Waits until everything that was written has arrived, for as long as it gets less.
async fn deliver(side: &mut impl Side) {
    let (mut left, mut since) = (0, Instant::now());
    loop {
        // Never waits: encrypted bytes that the kernel does not take now are tried again.
        let flushed = poll_fn(|cx| Poll::Ready(Pin::new(&mut *side).poll_flush(cx))).await;
        let now_left = side.stream().undelivered();
        if (flushed.is_ready() && now_left == 0) || side.stream().has_failed() {
            return;
        }
        if now_left != left {
            (left, since) = (now_left, Instant::now());
        }
        if since.elapsed() >= LINGER {
            return;
        }
        sleep(DELIVERY_TICK).await;
    }
}

/// One direction of a connection.
struct Direction {
    state: State,
    /// Read but not yet written; empty while the receiver keeps up.
    pending: Vec<u8>,
    /// How much of `pending` is written.
    written: usize,
    /// It moves much: within the kernel, where both sides are plain.
    moves_much: bool,
    /// While it has something that was read and not yet written.
    pipe: Option<Pipe>,
    /// The other direction failed to write to where this one reads: an end of input is not a clean one.
    source_broke: bool,
    guard: Option<SignatureGuard>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The source has ended; what is pending, and then the end, are still to be passed on.
    Ending,
    /// The end has been passed on.
    Done,
    /// The destination takes nothing any more.
    Broken,
    /// The same, and the source is read to its end all the same.
    Discarding,
}

impl State {
    fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Broken | Self::Discarding)
    }
}

enum Fault {
    Read,
    Write,
    /// The first bytes are a PROXY protocol signature, from one who may not send it.
    Forbidden,
}

impl Direction {
    fn new(guard: Option<SignatureGuard>) -> Self {
        Self {
            state: State::Open,
            pending: Vec::new(),
            written: 0,
            moves_much: false,
            pipe: None,
            source_broke: false,
            guard,
        }
    }

    /// Whether the source is waited for.
    fn is_reading(&self) -> bool {
        self.state == State::Discarding || (self.state == State::Open && self.pending.is_empty() && self.pipe.is_none())
    }

    fn is_broken(&self) -> bool {
        matches!(self.state, State::Broken | State::Discarding)
    }

    /// Moves what can be moved now. Ready when the direction has ended or failed. The `last` one of both, the other one
    /// having ended, leaves the end of a plain connection to its closing.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl Side,
        destination: &mut impl Side,
        last: bool,
        buffer: &mut [u8],
        mut wrote: impl FnMut(usize),
    ) -> Poll<Result<(), Fault>> {
        let mut budget = BYTES_PER_TURN;
        loop {
            match self.state {
                State::Done | State::Broken => return Poll::Ready(Ok(())),
                State::Discarding => {
                    if ready!(read(cx, source, buffer))? == 0 {
                        self.state = State::Done;
                        return Poll::Ready(Ok(()));
                    }
                    continue;
                }
                State::Open | State::Ending => {}
            }
            let keeps_up = self.pending.is_empty();
            ready!(self.poll_drain_pipe(cx, destination, &mut wrote))?;
            ready!(self.poll_write_pending(cx, destination, &mut wrote))?;
            if self.state == State::Ending {
                if !last || destination.plain().is_none() {
                    ready!(Pin::new(&mut *destination).poll_shutdown(cx)).map_err(|_| Fault::Write)?;
                }
                self.pending = Vec::new();
                self.state = State::Done;
                continue;
            }
            if budget == 0 {
                // Not only behind the other tasks, as a task that wakes itself, but behind what the sockets have for them.
                let _ = pin!(yield_now()).poll(cx);
                return Poll::Pending;
            }
            if let Some(mut pipe) = self.pipe_between(source, destination)
                && let Some(from) = source.plain()
            {
                let count = ready!(pipe.poll_fill(cx, from)).map_err(|_| Fault::Read)?;
                self.moves_much = count >= SMALL;
                budget = budget.saturating_sub(count);
                match count {
                    0 => self.end()?,
                    _ => self.pipe = Some(pipe),
                }
                self.pending = Vec::new();
                continue;
            }
            let size = if keeps_up { BUFFER } else { BUFFER_UNDER_BACKPRESSURE };
            let Poll::Ready(count) = read(cx, source, &mut buffer[..size])? else {
                // Nothing to do for now: hold no memory, and leave nothing in the encrypting layer.
                self.pending = Vec::new();
                ready!(Pin::new(&mut *destination).poll_flush(cx)).map_err(|_| Fault::Write)?;
                return Poll::Pending;
            };
            if count == 0 {
                self.end()?;
                continue;
            }
            self.moves_much = count == size;
            let chunk = &buffer[..count];
            self.inspect(chunk)?;
            budget = budget.saturating_sub(count);
            let now = poll_write_some(cx, destination, chunk, &mut wrote)?;
            self.pending.extend_from_slice(&chunk[now..]);
        }
    }

    /// The source has ended.
    fn end(&mut self) -> Result<(), Fault> {
        if self.source_broke {
            return Err(Fault::Read);
        }
        self.state = State::Ending;
        Ok(())
    }

    /// A pipe for what comes next, if that is to go through one.
    fn pipe_between(&self, source: &impl Side, destination: &impl Side) -> Option<Pipe> {
        let may = self.moves_much && self.guard.is_none() && source.plain().is_some() && destination.plain().is_some();
        if may { Pipe::borrow() } else { None }
    }

    fn poll_drain_pipe(
        &mut self,
        cx: &mut Context<'_>,
        destination: &impl Side,
        wrote: &mut impl FnMut(usize),
    ) -> Poll<Result<(), Fault>> {
        let (Some(pipe), Some(to)) = (&mut self.pipe, destination.plain()) else { return Poll::Ready(Ok(())) };
        while !pipe.is_empty() {
            match ready!(pipe.poll_drain(cx, to)) {
                Ok(0) | Err(_) => return Poll::Ready(Err(Fault::Write)),
                Ok(count) => wrote(count),
            }
        }
        self.pipe = None;
        Poll::Ready(Ok(()))
    }

    fn poll_write_pending(
        &mut self,
        cx: &mut Context<'_>,
        destination: &mut impl Side,
        wrote: &mut impl FnMut(usize),
    ) -> Poll<Result<(), Fault>> {
        if self.pending.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.written += poll_write_some(cx, destination, &self.pending[self.written..], wrote)?;
        if self.written < self.pending.len() {
            return Poll::Pending;
        }
        self.pending.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn inspect(&mut self, chunk: &[u8]) -> Result<(), Fault> {
        let Some(guard) = &mut self.guard else { return Ok(()) };
        match guard.inspect(chunk) {
            Inspection::Undecided => {}
            Inspection::Clean => self.guard = None,
            Inspection::Forbidden => return Err(Fault::Forbidden),
        }
        Ok(())
    }
}

fn read(cx: &mut Context<'_>, source: &mut impl Side, buffer: &mut [u8]) -> Poll<Result<usize, Fault>> {
    let mut buffer = ReadBuf::new(buffer);
    let read = ready!(Pin::new(source).poll_read(cx, &mut buffer));
    Poll::Ready(read.map(|()| buffer.filled().len()).map_err(|_| Fault::Read))
}

/// Writes until everything is written or the destination would block; the task is woken when it no longer would.
fn poll_write_some(
    cx: &mut Context<'_>,
    destination: &mut impl Side,
    bytes: &[u8],
    wrote: &mut impl FnMut(usize),
) -> Result<usize, Fault> {
    let mut done = 0;
    while done < bytes.len() {
        match Pin::new(&mut *destination).poll_write(cx, &bytes[done..]) {
            Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Err(Fault::Write),
            Poll::Ready(Ok(count)) => {
                done += count;
                wrote(count);
            }
            Poll::Pending => break,
        }
    }
    Ok(done)
}
