//! Relay tests with real sockets, and a clock that only the tests move.

mod broken;
mod resets_after_ends;
mod simulation;

use std::{
    cell::Cell,
    io,
    os::fd::{AsFd, OwnedFd},
    pin::pin,
    rc::Rc,
    sync::Arc,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    task::{LocalSet, spawn_local, yield_now},
    time::advance,
};

use super::*;
use crate::{
    model::ObjectKey,
    proxy::stream::{relay_memory::RelayMemory, undelivered::undelivered},
    tcp::TcpSocket,
};

const SECOND: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(1);

/// The far ends of a relayed connection.
struct Ends {
    client: TcpStream,
    backend: TcpStream,
    ended: Rc<Cell<Option<CloseReason>>>,
    moved: Rc<Counts>,
    /// The proxy's own sockets.
    near: Near,
}

/// The sockets are closed when this is dropped.
struct Near {
    client: OwnedFd,
    backend: OwnedFd,
}

struct Counts {
    memory: RelayShare,
    to_backend: Cell<usize>,
    to_client: Cell<usize>,
    long_lived: Cell<usize>,
}

impl Default for Counts {
    fn default() -> Self {
        Self::of(&Arc::default())
    }
}

impl Counts {
    fn of(memory: &Arc<RelayMemory>) -> Self {
        Self {
            memory: RelayShare::new(ObjectKey::new("shop", "db"), memory.clone()),
            to_backend: Cell::default(),
            to_client: Cell::default(),
            long_lived: Cell::default(),
        }
    }
}

impl Meter for Counts {
    fn memory(&self) -> &RelayShare {
        &self.memory
    }

    fn sent_to_backend(&self, bytes: usize) {
        self.to_backend.set(self.to_backend.get() + bytes);
    }

    fn sent_to_client(&self, bytes: usize) {
        self.to_client.set(self.to_client.get() + bytes);
    }

    fn active(&self, _: Instant) {}

    fn long_lived(&self, _: &Stream) {
        self.long_lived.set(self.long_lived.get() + 1);
    }
}

async fn pair() -> (TcpStream, Stream, OwnedFd) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    far.set_nodelay(true).unwrap();
    // Otherwise the kernel enlarges the buffer while data is read.
    SockRef::from(&far).set_recv_buffer_size(128 << 10).unwrap();
    let near = listener.accept().await.unwrap().0.into_std().unwrap();
    let descriptor = near.as_fd().try_clone_to_owned().unwrap();
    (far, Stream::new(TcpSocket::new(near).unwrap()), descriptor)
}

/// Relays in a task of its own, which closes the sockets.
fn relay(
    mut client: impl Side + 'static,
    mut backend: impl Side + 'static,
    deadlines: Deadlines,
) -> (Rc<Cell<Option<CloseReason>>>, Rc<Counts>) {
    let (ended, moved) = (Rc::new(Cell::new(None)), Rc::new(Counts::default()));
    let (end, meter) = (ended.clone(), moved.clone());
    spawn_local(async move {
        end.set(Some(both_ways(&mut client, &mut backend, deadlines, None, &*meter).await));
    });
    (ended, moved)
}

impl Ends {
    async fn relayed(deadlines: Deadlines) -> Self {
        let (client, near_client, client_fd) = pair().await;
        let (backend, near_backend, backend_fd) = pair().await;
        let (ended, moved) = relay(near_client, near_backend, deadlines);
        Self { client, backend, ended, moved, near: Near { client: client_fd, backend: backend_fd } }
    }

    async fn pass_up(&mut self) {
        self.client.write_all(b"?").await.unwrap();
        assert_eq!(self.backend.read_u8().await.unwrap(), b'?');
        falls_to(&self.near.backend, 0).await;
    }

    async fn pass_down(&mut self) {
        self.backend.write_all(b"!").await.unwrap();
        assert_eq!(self.client.read_u8().await.unwrap(), b'!');
        falls_to(&self.near.client, 0).await;
    }

    /// The close reason of the relay; `None`: it has not ended.
    async fn ended(&self) -> Option<CloseReason> {
        settled().await;
        self.ended.get()
    }

    /// Reads at the client until fewer bytes are undelivered to it.
    async fn read_some(&mut self) {
        let before = undelivered(&self.near.client);
        while undelivered(&self.near.client) >= before {
            let _ = self.client.try_read(&mut [0; 16 << 10]);
            yield_now().await;
        }
    }

    /// Sends to the client, which does not read, until the relay has written this many bytes.
    async fn pass_down_unread(&mut self, bytes: usize) {
        self.backend.write_all(&vec![b'x'; bytes]).await.unwrap();
        while self.moved.to_client.get() < bytes {
            yield_now().await;
        }
    }
}

/// Waits until at most this many bytes of the proxy are undelivered: the peer may acknowledge them late.
async fn falls_to(near: &impl AsFd, bytes: usize) {
    while undelivered(near) > bytes {
        yield_now().await;
    }
}

/// Lets other tasks run until they have to wait.
async fn settled() {
    for _ in 0..50 {
        yield_now().await;
    }
}

