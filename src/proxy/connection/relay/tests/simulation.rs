//! Random scripts for both sides, from seeds. Invariants: no byte is lost or invented, an interrupted transfer does not
//! look complete, and deadlines are kept.

use std::{
    collections::{BTreeMap, VecDeque},
    panic::AssertUnwindSafe,
};

use futures::FutureExt;

use super::*;

const RUNS: u64 = 1500;
/// The resolution of timers is a millisecond.
const RESOLUTION: Duration = Duration::from_millis(2);

/// The actions of a side.
#[derive(Clone, Copy, Debug)]
enum Send {
    Bytes(usize),
    Pause(Duration),
    End,
    Reset,
    /// Nothing more, not even an end.
    Silence,
}

/// The steps in which a side reads; after the last one it reads everything.
#[derive(Clone, Copy, Debug)]
enum Take {
    Bytes(usize),
    Pause(Duration),
    Break,
}

struct Script {
    sends: VecDeque<Send>,
    takes: VecDeque<Take>,
    /// Distinguishes the bytes of one side from those of the other.
    seed: u64,
    sent: usize,
    has_ended: bool,
    received: Vec<u8>,
    /// True if the end of the other side was passed on.
    saw_end: bool,
    broke: bool,
    pauses: [Option<Pin<Box<Sleep>>>; 2],
    /// The underlying connection, as the relay sees it.
    stream: Stream,
}

