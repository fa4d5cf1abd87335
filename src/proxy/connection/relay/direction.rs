//! One direction of a relayed connection.

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use tokio::{io::ReadBuf, task::yield_now};

use super::side::Side;
use crate::{
    proxy::{
        proxy_protocol::{Inspection, SignatureGuard},
        stream::{
            pipe::{Pipe, PipeOutput},
            relay_memory::{RECORD_READ, RelayShare, discard_front},
        },
    },
    tcp::TcpSocket,
};

/// The size of the buffer that a worker's connections share, and the largest read.
pub const BUFFER: usize = 128 * 1024;
/// The read size of a direction with little traffic.
const READ: usize = 64 * 1024;
/// A pipe filled with less than this ends the use of pipes by its direction: small messages are cheaper to copy.
const SMALL: usize = 8 * 1024;
/// The number of bytes after which a direction yields to the other connections of the worker. One read or one pipe is
/// never split for that.
const BYTES_PER_TURN: usize = 128 * 1024;

/// One direction of a connection.
pub struct Direction {
    pub state: DirectionState,
    /// Read but not yet written; empty while the receiver keeps up.
    pending: Vec<u8>,
    /// True if the receiver's TLS layer has encrypted bytes that the receiver does not accept now.
    is_blocked: bool,
    /// True if the last read filled its buffer. The next reads then go through a pipe if both sides are plain TCP, and
    /// are larger if not.
    moves_much: bool,
    /// Present while it holds bytes that were read and not yet written.
    pipe: Option<Pipe>,
    /// The other direction failed to write to this one's source: an end of input is not a clean end.
    pub source_broke: bool,
    guard: Option<Box<SignatureGuard>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectionState {
    Open,
    /// The source has ended. Pending bytes and then the end are still to be passed on.
    Ending,
    /// The end has been passed on.
    Done,
    /// The destination accepts no more bytes.
    Broken,
    /// The destination accepts no more bytes, and the source is still read to its end.
    Discarding,
}

impl DirectionState {
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Broken | Self::Discarding)
    }
}

/// The ends of a direction while it is polled, and the buffer between them.
pub struct Flow<'a, S, D, W> {
    pub source: &'a mut S,
    pub destination: &'a mut D,
    /// Of [`BUFFER`] bytes, without content between polls.
    pub buffer: &'a mut [u8],
    /// Limits the size of reads.
    pub memory: &'a RelayShare,
    /// Called with the number of bytes of each write.
    pub wrote: W,
}

/// The failure of a direction.
pub enum Fault {
    Read,
    Write(io::ErrorKind),
    /// The first bytes are a PROXY protocol signature from a client that may not send it.
    Forbidden,
}

impl Fault {
    fn write(error: io::Error) -> Self {
        Self::Write(error.kind())
    }
}

impl Direction {
    pub fn new(guard: Option<Box<SignatureGuard>>) -> Self {
        Self {
            state: DirectionState::Open,
            pending: Vec::new(),
            is_blocked: false,
            moves_much: false,
            pipe: None,
            source_broke: false,
            guard,
        }
    }

    /// True if the direction waits for its source.
    pub fn is_reading(&self) -> bool {
        self.state == DirectionState::Discarding
            || (self.state == DirectionState::Open
                && self.pending.is_empty()
                && !self.is_blocked
                && self.pipe.is_none())
    }

    /// The memory of bytes that are read and not yet written.
    pub fn held(&self) -> usize {
        self.pending.capacity()
    }

    /// Stops passing bytes on, because the destination accepts no more.
    pub fn stop(&mut self, state: DirectionState) {
        self.state = state;
        self.discard_held();
    }

    /// Frees the memory of bytes that are read and will not be written.
    pub fn discard_held(&mut self) {
        self.pending = Vec::new();
        self.pipe = None;
    }

    pub fn is_broken(&self) -> bool {
        matches!(self.state, DirectionState::Broken | DirectionState::Discarding)
    }

