//! Moves bytes both ways between a client and a backend until the connection ends.
//!
//! One future polls both directions with a buffer that all connections of a thread share. A connection keeps only the
//! bytes that could not be written at once: an idle connection holds no buffer, and a slow reader makes its sender
//! wait. Each direction ends by itself (half-close); a reset ends both.
//!
//! The kernel's send buffers may hold megabytes that were written and have not arrived. While they shrink, the
//! connection is not idle. When one side breaks the connection, the other still gets the bytes that were sent to it
//! before the end.

mod direction;
mod side;
#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep, sleep_until};

use self::direction::{BUFFER, Direction, DirectionState, Fault, Flow};
pub use self::side::Side;
use crate::proxy::{
    accounting::CloseReason,
    proxy_protocol::SignatureGuard,
    stream::{
        Stream,
        relay_memory::{HeldBytes, RelayShare},
    },
};

/// The time without progress after which undelivered bytes are discarded before a reset. Also the time for which a
/// client may keep sending to a backend that has ended and closed (closing while bytes arrive resets the connection),
/// and for which a backend may read nothing of a client that has ended and closed.
const LINGER: Duration = Duration::from_secs(5);
/// The interval at which a side that is not being read is checked for failure, and the time without progress before the
/// check counts.
const LIVENESS_INTERVAL: Duration = Duration::from_secs(1);
/// The age at which a connection counts as long-lived.
pub const LONG_LIVED_AFTER: Duration = Duration::from_secs(1);
/// The interval at which undelivered bytes are checked.
const DELIVERY_TICK: Duration = Duration::from_millis(10);

thread_local! {
    static SHARED: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into());
}

/// The time limits of a relayed connection; `None`: no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deadlines {
    /// After this long without a byte in either direction.
    pub idle: Option<Duration>,
    /// After this long without a byte in the remaining direction, once one has ended.
    pub half_closed: Option<Duration>,
    /// At this time in any case.
    pub end: Option<Instant>,
}

/// Receives measurements of a connection while it is relayed.
pub trait Meter {
    /// The memory that bytes are charged to while they cannot be passed on.
    fn memory(&self) -> &RelayShare;
    fn sent_to_backend(&self, bytes: usize);
    fn sent_to_client(&self, bytes: usize);
    /// Called after each poll that moved bytes.
    fn active(&self, now: Instant);
    /// Called once, when the connection has been relayed for [`LONG_LIVED_AFTER`].
    fn long_lived(&self, backend: &Stream);
}

/// Relays bytes until both directions have ended, one side breaks, or a deadline passes.
///
/// With a `guard`, a client whose first bytes are a PROXY protocol signature is cut off before they are complete.
pub fn both_ways<'a>(
    client: &'a mut impl Side,
    backend: &'a mut impl Side,
    deadlines: Deadlines,
    guard: Option<Box<SignatureGuard>>,
    meter: &'a impl Meter,
) -> impl Future<Output = CloseReason> + 'a {
    let now = Instant::now();
    // Created outside of the future, which would otherwise store it twice.
    let mut relay = Relay {
        up: Direction::new(guard),
        down: Direction::new(None),
        held: HeldBytes::none_of(meter.memory()),
        deadlines,
        last_activity: now,
        undelivered: (0, 0),
        long_lived_at: Some(now + LONG_LIVED_AFTER),
        linger_until: None,
        check_at: None,
        timer: None,
    };
    async move {
        match poll_fn(|cx| relay.poll(cx, client, backend, meter)).await {
            Ending::Clean(reason) => {
                client.stream().ended_cleanly();
                backend.stream().ended_cleanly();
                reason
            }
            Ending::Cut(reason) => reason,
            Ending::ClientBroke(reason) => {
                relay.discard_held(client, backend);
                Box::pin(relay.deliver(backend)).await;
                reason
            }
            Ending::BackendBroke(reason) => {
                relay.discard_held(backend, client);
                Box::pin(relay.deliver(client)).await;
                reason
            }
        }
    }
}

