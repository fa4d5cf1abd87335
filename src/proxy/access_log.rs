//! The access log: one event at the end of each connection, and optionally one at its start, written by a dedicated
//! thread.
//!
//! Workers never wait for the log: events go through a bounded queue, and events that do not fit are counted.

mod event;
#[cfg(any(test, feature = "fuzzing"))]
pub mod read_back;
#[cfg(test)]
mod tests;
mod text;

use std::{
    borrow::Cow,
    io::Write,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::{Serialize, Serializer};

pub use self::event::{Event, Kind, ListenerLabel};
use self::{event::timestamp, text::write_text};
use crate::printable::visible_json;

/// The capacity of the queue in events.
const QUEUE: usize = 8192;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `key=value` pairs.
    Text,
    /// A JSON object on each line.
    Json,
}

/// The events that are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Events {
    #[default]
    Ends,
    StartsAndEnds,
    None,
}

/// The workers' end of the queue. `logged + dropped` is the number of end events that were offered.
#[derive(Debug)]
pub struct AccessLog {
    events: Events,
    /// `None` stops the writer.
    queue: SyncSender<Option<Event>>,
    figures: Arc<Figures>,
}

#[derive(Debug, Default)]
struct Figures {
    logged: AtomicU64,
    dropped: AtomicU64,
}

impl AccessLog {
    /// Starts the writing thread.
    pub fn start(events: Events, format: Format, sink: impl Write + Send + 'static) -> (Self, Writer) {
        let figures = Arc::new(Figures::default());
        let (queue, waiting) = sync_channel(QUEUE);
        let (ending, ended) = sync_channel(0);
        thread::Builder::new()
            .name("access-log".into())
            .spawn({
                let figures = figures.clone();
                move || {
                    write_events(&waiting, format, sink, &figures);
                    drop(ending);
                }
            })
            .expect("a thread can be started");
        (Self { events, queue, figures }, Writer { ended })
    }

    /// True if end events are logged. If not, they count neither as logged nor as dropped.
    pub fn wants_ends(&self) -> bool {
        self.events != Events::None
    }

    pub fn wants_starts(&self) -> bool {
        self.events == Events::StartsAndEnds
    }

    /// Queues an event. If the queue is full, drops and counts it.
    pub fn offer(&self, event: Event) {
        let is_end = matches!(event.kind, Kind::End(_));
        let taken = self.queue.try_send(Some(event)).is_ok();
        match (is_end, taken) {
            (true, true) => self.figures.logged.fetch_add(1, Relaxed),
            (_, false) => self.figures.dropped.fetch_add(u64::from(is_end), Relaxed),
            (false, true) => 0,
        };
    }

    /// Counts an end event that is not offered because its kind exceeds the rate limit.
    pub fn leave_out(&self) {
        self.figures.dropped.fetch_add(1, Relaxed);
    }

    pub fn logged(&self) -> u64 {
        self.figures.logged.load(Relaxed)
    }

    pub fn dropped(&self) -> u64 {
        self.figures.dropped.load(Relaxed)
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

fn write_events(waiting: &Receiver<Option<Event>>, format: Format, mut sink: impl Write, figures: &Figures) {
    let mut text = Vec::new();
    let mut open = true;
    while open && let Ok(first) = waiting.recv() {
        let (mut taken, mut ends) = (0, 0);
        for event in std::iter::once(first).chain(waiting.try_iter()).take(BATCH) {
            let Some(event) = event else {
                open = false;
                break;
            };
            taken += 1;
            ends += u64::from(matches!(event.kind, Kind::End(_)));
            match format {
                Format::Text => write_text(&mut text, &event),
                Format::Json => write_json(&mut text, &event),
            }
            text.push(b'\n');
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

fn write_json(text: &mut Vec<u8>, event: &Event) {
    let start = text.len();
    // Writing to memory does not fail.
    let _ = serde_json::to_writer(&mut *text, &Line::of(event));
    let is_visible = |byte: &u8| matches!(byte, b' '..=b'~');
    if text[start..].iter().all(is_visible) {
        return;
    }
    if let Ok(Cow::Owned(visible)) = str::from_utf8(&text[start..]).map(visible_json) {
        text.truncate(start);
        text.extend_from_slice(visible.as_bytes());
    }
}

/// The JSON form of an event.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(serialize_with = "write_time")]
    time: Timestamp,
    event: &'static str,
    listener: &'a str,
    name: &'a str,
    peer: SocketAddr,
    client: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_version: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_server_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_client: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<SocketAddr>,
    attempts: u16,
    bytes_to_backend: u64,
    bytes_to_client: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_seconds: Option<f64>,
    duration_seconds: f64,
    /// Absent at the start of a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_client_fault: Option<&'static str>,
}

impl<'a> Line<'a> {
    fn of(event: &'a Event) -> Self {
        let agreed = event.tls.as_ref().and_then(|tls| tls.agreed.as_ref());
        Self {
            time: timestamp(event.at),
            event: event.kind.label(),
            listener: &event.listener.label,
            name: &event.listener.name,
            peer: event.peer,
            client: event.client,
            tls_version: agreed.map(|agreed| agreed.version),
            tls_server_name: event.tls.as_ref().and_then(|tls| tls.server_name.as_deref()),
            tls_client: agreed.and_then(|agreed| Some(&*agreed.identity.as_ref()?.subject)),
            endpoint: event.endpoint,
            attempts: event.attempts,
            bytes_to_backend: event.bytes_to_backend,
            bytes_to_client: event.bytes_to_client,
            connect_seconds: event.connect.map(seconds),
            duration_seconds: seconds(event.duration),
            reason: event.kind.reason(),
            tls_client_fault: event.tls.as_ref().and_then(|tls| Some(tls.fault?.label())),
        }
    }
}

/// Writes a time with all digits, so that times sort as text.
fn write_time<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.6}"))
}

/// A duration in seconds, to the microsecond.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e6
}
