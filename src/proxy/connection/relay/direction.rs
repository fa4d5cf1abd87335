//! One direction of a relayed connection.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use tokio::{io::ReadBuf, task::yield_now};

use super::side::Side;
use crate::proxy::{
    proxy_protocol::{Inspection, SignatureGuard},
    stream::pipe::{Pipe, PipeOutput},
};

/// The buffer of a worker's connections, and the most that is read at once.
pub const BUFFER: usize = 128 * 1024;
/// What is read at once by a direction that does not move much.
const READ: usize = 64 * 1024;
/// What is read at once for a receiver that did not take everything the last time.
const READ_UNDER_BACKPRESSURE: usize = 16 * 1024;
/// Below this a pipe that was filled by a direction that moved much makes it one that does not: small messages are copied
/// at less cost.
const SMALL: usize = 8 * 1024;
/// After this much one direction lets the other connections of the worker have their turn. What is read at once, or fills
/// a pipe, is not divided for that.
const BYTES_PER_TURN: usize = 128 * 1024;

/// One direction of a connection.
pub struct Direction {
    pub state: State,
    /// Read but not yet written; empty while the receiver keeps up.
    pending: Vec<u8>,
    /// How much of `pending` is written.
    written: usize,
    /// The last read filled what there was for it. If so the next ones go through the kernel, where both sides are plain,
    /// and are larger where not.
    moves_much: bool,
    /// While it has something that was read and not yet written.
    pipe: Option<Pipe>,
    /// The other direction failed to write to where this one reads: an end of input is not a clean one.
    pub source_broke: bool,
    guard: Option<Box<SignatureGuard>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
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
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Broken | Self::Discarding)
    }
}

/// What broke.
pub enum Fault {
    Read,
    Write,
    /// The first bytes are a PROXY protocol signature, from one who may not send it.
    Forbidden,
}

impl Direction {
    pub fn new(guard: Option<Box<SignatureGuard>>) -> Self {
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
    pub fn is_reading(&self) -> bool {
        self.state == State::Discarding || (self.state == State::Open && self.pending.is_empty() && self.pipe.is_none())
    }

    pub fn is_broken(&self) -> bool {
        matches!(self.state, State::Broken | State::Discarding)
    }

    /// Moves what can be moved now. Ready when the direction has ended or failed. The `last` one of both, the other one
    /// having ended, leaves the end of a plain connection to its closing.
    pub fn poll(
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
                // While it waits it holds no memory.
                self.pending = Vec::new();
                let count = ready!(pipe.poll_fill(cx, from)).map_err(|_| Fault::Read)?;
                // Nothing may mean an end, or something else: the next one is a read, which knows.
                self.moves_much = count >= SMALL;
                budget = budget.saturating_sub(count);
                if count > 0 {
                    self.pipe = Some(pipe);
                }
                continue;
            }
            let size = match keeps_up {
                false => READ_UNDER_BACKPRESSURE,
                true if self.moves_much => BUFFER,
                true => READ,
            };
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
            self.moves_much = count >= size.min(READ);
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
        let from =
            source.plain().filter(|_| self.moves_much && self.guard.is_none() && destination.plain().is_some())?;
        if from.may_have_urgent_mark() { None } else { Pipe::borrow() }
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
                Ok(PipeOutput::Bytes(0)) | Err(_) => return Poll::Ready(Err(Fault::Write)),
                Ok(PipeOutput::Bytes(count)) => wrote(count),
                Ok(PipeOutput::ReadBack(bytes)) => self.pending = bytes,
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