struct Relay<'a> {
    /// From the client to the backend.
    up: Direction,
    /// From the backend to the client.
    down: Direction,
    /// The memory of this connection's bytes that could not be passed on.
    held: HeldBytes<'a>,
    deadlines: Deadlines,
    last_activity: Instant,
    /// Undelivered bytes to the client and the backend at the last check.
    undelivered: (usize, usize),
    /// The time at which the meter learns that the connection is long-lived; `None`: already done.
    long_lived_at: Option<Instant>,
    linger_until: Option<Instant>,
    check_at: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Relay<'_> {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut impl Side,
        backend: &mut impl Side,
        meter: &impl Meter,
    ) -> Poll<Ending> {
        let mut moved = false;
        let memory = self.held.share();
        let ending = SHARED.with_borrow_mut(|buffer| {
            loop {
                let before = (self.up.state, self.down.state);
                let last = self.down.state == DirectionState::Done;
                let wrote = |bytes| {
                    moved = true;
                    meter.sent_to_backend(bytes);
                };
                let mut flow =
                    Flow { source: &mut *client, destination: &mut *backend, buffer: &mut *buffer, memory, wrote };
                let up = self.up.poll(cx, &mut flow, last);
                if let Poll::Ready(Err(fault)) = up
                    && let Some(ending) = self.up_failed(fault, backend)
                {
                    return Some(ending);
                }
                let last = self.up.state == DirectionState::Done;
                let wrote = |bytes| {
                    moved = true;
                    meter.sent_to_client(bytes);
                };
                let mut flow =
                    Flow { source: &mut *backend, destination: &mut *client, buffer: &mut *buffer, memory, wrote };
                let down = self.down.poll(cx, &mut flow, last);
                if let Poll::Ready(Err(fault)) = down
                    && let Some(ending) = self.down_failed(fault, client)
                {
                    return Some(ending);
                }
                if (self.up.state, self.down.state) == before {
                    return self.ended();
                }
                // Passing on an end counts as activity: the time limit of the remaining direction begins with it.
                moved = true;
            }
        });
        self.held.set(self.up.held() + self.down.held() + client.held() + backend.held());
        if moved {
            self.last_activity = Instant::now();
            self.linger_until = self.linger_until.map(|_| self.last_activity + LINGER);
            meter.active(self.last_activity);
        }
        match ending {
            Some(ending) => Poll::Ready(ending),
            None => self.poll_clock(cx, client.stream(), backend.stream(), meter),
        }
    }

    fn up_failed(&mut self, fault: Fault, backend: &impl Side) -> Option<Ending> {
        match fault {
            Fault::Forbidden => Some(Ending::Cut(CloseReason::ProxyUntrusted)),
            Fault::Read => Some(Ending::ClientBroke(self.client_broke())),
            Fault::Write(_) if self.down.is_broken() => Some(Ending::Cut(CloseReason::ClientReset)),
            // Deliver everything that the backend has sent, and its end, before the client sees the failure.
            Fault::Write(error) if self.down.state == DirectionState::Done || end_is_certain(backend, error) => {
                self.up.stop(DirectionState::Discarding);
                self.linger_until = Some(Instant::now() + LINGER);
                None
            }
            // Read the bytes that the backend sent before it broke; its end is then not a clean one.
            Fault::Write(_) => {
                self.up.stop(DirectionState::Broken);
                self.down.source_broke = true;
                None
            }
        }
    }

    fn down_failed(&mut self, fault: Fault, client: &impl Side) -> Option<Ending> {
        match fault {
            Fault::Read => Some(Ending::BackendBroke(CloseReason::BackendReset)),
            Fault::Write(_) if self.up.state == DirectionState::Done => {
                Some(Ending::ClientBroke(CloseReason::ClientReset))
            }
            Fault::Write(_) if self.up.state.is_over() => Some(Ending::Cut(CloseReason::ClientReset)),
            Fault::Write(error) => {
                self.down.stop(DirectionState::Broken);
                if end_is_certain(client, error) {
                    self.linger_until = Some(Instant::now() + LINGER);
                } else {
                    self.up.source_broke = true;
                }
                None
            }
            Fault::Forbidden => unreachable!("only clients' bytes are guarded"),
        }
    }

    /// Frees the memory of the bytes that cannot be delivered: all but those that were written to the intact side.
    fn discard_held(&mut self, broken: &mut impl Side, intact: &impl Side) {
        self.up.discard_held();
        self.down.discard_held();
        broken.discard_held();
        self.held.set(intact.held());
    }

    /// Waits until all bytes written to the intact side have arrived, as long as there is progress.
    async fn deliver(&mut self, intact: &mut impl Side) {
        let (mut left, mut since) = (0, Instant::now());
        loop {
            // Never waits: encrypted bytes that the kernel does not accept now are retried.
            let flushed = poll_fn(|cx| Poll::Ready(Pin::new(&mut *intact).poll_flush(cx))).await;
            self.held.set(intact.held());
            let now_left = intact.stream().undelivered();
            if (flushed.is_ready() && now_left == 0) || intact.stream().has_failed() {
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

    /// The reason for the end of a connection whose client failed.
    fn client_broke(&self) -> CloseReason {
        if self.up.state == DirectionState::Discarding { CloseReason::BackendReset } else { CloseReason::ClientReset }
    }

    fn ended(&self) -> Option<Ending> {
        match (self.up.state, self.down.state) {
            (DirectionState::Done, DirectionState::Done) if self.linger_until.is_some() => {
                Some(Ending::Clean(CloseReason::BackendReset))
            }
            (DirectionState::Done, DirectionState::Done) => Some(Ending::Clean(CloseReason::Complete)),
            (DirectionState::Done, DirectionState::Broken) => Some(Ending::ClientBroke(CloseReason::ClientReset)),
            _ => None,
        }
    }

    /// Ends the connection when a deadline has passed; otherwise makes sure that the next one wakes this task. A timer
    /// that was set before bytes moved fires early and is then reset: moving bytes never touches it.
    fn poll_clock(
        &mut self,
        cx: &mut Context<'_>,
        client: &Stream,
        backend: &Stream,
        meter: &impl Meter,
    ) -> Poll<Ending> {
        let checks = self.leaves_client_unread() || self.leaves_backend_unread();
        if checks && self.check_at.is_none() {
            self.check_at = Some(Instant::now() + LIVENESS_INTERVAL);
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
                Alarm::Linger => {
                    let client_broke = self.down.is_broken();
                    let reason = if client_broke { CloseReason::ClientReset } else { CloseReason::BackendReset };
                    return Poll::Ready(Ending::Cut(reason));
                }
                Alarm::LongLived => {
                    self.long_lived_at = None;
                    meter.long_lived(backend);
                }
                Alarm::Liveness => {
                    self.check_at = checks.then(|| now + LIVENESS_INTERVAL);
                    if let Some(ending) = self.check_liveness(now, client, backend) {
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
            (self.check_at, Alarm::Liveness),
            (self.long_lived_at, Alarm::LongLived),
        ]
        .into_iter()
        .filter_map(|(due, alarm)| Some((due?, alarm)))
        .min_by_key(|(due, _)| *due)
    }

    /// True if a reset by the client does not wake this task: the backend is slow, or the client has ended.
    fn leaves_client_unread(&self) -> bool {
        !self.up.is_reading()
    }

    /// True if a reset by the backend does not wake this task. A failure of a backend that has ended does not matter:
    /// the client has all its bytes and its end.
    fn leaves_backend_unread(&self) -> bool {
        !self.down.is_reading() && self.down.state != DirectionState::Done
    }

    /// Detects a side that broke while it was not being read.
    fn check_liveness(&mut self, now: Instant, client: &Stream, backend: &Stream) -> Option<Ending> {
        if now < self.last_activity + LIVENESS_INTERVAL {
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

    /// True if there are undelivered bytes and their number has changed since the last check.
    fn still_delivers(&mut self, client: &Stream, backend: &Stream) -> bool {
        // Bytes for a side that broke never arrive.
        let to = |direction: &Direction, side: &Stream| if direction.is_broken() { 0 } else { side.undelivered() };
        let undelivered = (to(&self.down, client), to(&self.up, backend));
        undelivered != (0, 0) && undelivered != std::mem::replace(&mut self.undelivered, undelivered)
    }
}

/// The event for which a timer wakes a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alarm {
    End,
    Linger,
    Silence(CloseReason),
    Liveness,
    LongLived,
}

/// The end of a relayed connection, for both sides.
enum Ending {
    Clean(CloseReason),
    /// Both are reset now.
    Cut(CloseReason),
    /// The backend is reset after the client's bytes have been delivered to it.
    ClientBroke(CloseReason),
    /// The client is reset after the backend's bytes have been delivered to it.
    BackendBroke(CloseReason),
}

/// True if a read will tell whether a side that no longer accepts bytes had ended before.
///
/// A TCP socket reports a reset once, to a write or a read. After that, reads see an end. But Linux reports EPIPE for a
/// reset behind the peer's end, and ECONNRESET for others.
fn end_is_certain(side: &impl Side, error: io::ErrorKind) -> bool {
    side.announces_end() || error == io::ErrorKind::BrokenPipe
}
