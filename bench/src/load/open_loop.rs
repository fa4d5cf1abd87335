//! Messages at a fixed rate, independent of the answers. Latency counts from the time at which a message is due, so it
//! includes the wait behind other messages and for sending.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{
    io::AsyncReadExt,
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::yield_now,
};

use super::{
    Load, Progress,
    client::{MESSAGE, message},
};

/// The latency of each answered message, in microseconds.
#[derive(Default)]
pub struct Latencies(Mutex<Vec<f64>>);

impl Latencies {
    pub fn take(&self) -> Vec<f64> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    fn record(&self, took: Duration) {
        self.0.lock().unwrap().push(took.as_secs_f64() * 1e6);
    }
}

/// The sent messages with their due times.
type Sent = Arc<Mutex<VecDeque<(Instant, [u8; MESSAGE])>>>;

/// Adds clients that send this number of messages per second, in turn on these connections.
pub fn send(load: &mut Load, connections: Vec<TcpStream>, rate: f64) -> Arc<Latencies> {
    let latencies = Arc::new(Latencies::default());
    let mut senders = Vec::new();
    for connection in connections {
        let (reading, writing) = connection.into_split();
        let sent = Sent::default();
        senders.push((writing, sent.clone()));
        let latencies = latencies.clone();
        load.add(async move |progress| {
            if let Err(error) = receive(reading, &sent, &latencies, &progress).await {
                progress.failed("an answer", &error);
            }
        });
    }
    load.add(async move |progress| {
        if let Err(error) = pace(senders, rate, &progress).await {
            progress.failed("a message could not be sent", &error);
        }
    });
    latencies
}

/// Waits by busy polling, because the resolution of timers is too coarse. The core is reserved for it.
async fn pace(senders: Vec<(OwnedWriteHalf, Sent)>, rate: f64, progress: &Progress) -> io::Result<()> {
    let (start, mut turns) = (Instant::now(), senders.iter().cycle());
    let mut count = 0_u64;
    while !progress.is_ending() {
        let due = start + Duration::from_secs_f64(count as f64 / rate);
        if due > Instant::now() {
            yield_now().await;
            continue;
        }
        let (writing, sent) = turns.next().expect("there are connections");
        let message = message();
        sent.lock().unwrap().push_back((due, message));
        // If a socket cannot take 64 bytes, the contender is far behind.
        if writing.try_write(&message)? < MESSAGE {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        count += 1;
    }
    // The receivers wait for the end of the connections. Closing one before its answer arrives may lose the answer.
    while senders.iter().any(|(_, sent)| !sent.lock().unwrap().is_empty()) {
        yield_now().await;
    }
    Ok(())
}

async fn receive(
    mut reading: OwnedReadHalf,
    sent: &Sent,
    latencies: &Latencies,
    progress: &Progress,
) -> io::Result<()> {
    let mut answer = [0; MESSAGE];
    loop {
        match reading.read_exact(&mut answer).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && progress.is_ending() => return Ok(()),
            other => other?,
        };
        let (due, message) = sent.lock().unwrap().pop_front().ok_or(io::ErrorKind::InvalidData)?;
        if answer != message {
            return Err(io::Error::other("other bytes came back than were sent"));
        }
        latencies.record(due.elapsed());
        progress.done();
    }
}
