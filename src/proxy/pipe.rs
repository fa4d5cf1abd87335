//! A way for bytes from one socket to another that never leaves the kernel: splice(2) through a pipe.
//!
//! A worker lends its pipes to those of its connections that move much. One that is given back is empty: bytes of one
//! connection can never reach another.

use std::{
    cell::RefCell,
    io, mem,
    os::fd::OwnedFd,
    task::{Context, Poll, ready},
};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::{
    io::Interest,
    net::TcpStream,
    time::{Duration, Instant},
};

/// What a pipe holds at most: as much as the kernel lets anybody have (`pipe-max-size`). Through one of 64 KiB, its default,
/// bytes go at more cost than by copying.
const SIZE: usize = 1024 * 1024;
/// What it is to hold where the administrator allows less. Less than this is not worth it.
const LEAST: usize = 256 * 1024;
/// How long no pipe is opened after the kernel refused one: a user's pipes have a common limit (`pipe-user-pages-soft`).
const AFTER_REFUSAL: Duration = Duration::from_secs(10);

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { idle: Vec::new(), spare: 0, may_open: 0, refused: None }) };
}

struct Pool {
    idle: Vec<Ends>,
    /// How many nobody needed since [`close_spare`].
    spare: usize,
    /// How many more there may be.
    may_open: usize,
    /// When the kernel last did not give one.
    refused: Option<Instant>,
}

struct Ends {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// How many pipes the connections of this thread may have at a time, each with two descriptors. Without, they have none.
pub fn allow(pipes: usize) {
    POOL.with_borrow_mut(|pool| pool.may_open = pipes);
}

/// Closes the pipes that nobody needed since this was called last: others may want the memory.
pub fn close_spare() {
    POOL.with_borrow_mut(|pool| {
        let needed = pool.idle.len() - pool.spare;
        pool.may_open += pool.spare;
        pool.idle.truncate(needed);
        pool.spare = needed;
    });
}

/// A pipe that one direction of one connection has for a while.
pub struct Pipe {
    /// `None` only while it is dropped.
    ends: Option<Ends>,
    filled: usize,
}

impl Pipe {
    /// `None`: all are lent, or there is no memory for another one.
    pub fn borrow() -> Option<Self> {
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

    /// Takes in what the socket has, into an empty pipe. No bytes: it has ended.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, from: &TcpStream) -> Poll<io::Result<usize>> {
        let Some(Ends { writer, .. }) = &self.ends else { return Poll::Ready(Ok(0)) };
        loop {
            ready!(from.poll_read_ready(cx))?;
            match from.try_io(Interest::READABLE, || move_bytes(from, writer, SIZE)) {
                Ok(count) => {
                    self.filled = count;
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Passes on what is in it, or a part.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<usize>> {
        let Some(Ends { reader, .. }) = &self.ends else { return Poll::Ready(Ok(0)) };
        loop {
            ready!(to.poll_write_ready(cx))?;
            match to.try_io(Interest::WRITABLE, || move_bytes(reader, to, self.filled)) {
                Ok(count) => {
                    self.filled -= count;
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let ends = mem::take(&mut self.ends);
        let empty = self.is_empty();
        // At the end of the thread there is no pool any more.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            match ends.filter(|_| empty) {
                Some(ends) => pool.idle.push(ends),
                None => pool.may_open += 1,
            }
        });
    }
}

fn open() -> Option<Ends> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
    let sized = [SIZE, LEAST].into_iter().any(|size| fcntl_setpipe_size(&writer, size).is_ok());
    sized.then_some(Ends { reader, writer })
}

fn move_bytes(from: impl std::os::fd::AsFd, to: impl std::os::fd::AsFd, most: usize) -> io::Result<usize> {
    Ok(splice(from, None, to, None, most, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (far, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn bytes_that_were_left_behind_reach_nobody() {
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
        assert_eq!(poll_fn(|cx| pipe.poll_drain(cx, &to)).await.unwrap(), 3);
        let mut said = [0; 3];
        server.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"new");
        assert!(pipe.is_empty());
        drop(pipe);
        assert_eq!(POOL.with_borrow(|pool| (pool.idle.len(), pool.may_open)), (1, 0), "an empty one is used again");
    }

    #[test]
    fn what_nobody_needs_is_closed() {
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
    async fn an_end_and_a_reset_are_told() {
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
