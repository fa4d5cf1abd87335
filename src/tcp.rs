//! A TCP connection on the event loop of its task.
//!
//! tokio's own socket takes a short read as a sign that the socket is empty. But Linux ends a read at a TCP urgent
//! mark, even if more data is queued behind it. This socket also registers for urgent data. It therefore knows without
//! a system call if a short read, or a splice(2) that moves nothing, may be caused by a mark.

pub mod accept;

use std::{
    io::{self, IoSlice, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::FutureExt;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd};

/// A connected, non-blocking socket. Urgent bytes arrive in line with the others (RFC 6093, section 6).
#[derive(Debug)]
pub struct TcpSocket(AsyncFd<TcpStream>);

impl TcpSocket {
    /// Registers a non-blocking socket with the running event loop.
    pub fn new(socket: TcpStream) -> io::Result<Self> {
        let all = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        Ok(Self(register(socket, all)?))
    }

    /// Deregisters the socket.
    pub fn into_std(self) -> TcpStream {
        self.0.into_inner()
    }

    /// Waits until a pending connection is established.
    pub async fn connected(&self) -> io::Result<()> {
        // Only a failed connection has an error to query. For others it would be an unnecessary system call.
        if self.0.writable().await?.ready().is_write_closed()
            && let Some(error) = self.0.get_ref().take_error()?
        {
            return Err(error);
        }
        Ok(())
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.get_ref().local_addr()
    }

    /// Makes closing the socket send a reset.
    pub fn set_zero_linger(&self) -> io::Result<()> {
        SockRef::from(&self.0).set_linger(Some(std::time::Duration::ZERO))
    }

    /// True if an urgent mark may not have been passed yet. A read or a splice(2) ends there, although more data may be
    /// queued.
    pub fn may_have_urgent_mark(&self) -> bool {
        // Neither check is a system call. The first one is also true at the end of the peer's data, and shows if the
        // second one has an answer at once.
        self.0.try_io(Interest::PRIORITY, |_| Ok(())).is_ok()
            && self
                .0
                .ready(Interest::PRIORITY)
                .now_or_never()
                .is_some_and(|ready| ready.is_ok_and(|ready| ready.ready().is_priority()))
    }

    /// Runs an operation that reads from the socket when it is ready.
    pub fn poll_read_io<R>(
        &self,
        cx: &mut Context<'_>,
        mut operation: impl FnMut(BorrowedFd<'_>) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            if let Ok(outcome) = guard.try_io(|socket| operation(socket.as_fd())) {
                return Poll::Ready(outcome);
            }
        }
    }

    /// Runs an operation that writes to the socket when it is ready.
    pub fn poll_write_io<R>(
        &self,
        cx: &mut Context<'_>,
        mut operation: impl FnMut(BorrowedFd<'_>) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            if let Ok(outcome) = guard.try_io(|socket| operation(socket.as_fd())) {
                return Poll::Ready(outcome);
            }
        }
    }

    /// Reads past an urgent mark. `None`: there is no mark. Only a read that finds the socket empty proves that the
    /// mark was passed, and clears the readiness.
    fn read_past_mark(&self, buffer: &mut [u8]) -> Option<io::Result<usize>> {
        if !self.may_have_urgent_mark() {
            return None;
        }
        let mut outcome = None;
        let _ = self.0.try_io(Interest::PRIORITY, |mut socket| {
            // Accepted sockets inherit the option from the listening socket. Others get it here.
            let _ = SockRef::from(socket).set_out_of_band_inline(true);
            let read = socket.read(buffer);
            let is_empty = read.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
            outcome = Some(read);
            if is_empty { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        outcome
    }
}

/// Registers a non-blocking listening socket with the running event loop.
pub fn listening(socket: TcpListener) -> io::Result<AsyncFd<TcpListener>> {
    register(socket, Interest::READABLE)
}

#[expect(
    deprecated,
    reason = "its unsafe successor is for types that may change their descriptor, which sockets do not"
)]
fn register<S: AsRawFd>(socket: S, interest: Interest) -> io::Result<AsyncFd<S>> {
    AsyncFd::with_interest(socket, interest)
}