fn byte(seed: u64, at: usize) -> u8 {
    ((at as u64 + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn paused(pause: &mut Option<Pin<Box<Sleep>>>, length: Duration, cx: &mut Context<'_>) -> Poll<()> {
    ready!(pause.get_or_insert_with(|| Box::pin(sleep(length))).as_mut().poll(cx));
    *pause = None;
    Poll::Ready(())
}

impl Script {
    fn random(random: &mut fastrand::Rng, seed: u64, stream: Stream) -> Self {
        let length = |random: &mut fastrand::Rng| {
            let most = if random.u8(..4) == 0 { 300_000 } else { 3000 };
            random.usize(1..most)
        };
        let pause = |random: &mut fastrand::Rng| Duration::from_millis(random.u64(1..3000));
        let mut sends: VecDeque<_> = (0..random.usize(..12))
            .map(|_| if random.bool() { Send::Bytes(length(random)) } else { Send::Pause(pause(random)) })
            .collect();
        sends.push_back(match random.u8(..8) {
            0 => Send::Reset,
            1 => Send::Silence,
            _ => Send::End,
        });
        let mut takes: VecDeque<_> = (0..random.usize(..12))
            .map(|_| if random.bool() { Take::Bytes(length(random)) } else { Take::Pause(pause(random)) })
            .collect();
        if random.u8(..8) == 0 {
            takes.push_back(Take::Break);
        }
        Self {
            sends,
            takes,
            seed,
            sent: 0,
            has_ended: false,
            received: Vec::new(),
            saw_end: false,
            broke: false,
            pauses: [None, None],
            stream,
        }
    }

    fn is_faultless(&self) -> bool {
        self.has_ended && !self.broke
    }

    /// Checks the bytes that this side received from the other. An end that looks clean follows all bytes.
    fn check(&self, other: &Self, looks_clean: bool) {
        assert!(self.received.len() <= other.sent, "bytes were made up");
        let matches = |(at, received): (usize, &u8)| *received == byte(other.seed, at);
        assert!(self.received.iter().enumerate().all(matches), "bytes arrive in order");
        if self.saw_end || (looks_clean && !self.broke) {
            assert!(other.has_ended, "an end was made up");
            assert_eq!(self.received.len(), other.sent, "all bytes come before a clean end");
        }
    }
}

impl AsyncRead for Script {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.sends.front().copied() {
                Some(Send::Bytes(0)) => drop(self.sends.pop_front()),
                Some(Send::Bytes(left)) => {
                    let count = left.min(buffer.remaining());
                    let bytes: Vec<u8> = (self.sent..self.sent + count).map(|at| byte(self.seed, at)).collect();
                    buffer.put_slice(&bytes);
                    self.sent += count;
                    self.sends[0] = Send::Bytes(left - count);
                    return Poll::Ready(Ok(()));
                }
                Some(Send::Pause(length)) => {
                    ready!(paused(&mut self.pauses[0], length, cx));
                    self.sends.pop_front();
                }
                Some(Send::End) => {
                    self.has_ended = true;
                    return Poll::Ready(Ok(()));
                }
                Some(Send::Reset) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                Some(Send::Silence) | None => return Poll::Pending,
            }
        }
    }
}

impl AsyncWrite for Script {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        assert!(!self.saw_end, "nothing is written behind an end");
        loop {
            match self.takes.front().copied() {
                Some(Take::Pause(length)) => {
                    ready!(paused(&mut self.pauses[1], length, cx));
                    self.takes.pop_front();
                }
                Some(Take::Break) => {
                    self.broke = true;
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
                Some(Take::Bytes(most)) => {
                    self.takes.pop_front();
                    let count = most.min(bytes.len());
                    self.received.extend_from_slice(&bytes[..count]);
                    return Poll::Ready(Ok(count));
                }
                None => {
                    self.received.extend_from_slice(bytes);
                    return Poll::Ready(Ok(bytes.len()));
                }
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.saw_end = true;
        Poll::Ready(Ok(()))
    }
}

impl Side for Script {
    fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    fn plain(&self) -> Option<&TcpSocket> {
        None
    }

    fn announces_end(&self) -> bool {
        true
    }
}

/// Counts bytes, and records the last time at which bytes moved.
struct Activity {
    memory: RelayShare,
    to_backend: Cell<usize>,
    to_client: Cell<usize>,
    last: Cell<Instant>,
}

impl Meter for Activity {
    fn memory(&self) -> &RelayShare {
        &self.memory
    }

    fn sent_to_backend(&self, bytes: usize) {
        self.to_backend.set(self.to_backend.get() + bytes);
    }

    fn sent_to_client(&self, bytes: usize) {
        self.to_client.set(self.to_client.get() + bytes);
    }

    fn active(&self, now: Instant) {
        self.last.set(now);
    }

    fn long_lived(&self, _: &Stream) {}
}

fn holds(limit: Duration, elapsed: Duration) -> bool {
    (limit..=limit + RESOLUTION).contains(&elapsed)
}

async fn run(seed: u64) -> CloseReason {
    let random = &mut fastrand::Rng::with_seed(seed);
    let (mut client_end, near_client, _) = pair().await;
    let (mut backend_end, near_backend, _) = pair().await;
    let mut client = Script::random(random, 1, near_client);
    let mut backend = Script::random(random, 1 << 32, near_backend);
    let started = Instant::now();
    let limit = |random: &mut fastrand::Rng| random.bool().then(|| Duration::from_millis(random.u64(1..6000)));
    let (idle, half_closed) = (limit(random), limit(random));
    let longest = Duration::from_millis(random.u64(1..40_000));
    let deadlines = Deadlines { idle, half_closed, end: Some(started + longest) };
    let memory = RelayShare::new(ObjectKey::new("shop", "db"), Arc::default());
    let activity = Activity { memory, to_backend: Cell::new(0), to_client: Cell::new(0), last: Cell::new(started) };
    let reason = both_ways(&mut client, &mut backend, deadlines, None, &activity).await;

    let (elapsed, silence) = (started.elapsed(), activity.last.get().elapsed());
    assert!(elapsed <= longest + RESOLUTION, "open for {elapsed:?} of {longest:?}");
    assert!(idle.is_none_or(|idle| silence <= idle + RESOLUTION), "silent for {silence:?} of {idle:?}");
    match reason {
        CloseReason::IdleTimeout => assert!(holds(idle.unwrap(), silence), "{idle:?}, after {silence:?}"),
        CloseReason::HalfClosedTimeout => {
            assert!(holds(half_closed.unwrap(), silence), "{half_closed:?}, after {silence:?}");
        }
        CloseReason::MaxDuration => assert!(holds(longest, elapsed), "{longest:?}, after {elapsed:?}"),
        CloseReason::Complete => assert!(client.is_faultless() && backend.is_faultless()),
        CloseReason::ClientReset | CloseReason::BackendReset => {}
        other => panic!("{other:?}"),
    }
    assert_eq!((activity.to_backend.get(), activity.to_client.get()), (backend.received.len(), client.received.len()));

    let Script { stream, .. } = &mut client;
    let closed_client = std::mem::replace(stream, pair().await.1);
    let closed_backend = std::mem::replace(&mut backend.stream, pair().await.1);
    drop((closed_client, closed_backend));
    let client_looks_clean = client_end.read(&mut [0]).await.is_ok();
    let backend_looks_clean = backend_end.read(&mut [0]).await.is_ok();
    client.check(&backend, client_looks_clean);
    backend.check(&client, backend_looks_clean);
    reason
}

#[tokio::test(start_paused = true)]
async fn bytes_are_conserved_and_cut_transfers_never_look_complete() {
    let mut reasons = BTreeMap::new();
    for seed in 0..RUNS {
        let outcome = AssertUnwindSafe(run(seed)).catch_unwind().await;
        let Ok(reason) = outcome else { panic!("seed {seed}") };
        *reasons.entry(reason).or_insert(0) += 1;
    }
    // The scripts lead to every kind of ending.
    for reason in [
        CloseReason::Complete,
        CloseReason::ClientReset,
        CloseReason::BackendReset,
        CloseReason::IdleTimeout,
        CloseReason::HalfClosedTimeout,
        CloseReason::MaxDuration,
    ] {
        assert!(reasons.get(&reason).is_some_and(|count| *count > 10), "{reasons:?}");
    }
}