    /// Moves the bytes that can be moved now. Ready when the direction has ended or failed. If the other direction has
    /// already ended (`last`), the end of a plain connection is left to its close.
    pub fn poll<S: Side, D: Side, W: FnMut(usize)>(
        &mut self,
        cx: &mut Context<'_>,
        flow: &mut Flow<'_, S, D, W>,
        last: bool,
    ) -> Poll<Result<(), Fault>> {
        let mut budget = BYTES_PER_TURN;
        loop {
            match self.state {
                DirectionState::Done | DirectionState::Broken => return Poll::Ready(Ok(())),
                DirectionState::Discarding => return self.poll_discard(cx, flow),
                DirectionState::Open | DirectionState::Ending => {}
            }
            let keeps_up = self.pending.is_empty() && !flow.destination.has_unsent();
            ready!(self.poll_drain_pipe(cx, flow))?;
            ready!(self.poll_write_pending(cx, flow))?;
            if self.state == DirectionState::Ending {
                return self.poll_pass_end_on(cx, flow.destination, last);
            }
            if budget == 0 {
                return end_turn(cx);
            }
            ready!(self.poll_send_encrypted(cx, flow.destination))?;
            let moved = match self.pipe_between(flow.source, flow.destination) {
                Some((from, pipe)) => ready!(self.poll_fill(cx, from, pipe))?,
                None => ready!(self.poll_copy(cx, flow, keeps_up))?,
            };
            budget = budget.saturating_sub(moved);
        }
    }

    /// Reads the source to its end.
    fn poll_discard<S: Side, D, W>(
        &mut self,
        cx: &mut Context<'_>,
        flow: &mut Flow<'_, S, D, W>,
    ) -> Poll<Result<(), Fault>> {
        let mut budget = BYTES_PER_TURN;
        while budget > 0 {
            let count = ready!(read(cx, flow.source, flow.buffer))?;
            if count == 0 {
                self.state = DirectionState::Done;
                return Poll::Ready(Ok(()));
            }
            budget = budget.saturating_sub(cost_of_read(flow.source, count, flow.buffer.len()));
        }
        end_turn(cx)
    }

    /// Passes the end of the source on.
    fn poll_pass_end_on(
        &mut self,
        cx: &mut Context<'_>,
        destination: &mut impl Side,
        last: bool,
    ) -> Poll<Result<(), Fault>> {
        if !last || destination.plain().is_none() {
            ready!(Pin::new(destination).poll_shutdown(cx)).map_err(Fault::write)?;
        }
        self.state = DirectionState::Done;
        Poll::Ready(Ok(()))
    }