impl AsFd for TcpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsyncRead for TcpSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let space = buffer.initialize_unfilled();
            let past_mark = self.read_past_mark(space);
            let is_ordinary = past_mark.is_none();
            match past_mark.unwrap_or_else(|| self.0.get_ref().read(space)) {
                Ok(count) => {
                    // Without a mark, a short read means that the socket is empty.
                    if is_ordinary && 0 < count && count < space.len() {
                        guard.clear_ready();
                    }
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for TcpSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            match self.0.get_ref().write(bytes) {
                Ok(count) => {
                    // A short write means that the socket is full.
                    if 0 < count && count < bytes.len() {
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            if let Ok(outcome) = guard.try_io(|socket| socket.get_ref().write_vectored(slices)) {
                return Poll::Ready(outcome);
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0.get_ref().shutdown(Shutdown::Write) {
            // The peer has reset the connection. The next read reports it.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            outcome => Poll::Ready(outcome),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::timeout,
    };

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    /// The far end, and the near end as a socket accepted with SO_OOBINLINE or connected without it.
    fn pair(inline: bool) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        SockRef::from(&listener).set_out_of_band_inline(inline).unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let (far, near) = if inline { (dialled, accepted) } else { (accepted, dialled) };
        near.set_nonblocking(true).unwrap();
        far.set_nodelay(true).unwrap();
        (far, near)
    }

    async fn read_exactly(socket: &mut TcpSocket, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        timeout(TIMEOUT, socket.read_exact(&mut bytes)).await.expect("all that was sent arrives").unwrap();
        bytes
    }

    #[test]
    fn accepted_sockets_inherit_inline_urgent_bytes() {
        let (_far, near) = pair(true);
        assert!(SockRef::from(&near).out_of_band_inline().unwrap());
    }

    #[tokio::test]
    async fn bytes_queued_behind_an_urgent_mark_are_read_without_further_events() {
        for inline in [true, false] {
            let (mut far, near) = pair(inline);
            far.write_all(b"abc").unwrap();
            SockRef::from(&far).send_out_of_band(b"!").unwrap();
            far.write_all(b"def").unwrap();
            let mut socket = TcpSocket::new(near).unwrap();
            assert_eq!(read_exactly(&mut socket, 7).await, b"abc!def", "inline: {inline}");
            assert!(timeout(Duration::from_millis(20), socket.read_u8()).await.is_err(), "no end, and nothing more");
            assert!(!socket.may_have_urgent_mark());
        }
    }

    #[tokio::test]
    async fn each_of_several_urgent_marks_is_passed_as_it_comes() {
        for inline in [true, false] {
            let (mut far, near) = pair(inline);
            let mut socket = TcpSocket::new(near).unwrap();
            for round in 0..20_u8 {
                far.write_all(&[round]).unwrap();
                SockRef::from(&far).send_out_of_band(&[round + 100]).unwrap();
                far.write_all(&[round + 200]).unwrap();
                assert_eq!(read_exactly(&mut socket, 3).await, [round, round + 100, round + 200], "inline: {inline}");
            }
            drop(far);
            assert_eq!(socket.read(&mut [0]).await.unwrap(), 0);
        }
    }

    #[tokio::test]
    async fn an_end_behind_an_urgent_byte_is_an_end() {
        let (far, near) = pair(false);
        SockRef::from(&far).send_out_of_band(b"!").unwrap();
        drop(far);
        let mut socket = TcpSocket::new(near).unwrap();
        let mut received = Vec::new();
        timeout(TIMEOUT, socket.read_to_end(&mut received)).await.unwrap().unwrap();
        assert_eq!(received, b"!");
    }

    #[tokio::test]
    async fn a_reader_that_falls_behind_stops_the_writer_until_it_reads() {
        const LENGTH: usize = 8 << 20;
        let (mut far, near) = pair(true);
        let mut socket = TcpSocket::new(near).unwrap();
        let reader = std::thread::spawn(move || {
            let (mut received, mut buffer) = (0, vec![0; 64 << 10]);
            while let Ok(count @ 1..) = far.read(&mut buffer) {
                received += count;
            }
            received
        });
        timeout(TIMEOUT, socket.write_all(&vec![7; LENGTH])).await.unwrap().unwrap();
        socket.shutdown().await.unwrap();
        assert_eq!(reader.join().unwrap(), LENGTH);
    }
}