/// Runs a test with a clock that does not move by itself. A paused clock moves on when all tasks wait, as they do for
/// sockets, unless a blocking task runs.
async fn with_still_clock(test: impl Future<Output = ()>) {
    let (finished, running) = std::sync::mpsc::channel::<()>();
    let blocking = tokio::task::spawn_blocking(move || running.recv());
    LocalSet::new().run_until(test).await;
    drop(finished);
    let _ = blocking.await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_idle_when_neither_direction_moved_for_that_long() {
    with_still_clock(async {
        let mut ends = Ends::relayed(Deadlines { idle: Some(10 * SECOND), ..Deadlines::default() }).await;
        for _ in 0..5 {
            advance(9 * SECOND).await;
            ends.pass_up().await;
            advance(9 * SECOND).await;
            ends.pass_down().await;
        }
        advance(10 * SECOND - TICK).await;
        assert_eq!(ends.ended().await, None);
        advance(2 * TICK).await;
        assert_eq!(ends.ended().await, Some(CloseReason::IdleTimeout));
        drop(ends.near);
        assert_eq!(ends.client.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(ends.backend.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    })
    .await;
}

#[tokio::test]
async fn an_open_connection_has_little_room_for_its_relay() {
    let ((_, mut client, _), (_, mut backend, _)) = (pair().await, pair().await);
    let meter = Counts::default();
    let size = size_of_val(&both_ways(&mut client, &mut backend, Deadlines::default(), None, &meter));
    assert!(size <= 352, "{size} bytes");
}

#[tokio::test(start_paused = true)]
async fn a_long_lived_connection_is_reported_once() {
    with_still_clock(async {
        let mut ends = Ends::relayed(Deadlines::default()).await;
        advance(LONG_LIVED_AFTER - TICK).await;
        ends.pass_up().await;
        assert_eq!((ends.ended().await, ends.moved.long_lived.get()), (None, 0));
        for _ in 0..3 {
            advance(LONG_LIVED_AFTER).await;
            ends.pass_down().await;
            assert_eq!((ends.ended().await, ends.moved.long_lived.get()), (None, 1));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_remaining_half_has_an_idle_limit_and_no_duration_limit() {
    for client_ends in [true, false] {
        with_still_clock(async {
            let mut ends = Ends::relayed(Deadlines { half_closed: Some(10 * SECOND), ..Deadlines::default() }).await;
            advance(1000 * SECOND).await;
            ends.pass_up().await;
            // A long idle time before does not count towards the limit of the remaining direction.
            advance(1000 * SECOND).await;
            let ending = if client_ends { &mut ends.client } else { &mut ends.backend };
            ending.shutdown().await.unwrap();
            let other = if client_ends { &mut ends.backend } else { &mut ends.client };
            assert_eq!(other.read(&mut [0]).await.unwrap(), 0);
            for _ in 0..5 {
                if client_ends {
                    ends.pass_down().await
                } else {
                    ends.pass_up().await
                }
                advance(9 * SECOND).await;
                assert_eq!(ends.ended().await, None);
            }
            advance(SECOND + TICK).await;
            assert_eq!(ends.ended().await, Some(CloseReason::HalfClosedTimeout));
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_maximum_duration_ends_active_connections_too() {
    with_still_clock(async {
        let end = Some(Instant::now() + 10 * SECOND);
        let mut ends = Ends::relayed(Deadlines { end, idle: Some(20 * SECOND), ..Deadlines::default() }).await;
        for _ in 0..9 {
            advance(SECOND).await;
            ends.pass_up().await;
        }
        advance(SECOND - TICK).await;
        ends.pass_up().await;
        advance(2 * TICK).await;
        assert_eq!(ends.ended().await, Some(CloseReason::MaxDuration));
    })
    .await;
}

/// Far more than the buffers of an unread client socket, far less than those of the proxy's socket.
const UNREAD: usize = 1 << 20;

#[tokio::test(start_paused = true)]
async fn delivery_to_a_slow_reader_counts_as_activity() {
    for half_closed in [true, false] {
        with_still_clock(async {
            let silence = Some(10 * SECOND);
            let deadlines = if half_closed {
                Deadlines { half_closed: silence, ..Deadlines::default() }
            } else {
                Deadlines { idle: silence, ..Deadlines::default() }
            };
            let mut ends = Ends::relayed(deadlines).await;
            ends.pass_down_unread(UNREAD).await;
            if half_closed {
                ends.backend.shutdown().await.unwrap();
            }
            settled().await;
            for _ in 0..5 {
                advance(9 * SECOND).await;
                settled().await;
                ends.read_some().await;
                advance(2 * SECOND).await;
                assert_eq!(ends.ended().await, None);
            }
            for _ in 0..3 {
                advance(10 * SECOND + TICK).await;
                settled().await;
            }
            assert!(ends.ended().await.is_some(), "a reader that has stopped is silence");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn before_a_reset_sent_bytes_are_delivered_while_the_peer_reads() {
    with_still_clock(async {
        let mut ends = Ends::relayed(Deadlines::default()).await;
        ends.pass_down_unread(UNREAD).await;
        ends.backend.set_zero_linger().unwrap();
        ends.backend = pair().await.0;
        for _ in 0..5 {
            settled().await;
            advance(LINGER - SECOND).await;
            ends.read_some().await;
            advance(DELIVERY_TICK + TICK).await;
            assert_eq!(ends.ended().await, None);
        }
        // The client stops reading.
        advance(LINGER - SECOND).await;
        assert_eq!(ends.ended().await, None);
        advance(SECOND).await;
        settled().await;
        advance(DELIVERY_TICK + TICK).await;
        assert_eq!(ends.ended().await, Some(CloseReason::BackendReset));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_keeps_sending_to_a_closed_backend_is_reset() {
    with_still_clock(async {
        let mut ends = Ends::relayed(Deadlines::default()).await;
        ends.backend.write_all(b"no").await.unwrap();
        ends.backend.shutdown().await.unwrap();
        let Ends { mut client, backend, ended, near, .. } = ends;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"no");
        drop((backend, near));
        let begun = Instant::now();
        while ended.get().is_none() {
            let _ = client.write_all(b"more").await;
            settled().await;
            advance(SECOND / 10).await;
        }
        assert_eq!(ended.get(), Some(CloseReason::BackendReset));
        assert!((LINGER..2 * LINGER).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        assert!(client.write_all(b"more").await.is_err());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_reset_is_noticed_soon_on_a_side_that_is_not_read() {
    with_still_clock(async {
        let ends = Ends::relayed(Deadlines::default()).await;
        let Ends { client, backend, ended, .. } = ends;
        let mut quiet = 0;
        while quiet < 100 {
            quiet = if client.try_write(&[0; 64 << 10]).is_ok() { 0 } else { quiet + 1 };
            settled().await;
        }
        client.set_zero_linger().unwrap();
        drop(client);
        assert_eq!(
            {
                settled().await;
                ended.get()
            },
            None
        );
        for _ in 0..3 {
            advance(LIVENESS_INTERVAL + TICK).await;
            settled().await;
        }
        assert_eq!(ended.get(), Some(CloseReason::ClientReset));
        drop(backend);
    })
    .await;
}

/// A side with TLS. The receiver accepts nothing until the bytes are taken.
struct SlowReceiver {
    stream: Stream,
    encrypted: Rc<Cell<usize>>,
}

impl AsyncRead for SlowReceiver {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for SlowReceiver {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.encrypted.get() > 0 {
            return Poll::Pending;
        }
        self.encrypted.set(bytes.len());
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.encrypted.get() > 0 { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl Side for SlowReceiver {
    fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    fn plain(&self) -> Option<&TcpSocket> {
        None
    }

    fn has_unsent(&self) -> bool {
        self.encrypted.get() > 0
    }

    fn held(&self) -> usize {
        self.encrypted.get()
    }
}

/// A plain side that sends without end.
struct EndlessSender {
    stream: Stream,
    sent: Rc<Cell<usize>>,
}

impl AsyncRead for EndlessSender {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.sent.set(self.sent.get() + buffer.remaining());
        buffer.put_slice(&vec![b'x'; buffer.remaining()]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for EndlessSender {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Side for EndlessSender {
    fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    fn plain(&self) -> Option<&TcpSocket> {
        Some(self.stream.tcp())
    }
}

#[tokio::test]
async fn a_slow_receiver_holds_one_read_which_is_small_while_others_hold_much() {
    let memory = Arc::<RelayMemory>::default();
    let of_others = Counts::of(&memory);
    let mut others = HeldBytes::none_of(of_others.memory());
    memory.divide(usize::MAX);
    let (full, record, small) = (64 << 10, 16 << 10, 4 << 10);
    let part = 128 << 10;
    for (own, held, read) in [(0, 32 << 20, full), (part, 0, full), (part, 16 << 20, record), (part, 32 << 20, small)] {
        others.set(held);
        let ((_client, near_client, _), (_backend, near_backend, _)) = (pair().await, pair().await);
        let (encrypted, sent, meter) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)), Counts::of(&memory));
        let mut of_other_connections = HeldBytes::none_of(meter.memory());
        of_other_connections.set(own);
        let mut client = SlowReceiver { stream: near_client, encrypted: encrypted.clone() };
        let mut backend = EndlessSender { stream: near_backend, sent: sent.clone() };
        let mut relayed = pin!(both_ways(&mut client, &mut backend, Deadlines::default(), None, &meter));
        for _ in 0..3 {
            assert!(futures::poll!(&mut relayed).is_pending());
            assert_eq!((encrypted.get(), sent.get()), (read, read), "nothing is read before that is sent");
            assert_eq!((meter.memory().held(), memory.held()), (own + read, held + own + read));
        }
        encrypted.set(0);
        assert!(futures::poll!(&mut relayed).is_pending());
        assert_eq!(sent.get(), read + encrypted.get(), "the next read");
    }
}
