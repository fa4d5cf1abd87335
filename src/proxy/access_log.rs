//! The access log: one event at the end of each connection, and optionally one at its start, written by a dedicated
//! thread.
//!
//! Workers never wait for the log: events go through a bounded queue, and events that do not fit are counted.

mod ecs;
mod encoder;
mod event;
mod followers;
mod json;
mod otel;
mod queue;
#[cfg(any(test, feature = "fuzzing"))]
pub mod read_back;
mod selection;
#[cfg(test)]
mod tests;
mod text;

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

pub use self::{
    encoder::{Format, LineEncoder},
    event::{
        Attempts, ConnectFault, ConnectionId, Event, FailedEndpoint, FullConnectionId, Kind, ListenerLabel,
        ProcessIdentity,
    },
    followers::{EventFilter, Follower},
    json::schema,
    queue::QueuedEvents,
    selection::{logs_end, logs_start},
};

use self::{
    followers::Followers,
    queue::{QUEUE, QueueEntry},
};

/// The events that are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Events {
    #[default]
    Ends,
    StartsAndEnds,
    None,
}

/// The workers' end of the queue. Unless end events are off, `logged + dropped + suppressed` is the number of closed
/// connections.
#[derive(Debug)]
pub struct AccessLog {
    events: Events,
    /// `None` stops the writer.
    queue: SyncSender<Option<QueueEntry>>,
    /// The events of all load balancers in the queue.
    queued: Arc<QueuedEvents>,
    figures: Arc<Figures>,
    process: ProcessIdentity,
    followers: Arc<Followers>,
}

#[derive(Debug, Default)]
struct Figures {
    logged: AtomicU64,
    dropped: AtomicU64,
    suppressed: AtomicU64,
}

impl AccessLog {
    /// Starts the writing thread.
    pub fn start(events: Events, encoder: LineEncoder, sink: impl Write + Send + 'static) -> (Self, Writer) {
        let figures = Arc::new(Figures::default());
        let (queue, waiting) = sync_channel(QUEUE);
        let (ending, ended) = sync_channel(0);
        let process = encoder.process.clone();
        thread::Builder::new()
            .name("access-log".into())
            .spawn({
                let figures = figures.clone();
                move || {
                    write_events(&waiting, &encoder, sink, &figures);
                    drop(ending);
                }
            })
            .expect("a thread can be started");
        let (queued, followers) = Default::default();
        (Self { events, queue, queued, figures, process, followers }, Writer { ended })
    }

    /// True if end events are logged. If not, they are not counted.
    pub fn wants_ends(&self) -> bool {
        self.events != Events::None
    }

    pub fn wants_starts(&self) -> bool {
        self.events == Events::StartsAndEnds
    }

    /// Queues an event of a load balancer, which has these events in the queue. If the queue is full, or has too many
    /// events of the load balancer, drops and counts it.
    pub fn offer(&self, event: Event, own: &Arc<QueuedEvents>) {
        let ends = u64::from(matches!(event.kind, Kind::End(_)));
        let entry = QueueEntry::new(event, &self.queued, own);
        let is_queued = entry.is_some_and(|entry| self.queue.try_send(Some(entry)).is_ok());
        let count = if is_queued { &self.figures.logged } else { &self.figures.dropped };
        count.fetch_add(ends, Relaxed);
    }

    /// Counts an end event that is not offered because its kind exceeds the rate limit.
    pub fn leave_out(&self) {
        self.figures.dropped.fetch_add(1, Relaxed);
    }

    /// Counts the end of a connection that its listener does not log.
    pub fn suppress(&self) {
        self.figures.suppressed.fetch_add(1, Relaxed);
    }

    /// The process that the events name.
    pub fn process(&self) -> &ProcessIdentity {
        &self.process
    }

    pub fn has_followers(&self) -> bool {
        !self.followers.is_empty()
    }

    /// Passes an end event to its followers, whatever the log selects.
    pub fn show(&self, event: &Event) {
        self.followers.show(event);
    }

    /// Adds a reader of the end events that the filter selects. `None`: there are too many readers.
    pub fn follow(&self, filter: EventFilter) -> Option<Follower> {
        self.followers.follow(filter)
    }

    pub fn logged(&self) -> u64 {
        self.figures.logged.load(Relaxed)
    }

    pub fn dropped(&self) -> u64 {
        self.figures.dropped.load(Relaxed)
    }

    /// The ended connections that the settings of their listeners exclude.
    pub fn suppressed(&self) -> u64 {
        self.figures.suppressed.load(Relaxed)
    }
}

/// The writing thread.
#[derive(Debug)]
pub struct Writer {
    /// Disconnected when the thread ends.
    ended: Receiver<()>,
}

impl Writer {
    /// Stops the writer after the events that were offered so far. Waits at most `limit` for a sink that accepts no
    /// data, such as a pipe without a reader.
    pub fn finish(self, log: &AccessLog, limit: Duration) {
        let deadline = Instant::now() + limit;
        while let Err(TrySendError::Full(_)) = log.queue.try_send(None) {
            if Instant::now() >= deadline {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.ended.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// The maximum number of events in one write.
const BATCH: usize = 256;
/// The pause after the queue is drained, in which new events gather. A busy worker never has to wake the writer; waking
/// it would cost more than the rest of a line. A line is delayed by at most this time.
const GATHER: Duration = Duration::from_millis(5);

fn write_events(
    waiting: &Receiver<Option<QueueEntry>>,
    encoder: &LineEncoder,
    mut sink: impl Write,
    figures: &Figures,
) {
    let mut text = Vec::new();
    let mut open = true;
    while open && let Ok(first) = waiting.recv() {
        let (mut taken, mut ends) = (0, 0);
        for entry in std::iter::once(first).chain(waiting.try_iter()).take(BATCH) {
            let Some(entry) = entry else {
                open = false;
                break;
            };
            taken += 1;
            ends += u64::from(matches!(entry.event.kind, Kind::End(_)));
            encoder.write(&mut text, &entry.event);
        }
        if sink.write_all(&text).and_then(|()| sink.flush()).is_err() {
            // The sink failed (a closed pipe, a full disk): these events were counted as logged but are lost.
            figures.logged.fetch_sub(ends, Relaxed);
            figures.dropped.fetch_add(ends, Relaxed);
        }
        text.clear();
        if open && taken < BATCH {
            thread::sleep(GATHER);
        }
    }
}
