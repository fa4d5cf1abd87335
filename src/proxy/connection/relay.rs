//! Moves bytes both ways between a client and a backend until the connection ends.
//!
//! One future polls both directions with a buffer that all connections of a thread share: what could not be written at
//! once is the only thing that a connection keeps, so an idle one holds no buffer and a slow reader makes its sender
//! wait. Each direction ends by itself (half-close); a reset ends both.
//!
//! Between the two sides are also the kernel's buffers, which may hold megabytes that were written and have not arrived.
//! As long as that gets less the connection is not silent, and before the end of a connection that one side broke off
//! the other gets what was sent to it.

mod direction;
mod side;
#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep, sleep_until};

use self::direction::{BUFFER, Direction, Fault, State};
pub use self::side::Side;
use crate::proxy::{accounting::CloseReason, proxy_protocol::SignatureGuard, stream::Stream};

/// How long a side that is about to be reset may leave what was sent to it where it is. Also how long a client may go on
/// sending to a backend that has ended and gone: closing while bytes come in resets the connection.
const LINGER: Duration = Duration::from_secs(5);
/// How often a side that is not being read is asked whether it still is there, and how long nothing must have moved
/// before its answer counts.
const LIVENESS_INTERVAL: Duration = Duration::from_secs(1);
/// From then on a connection has what short ones are spared.
pub const LONG_LIVED_AFTER: Duration = Duration::from_secs(1);
/// How often is looked whether what was sent has arrived.
const DELIVERY_TICK: Duration = Duration::from_millis(10);

thread_local! {
    static SHARED: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into());
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

/// What is told about a connection while it is relayed, not at its end.
pub trait Meter {
    fn sent_to_backend(&self, bytes: usize);
    fn sent_to_client(&self, bytes: usize);
    /// Called after each turn that moved bytes.
    fn active(&self, now: Instant);
    /// Called once, when it has been relayed for [`LONG_LIVED_AFTER`].
    fn long_lived(&self, backend: &Stream);
}

/// Moves bytes until both directions have ended, one side breaks, or a deadline passes.
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
    // Made outside of the future, which would have room for it and for what it is made of.
    let mut relay = Relay {
        up: Direction::new(guard),
        down: Direction::new(None),
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
                Box::pin(deliver(backend)).await;
                reason
            }
            Ending::BackendBroke(reason) => {
                Box::pin(deliver(client)).await;
                reason
            }
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
    /// When the meter is told that it lasts; `None`: that has been told.
    long_lived_at: Option<Instant>,
    linger_until: Option<Instant>,
    check_at: Option<Instant>,
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
            None => self.poll_clock(cx, client.stream(), backend.stream(), meter),
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
                Alarm::Linger => return Poll::Ready(Ending::Cut(CloseReason::BackendReset)),
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
    Liveness,
    LongLived,
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