    /// Sends all bytes that the receiver's TLS layer has encrypted: nothing more is read before that.
    #[inline]
    fn poll_send_encrypted(&mut self, cx: &mut Context<'_>, destination: &mut impl Side) -> Poll<Result<(), Fault>> {
        self.is_blocked = destination.has_unsent();
        if self.is_blocked {
            ready!(Pin::new(destination).poll_flush(cx)).map_err(Fault::write)?;
            self.is_blocked = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads into a pipe. Returns the number of bytes.
    #[inline]
    fn poll_fill(&mut self, cx: &mut Context<'_>, from: &TcpSocket, mut pipe: Pipe) -> Poll<Result<usize, Fault>> {
        let count = ready!(pipe.poll_fill(cx, from)).map_err(|_| Fault::Read)?;
        // Zero bytes may be an end or something else: the next operation is a read, which can tell.
        self.moves_much = count >= SMALL;
        if count > 0 {
            self.pipe = Some(pipe);
        }
        Poll::Ready(Ok(count))
    }

    /// Reads into the buffer and writes as much of it as the destination accepts. Returns the number of bytes that count
    /// for the turn of the connection.
    #[inline]
    fn poll_copy<S: Side, D: Side, W: FnMut(usize)>(
        &mut self,
        cx: &mut Context<'_>,
        flow: &mut Flow<'_, S, D, W>,
        keeps_up: bool,
    ) -> Poll<Result<usize, Fault>> {
        let size = self.read_size(keeps_up, flow.source, flow.memory.max_read());
        let Poll::Ready(count) = read(cx, flow.source, &mut flow.buffer[..size])? else {
            // Nothing to read: flush the TLS layer.
            ready!(Pin::new(&mut *flow.destination).poll_flush(cx)).map_err(Fault::write)?;
            return Poll::Pending;
        };
        if count == 0 {
            self.end()?;
            return Poll::Ready(Ok(0));
        }
        let full = match flow.source.plain() {
            Some(_) => size.min(READ),
            // The rest may be an incomplete TLS record.
            None => size.min(READ) / 2,
        };
        self.moves_much = count >= full;
        let chunk = &flow.buffer[..count];
        self.inspect(chunk)?;
        let now = poll_write_some(cx, flow.destination, chunk, &mut flow.wrote)?;
        self.pending.extend_from_slice(&chunk[now..]);
        Poll::Ready(Ok(cost_of_read(flow.source, count, size)))
    }

    /// The size of the next read: less for a receiver that did not accept everything the last time, and at most `most`.
    fn read_size(&self, keeps_up: bool, source: &impl Side, most: usize) -> usize {
        let size = match keeps_up {
            false => RECORD_READ,
            true if self.moves_much => BUFFER,
            true => READ,
        };
        // A TLS record is held as a whole in any case.
        size.min(if source.plain().is_some() { most } else { most.max(RECORD_READ) })
    }

    /// The source has ended.
    fn end(&mut self) -> Result<(), Fault> {
        if self.source_broke {
            return Err(Fault::Read);
        }
        self.state = DirectionState::Ending;
        Ok(())
    }

    /// The source and a pipe for its next bytes, if they are to go through one.
    fn pipe_between<'s>(&self, source: &'s impl Side, destination: &impl Side) -> Option<(&'s TcpSocket, Pipe)> {
        let from =
            source.plain().filter(|_| self.moves_much && self.guard.is_none() && destination.plain().is_some())?;
        if from.may_have_urgent_mark() { None } else { Some((from, Pipe::borrow()?)) }
    }

    #[inline]
    fn poll_drain_pipe<S, D: Side, W: FnMut(usize)>(
        &mut self,
        cx: &mut Context<'_>,
        flow: &mut Flow<'_, S, D, W>,
    ) -> Poll<Result<(), Fault>> {
        let (Some(pipe), Some(to)) = (&mut self.pipe, flow.destination.plain()) else { return Poll::Ready(Ok(())) };
        while !pipe.is_empty() {
            match ready!(pipe.poll_drain(cx, to)) {
                Ok(PipeOutput::Bytes(0)) => return Poll::Ready(Err(Fault::Write(io::ErrorKind::WriteZero))),
                Err(error) => return Poll::Ready(Err(Fault::write(error))),
                Ok(PipeOutput::Bytes(count)) => (flow.wrote)(count),
                Ok(PipeOutput::ReadBack(bytes)) => self.pending = bytes,
            }
        }
        self.pipe = None;
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn poll_write_pending<S, D: Side, W: FnMut(usize)>(
        &mut self,
        cx: &mut Context<'_>,
        flow: &mut Flow<'_, S, D, W>,
    ) -> Poll<Result<(), Fault>> {
        if self.pending.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let written = poll_write_some(cx, flow.destination, &self.pending, &mut flow.wrote)?;
        discard_front(&mut self.pending, written);
        if self.pending.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending }
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

/// Yields to the other connections of the worker. A task that wakes itself would only yield to the tasks that are ready,
/// and not to the event loop.
fn end_turn<T>(cx: &mut Context<'_>) -> Poll<T> {
    let _ = pin!(yield_now()).poll(cx);
    Poll::Pending
}

/// The number of bytes that count for the turn of a connection. With TLS, those of a read may have been in thousands of
/// small records, so it counts as if it had filled its buffer.
fn cost_of_read(source: &impl Side, count: usize, size: usize) -> usize {
    if source.plain().is_some() { count } else { size }
}

fn read(cx: &mut Context<'_>, source: &mut impl Side, buffer: &mut [u8]) -> Poll<Result<usize, Fault>> {
    let mut buffer = ReadBuf::new(buffer);
    let read = ready!(Pin::new(source).poll_read(cx, &mut buffer));
    Poll::Ready(read.map(|()| buffer.filled().len()).map_err(|_| Fault::Read))
}

/// Writes until everything is written or the destination would block; then the task is woken when it becomes writable.
fn poll_write_some(
    cx: &mut Context<'_>,
    destination: &mut impl Side,
    bytes: &[u8],
    wrote: &mut impl FnMut(usize),
) -> Result<usize, Fault> {
    let mut done = 0;
    while done < bytes.len() {
        match Pin::new(&mut *destination).poll_write(cx, &bytes[done..]) {
            Poll::Ready(Ok(0)) => return Err(Fault::Write(io::ErrorKind::WriteZero)),
            Poll::Ready(Err(error)) => return Err(Fault::write(error)),
            Poll::Ready(Ok(count)) => {
                done += count;
                wrote(count);
            }
            Poll::Pending => break,
        }
    }
    Ok(done)
}
