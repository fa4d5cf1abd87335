//! One event for each connection at its end (and on request one at its start), written by a thread of its own.
//!
//! Workers never wait for it: events go through a bounded queue, and what does not fit is counted.

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

pub use self::event::{Event, Kind, Label};
use self::{event::timestamp, text::write_text};
use crate::printable::visible_json;

/// How many events may wait to be written.
const QUEUE: usize = 8192;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `key=value` pairs.
    Text,
    /// A JSON object on each line.
    Json,
}

/// Which events are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Events {
    #[default]
    Ends,
    StartsAndEnds,
    None,
}

/// The queue's end that workers have. `logged + dropped` is the number of ends that were offered.
#[derive(Debug)]
pub struct AccessLog {
    events: Events,
    /// `None` ends the writing.
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

    /// Whether ends are wanted; if not they are neither logged nor dropped.
    pub fn wants_ends(&self) -> bool {
        self.events != Events::None
    }

    pub fn wants_starts(&self) -> bool {
        self.events == Events::StartsAndEnds
    }

    /// Offers an event; drops it, and counts that, when the writer is behind.
    pub fn offer(&self, event: Event) {
        let is_end = matches!(event.kind, Kind::End(_));
        let taken = self.queue.try_send(Some(event)).is_ok();
        match (is_end, taken) {
            (true, true) => self.figures.logged.fetch_add(1, Relaxed),
            (_, false) => self.figures.dropped.fetch_add(u64::from(is_end), Relaxed),
            (false, true) => 0,
        };
    }

    /// Counts an end that is not offered because there are too many of its kind.
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
    /// Its other end is dropped when the thread ends.
    ended: Receiver<()>,
}

impl Writer {
    /// Ends the writing after what has been offered so far. A sink that takes nothing (a pipe that nobody reads) is not
    /// waited for longer than `limit`.
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

/// How many events are written at once.
const BATCH: usize = 256;
/// How long events gather once those that waited are written. So a busy worker finds the writer awake or asleep for a
/// time, and never has to wake it, which would cost more than all the rest of a line; and a line is at most this late.
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
            // Nobody reads any more (a closed pipe, a full disk): what was counted as logged was not.
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

/// What is written of an event in JSON.
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

/// With all digits, so that times sort as text.
fn write_time<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.6}"))
}

/// To the microsecond.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e6
}
