//! The memory of connections with a side that broke.

use super::*;
use crate::proxy::stream::pipe::{self, Pipe};

/// A side that sends nothing, and accepts some bytes and then none until it breaks.
struct BreakingReceiver {
    stream: Stream,
    accepts: usize,
    is_broken: Rc<Cell<bool>>,
}

impl AsyncRead for BreakingReceiver {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for BreakingReceiver {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_broken.get() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        match std::mem::take(&mut self.accepts) {
            0 => Poll::Pending,
            count => Poll::Ready(Ok(count)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Side for BreakingReceiver {
    fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    fn plain(&self) -> Option<&TcpSocket> {
        None
    }
}

#[tokio::test]
async fn a_direction_that_broke_holds_no_bytes() {
    let ((_client, near_client, _), (_backend, near_backend, _)) = (pair().await, pair().await);
    let (is_broken, meter) = (Rc::new(Cell::new(false)), Counts::default());
    let mut client = BreakingReceiver { stream: near_client, accepts: 1000, is_broken: is_broken.clone() };
    let mut backend = EndlessSender { stream: near_backend, sent: Rc::default() };
    let mut relayed = pin!(both_ways(&mut client, &mut backend, Deadlines::default(), None, &meter));
    assert!(futures::poll!(&mut relayed).is_pending());
    assert!(meter.memory().held() > 60_000);
    is_broken.set(true);
    assert!(futures::poll!(&mut relayed).is_pending(), "the client may still send");
    assert_eq!((meter.memory().held(), meter.to_client.get()), (0, 1000));
}

#[tokio::test]
async fn a_direction_that_discards_an_endless_stream_yields_to_others() {
    let ((_client, near_client, _), (_backend, near_backend, _)) = (pair().await, pair().await);
    let (sent, meter) = (Rc::<Cell<usize>>::default(), Counts::default());
    let mut source = EndlessSender { stream: near_client, sent: sent.clone() };
    let mut destination = BreakingReceiver { stream: near_backend, accepts: 0, is_broken: Rc::default() };
    let mut buffer = vec![0; BUFFER];
    let mut direction = Direction::new(None);
    direction.stop(DirectionState::Discarding);
    for turn in 1..=3 {
        let mut flow = Flow {
            source: &mut source,
            destination: &mut destination,
            buffer: &mut buffer,
            memory: meter.memory(),
            wrote: |_| panic!("nothing is passed on"),
        };
        let is_pending = poll_fn(|cx| Poll::Ready(direction.poll(cx, &mut flow, false).is_pending())).await;
        assert!(is_pending && sent.get() <= turn * BUFFER, "{} bytes in {turn} turns", sent.get());
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_for_a_client_that_broke_are_discarded_before_the_backend_has_got_its_own() {
    for pipes in [0, 1] {
        pipe::allow(pipes);
        with_still_clock(async {
            let mut ends = Ends::relayed(Deadlines::default()).await;
            ends.client.write_all(&vec![b'x'; UNREAD]).await.unwrap();
            while ends.moved.to_backend.get() < UNREAD {
                yield_now().await;
            }
            let Ends { client, backend, ended, moved, near: _near } = ends;
            let mut quiet = 0;
            while quiet < 100 {
                quiet = if backend.try_write(&[0; 64 << 10]).is_ok() { 0 } else { quiet + 1 };
                settled().await;
            }
            let holds_bytes = || moved.memory.held() > 0 || (pipes > 0 && Pipe::borrow().is_none());
            assert!(holds_bytes());
            let sent = (moved.to_backend.get(), moved.to_client.get());
            client.set_zero_linger().unwrap();
            drop(client);
            let deadline = std::time::Instant::now() + 30 * SECOND;
            while holds_bytes() {
                assert!(std::time::Instant::now() < deadline, "{} bytes", moved.memory.held());
                yield_now().await;
            }
            assert_eq!((moved.to_backend.get(), moved.to_client.get()), sent);
            assert_eq!(ended.get(), None, "the backend has not read yet");
        })
        .await;
    }
}

/// A side that holds bytes until a test takes them. Reads fail if it is broken.
struct DeliveringSide {
    stream: Stream,
    is_broken: bool,
    held: Rc<Cell<usize>>,
}

impl AsyncRead for DeliveringSide {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_broken { Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())) } else { Poll::Pending }
    }
}

impl AsyncWrite for DeliveringSide {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.get() > 0 { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Side for DeliveringSide {
    fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    fn plain(&self) -> Option<&TcpSocket> {
        None
    }

    fn held(&self) -> usize {
        self.held.get()
    }
}

#[tokio::test(start_paused = true)]
async fn memory_is_given_back_while_the_intact_side_gets_its_bytes() {
    for client_breaks in [true, false] {
        let ((_far_of_broken, broken, _), (_far_of_intact, intact, _)) = (pair().await, pair().await);
        let (held, meter) = (Rc::new(Cell::new(0)), Counts::default());
        let broken = DeliveringSide { stream: broken, is_broken: true, held: Rc::default() };
        let intact = DeliveringSide { stream: intact, is_broken: false, held: held.clone() };
        let (mut client, mut backend) = if client_breaks { (broken, intact) } else { (intact, broken) };
        let mut relayed = pin!(both_ways(&mut client, &mut backend, Deadlines::default(), None, &meter));
        for left in [1000, 600, 1] {
            held.set(left);
            assert!(futures::poll!(&mut relayed).is_pending());
            assert_eq!(meter.memory().held(), left);
            advance(2 * DELIVERY_TICK).await;
            settled().await;
        }
        held.set(0);
        let reason = if client_breaks { CloseReason::ClientReset } else { CloseReason::BackendReset };
        assert_eq!((relayed.await, meter.memory().held()), (reason, 0));
    }
}
