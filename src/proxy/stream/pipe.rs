//! Moves bytes from one socket to another within the kernel: splice(2) through a pipe.
//!
//! A worker lends its pipes to connections with much traffic. A returned pipe is empty: bytes of one connection can
//! never reach another.

use std::{
    cell::RefCell,
    io::{self, Write},
    mem,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use rustix::{
    io::{Errno, read},
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};
use tokio::time::{Duration, Instant};
use tracing::warn;

use crate::tcp::TcpSocket;

/// The capacity of a pipe: the kernel's default limit (`pipe-max-size`). A pipe of 64 KiB, the default capacity, costs
/// more than copying.
const SIZE: usize = 1024 * 1024;
/// The capacity where the administrator allows less. Pipes smaller than this are not worthwhile.
const LEAST: usize = 256 * 1024;
/// The pause after the kernel refused a pipe: all pipes of a user share a limit (`pipe-user-pages-soft`).
const AFTER_REFUSAL: Duration = Duration::from_secs(10);

/// True if splice(2) has been tried with success.
static TRIED: AtomicBool = AtomicBool::new(false);
/// True if this process does not use pipes because a required system call is refused.
static REFUSED: AtomicBool = AtomicBool::new(false);

thread_local! {
    static POOL: RefCell<PipePool> = const { RefCell::new(PipePool { idle: Vec::new(), spare: 0, may_open: 0, refused: None }) };
}

struct PipePool {
    idle: Vec<PipeEnds>,
    /// The number of pipes that were unused since the last [`close_spare`].
    spare: usize,
    /// The number of pipes that may still be opened.
    may_open: usize,
    /// The last time that the kernel refused a pipe.
    refused: Option<Instant>,
}

struct PipeEnds {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// Allows the connections of this thread this many pipes, each with two descriptors. Without this call they use none.
pub fn allow(pipes: usize) {
    POOL.with_borrow_mut(|pool| pool.may_open = pipes);
}

/// Closes the pipes that were unused since the last call, to free their memory.
pub fn close_spare() {
    POOL.with_borrow_mut(|pool| {
        let needed = pool.idle.len() - pool.spare;
        pool.may_open += pool.spare;
        pool.idle.truncate(needed);
        pool.spare = needed;
    });
}

/// A pipe that is lent to one direction of one connection.
pub struct Pipe {
    /// `None` only during drop.
    ends: Option<PipeEnds>,
    filled: usize,
}

impl Pipe {
    /// Borrows a pipe. `None`: all are lent, there is no memory for another one, or this process may not use any.
    pub fn borrow() -> Option<Self> {
        if REFUSED.load(Relaxed) {
            return None;
        }
        let ends = POOL.with_borrow_mut(|pool| {
            if let Some(ends) = pool.idle.pop() {
                pool.spare = pool.spare.min(pool.idle.len());
                return Some(ends);
            }
            if pool.may_open == 0 || pool.refused.is_some_and(|at| at.elapsed() < AFTER_REFUSAL) {
                return None;
            }
            let opened = open();
            match opened {
                Some(_) => pool.may_open -= 1,
                None => pool.refused = Some(Instant::now()),
            }
            opened
        });
        ends.map(|ends| Self { ends: Some(ends), filled: 0 })
    }

    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Moves bytes from the socket into an empty pipe. 0: nothing can be moved, and a read finds the cause: the socket
    /// has ended or is at an urgent mark, or splice(2) is refused.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, from: &TcpSocket) -> Poll<io::Result<usize>> {
        let Some(PipeEnds { writer, .. }) = &self.ends else { return Poll::Ready(Ok(0)) };
        match ready!(from.poll_read_io(cx, |socket| move_bytes(socket, writer, SIZE))) {
            Ok(count) => {
                self.filled = count;
                Poll::Ready(Ok(count))
            }
            Err(error) if is_refusal(&error) => {
                copy_from_now_on("splice", &error);
                Poll::Ready(Ok(0))
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Moves all or a part of the bytes to the socket.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpSocket) -> Poll<io::Result<PipeOutput>> {
        let Some(PipeEnds { reader, .. }) = &self.ends else { return Poll::Ready(Ok(PipeOutput::Bytes(0))) };
        match ready!(to.poll_write_io(cx, |socket| move_bytes(reader, socket, self.filled))) {
            Ok(count) => {
                self.filled -= count;
                Poll::Ready(Ok(PipeOutput::Bytes(count)))
            }
            Err(error) if is_refusal(&error) => {
                copy_from_now_on("splice", &error);
                self.read_back().map(|bytes| Poll::Ready(Ok(PipeOutput::ReadBack(bytes))))?
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Reads all bytes in the pipe.
    fn read_back(&mut self) -> io::Result<Vec<u8>> {
        let Some(PipeEnds { reader, .. }) = &self.ends else { return Ok(Vec::new()) };
        let mut bytes = vec![0; self.filled];
        while self.filled > 0 {
            let done = bytes.len() - self.filled;
            match read(reader, &mut bytes[done..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.filled -= count,
            }
        }
        Ok(bytes)
    }
}

/// The result of draining a pipe.
pub enum PipeOutput {
    /// This many bytes were moved to the receiver's socket.
    Bytes(usize),
    /// The bytes were read back, to be written normally, because splice(2) is refused.
    ReadBack(Vec<u8>),
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let ends = mem::take(&mut self.ends);
        let empty = self.is_empty();
        // At the end of the thread the pool is already dropped.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            match ends.filter(|_| empty) {
                Some(ends) => pool.idle.push(ends),
                None => pool.may_open += 1,
            }
        });
    }
}

fn open() -> Option<PipeEnds> {
    let (reader, writer) = match pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK) {
        Ok(ends) => ends,
        Err(errno) => {
            let error = io::Error::from(errno);
            if is_refusal(&error) {
                copy_from_now_on("pipe2", &error);
            }
            return None;
        }
    };
    let sized = [SIZE, LEAST].into_iter().any(|size| fcntl_setpipe_size(&writer, size).is_ok());
    let ends = sized.then_some(PipeEnds { reader, writer })?;
    if !TRIED.load(Relaxed) {
        // Without descriptors for the test, it is repeated with the next pipe.
        let (mut near, far) = UnixStream::pair().ok()?;
        near.write_all(b"?").ok()?;
        if let Err(error) = try_splice(&ends, &far) {
            copy_from_now_on("splice", &error);
            return None;
        }
        // Not earlier: other workers would use pipes during the test.
        TRIED.store(true, Relaxed);
    }
    Some(ends)
}

/// Tests splice(2) with one byte from a socket and back. A sandbox may refuse it with any error, even one that usually
/// means a broken connection.
fn try_splice(ends: &PipeEnds, socket: &UnixStream) -> io::Result<()> {
    move_bytes(socket, &ends.writer, 1)?;
    move_bytes(&ends.reader, socket, 1)?;
    Ok(())
}

/// True if the system call itself is refused. No connection breaks with any of these errors.
fn is_refusal(error: &io::Error) -> bool {
    const REFUSALS: [Errno; 4] = [Errno::NOSYS, Errno::PERM, Errno::ACCESS, Errno::INVAL];
    error.raw_os_error().is_some_and(|code| REFUSALS.iter().any(|errno| errno.raw_os_error() == code))
}

/// Stops the use of pipes in this process. Logged once.
fn copy_from_now_on(call: &str, error: &io::Error) {
    if !REFUSED.swap(true, Relaxed) {
        warn!(call, %error, "a system call is not permitted (seccomp?): large transfers are copied, which takes more \
                             CPU");
    }
}

fn move_bytes(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    Ok(splice(from, None, to, None, most, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    async fn pair() -> (TcpStream, TcpSocket) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let near = listener.accept().await.unwrap().0.into_std().unwrap();
        (far, TcpSocket::new(near).unwrap())
    }

    #[tokio::test]
    async fn bytes_read_back_from_a_pipe_are_those_that_went_in() {
        allow(1);
        let (mut client, from) = pair().await;
        client.write_all(b"to be copied").await.unwrap();
        let mut pipe = Pipe::borrow().unwrap();
        assert_eq!(poll_fn(|cx| pipe.poll_fill(cx, &from)).await.unwrap(), 12);
        assert_eq!(pipe.read_back().unwrap(), b"to be copied");
        assert!(pipe.is_empty());
    }

    #[tokio::test]
    async fn bytes_left_in_a_pipe_reach_no_other_connection() {
        allow(1);
        let ((mut client, from), (mut server, to)) = (pair().await, pair().await);
        client.write_all(b"left behind").await.unwrap();
        let mut pipe = Pipe::borrow().unwrap();
        assert!(Pipe::borrow().is_none(), "there is one only");
        assert_eq!(poll_fn(|cx| pipe.poll_fill(cx, &from)).await.unwrap(), 11);
        drop(pipe);

        client.write_all(b"new").await.unwrap();
        let mut pipe = Pipe::borrow().unwrap();
        assert_eq!(poll_fn(|cx| pipe.poll_fill(cx, &from)).await.unwrap(), 3);
        let drained = poll_fn(|cx| pipe.poll_drain(cx, &to)).await.unwrap();
        assert!(matches!(drained, PipeOutput::Bytes(3)));
        let mut received = [0; 3];
        server.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"new");
        assert!(pipe.is_empty());
        drop(pipe);
        assert_eq!(POOL.with_borrow(|pool| (pool.idle.len(), pool.may_open)), (1, 0), "an empty one is used again");
    }

    #[test]
    fn unused_pipes_are_closed() {
        let figures = || POOL.with_borrow(|pool| (pool.idle.len(), pool.may_open));
        allow(3);
        drop([(); 3].map(|()| Pipe::borrow().unwrap()));
        close_spare();
        assert_eq!(figures(), (3, 0), "all were needed since the beginning");
        drop([(); 2].map(|()| Pipe::borrow().unwrap()));
        close_spare();
        assert_eq!(figures(), (2, 1));
        close_spare();
        assert_eq!(figures(), (0, 3));
    }

    #[tokio::test]
    async fn an_end_and_a_reset_are_detected() {
        allow(1);
        let (client, from) = pair().await;
        let mut pipe = Pipe::borrow().unwrap();
        drop(client);
        assert_eq!(poll_fn(|cx| pipe.poll_fill(cx, &from)).await.unwrap(), 0);
        let (client, from) = pair().await;
        client.set_zero_linger().unwrap();
        drop(client);
        let error = poll_fn(|cx| pipe.poll_fill(cx, &from)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
