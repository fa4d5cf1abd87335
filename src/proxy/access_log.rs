//! One event for each connection at its end (and on request one at its start), written by a thread of its own.
//!
//! Workers never wait for it: events go through a bounded queue, and what does not fit is counted.

mod text;

use std::{
    io::Write,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use jiff::{Timestamp, Unit};
use serde::Serialize;

use self::text::write_text;
use super::{accounting::CloseReason, tls::ClientTls};

/// How many events may wait to be written.
const QUEUE: usize = 8192;
/// How long the end of the process may wait for a sink.
const LAST_WRITE: Duration = Duration::from_secs(5);

/// What is known of a connection, at its end.
#[derive(Clone, Debug)]
pub struct Event {
    pub kind: Kind,
    pub at: SystemTime,
    pub listener: Arc<Label>,
    /// The other end of the TCP connection.
    pub peer: SocketAddr,
    /// The client as a PROXY header announced it; otherwise the peer.
    pub client: SocketAddr,
    pub tls: Option<Arc<ClientTls>>,
    pub endpoint: Option<SocketAddr>,
    /// How many endpoints were tried.
    pub attempts: u16,
    pub bytes_to_backend: u64,
    pub bytes_to_client: u64,
    /// From choosing the first endpoint to an established connection, failed attempts included.
    pub connect: Option<Duration>,
    pub duration: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Start,
    End(CloseReason),
}

impl Kind {
    fn label(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::End(_) => "end",
        }
    }

    fn reason(self) -> Option<&'static str> {
        match self {
            Self::Start => None,
            Self::End(reason) => Some(reason.label()),
        }
    }
}

/// How a listener is called in logs and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// `namespace/name:port`.
    pub label: Box<str>,
    pub name: Box<str>,
}

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
    /// waited for longer than [`LAST_WRITE`].
    pub fn finish(self, log: &AccessLog) {
        let deadline = Instant::now() + LAST_WRITE;
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
                // Writing to memory does not fail.
                Format::Json => drop(serde_json::to_writer(&mut text, &Line::of(&event))),
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

/// What is written of an event in JSON.
#[derive(Serialize)]
struct Line<'a> {
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
    tls_client_fault: Option<&'static str>,
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
            tls_client_fault: event.tls.as_ref().and_then(|tls| Some(tls.refused?.label())),
            endpoint: event.endpoint,
            attempts: event.attempts,
            bytes_to_backend: event.bytes_to_backend,
            bytes_to_client: event.bytes_to_client,
            connect_seconds: event.connect.map(seconds),
            duration_seconds: seconds(event.duration),
            reason: event.kind.reason(),
        }
    }
}

/// To the microsecond.
fn timestamp(at: SystemTime) -> Timestamp {
    Timestamp::try_from(at).unwrap_or_default().round(Unit::Microsecond).unwrap_or_default()
}

/// To the microsecond.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Mutex};

    use super::*;
    use crate::proxy::tls::{Agreed, Identity};

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn event(kind: Kind) -> Event {
        Event {
            kind,
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            listener: Arc::new(Label { label: "shop/pg:5432".into(), name: "pg".into() }),
            peer: "10.0.0.1:4000".parse().unwrap(),
            client: "192.0.2.7:5000".parse().unwrap(),
            tls: Some(Arc::new(ClientTls {
                server_name: Some("db.example.com".into()),
                agreed: Some(Agreed {
                    version: "TLS1.3",
                    protocol: None,
                    resumed: false,
                    identity: Some(Identity::named("O=shop, CN=\"al\nice\"")),
                }),
                refused: None,
            })),
            endpoint: Some("10.1.0.1:5432".parse().unwrap()),
            attempts: 1,
            bytes_to_backend: 7,
            bytes_to_client: 8,
            connect: Some(Duration::from_micros(1500)),
            duration: Duration::from_secs(2),
        }
    }

    fn written(format: Format, events: impl IntoIterator<Item = Event>) -> String {
        let memory = Memory::default();
        let (log, writer) = AccessLog::start(Events::StartsAndEnds, format, memory.clone());
        events.into_iter().for_each(|event| log.offer(event));
        writer.finish(&log);
        String::from_utf8(memory.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn text_lines_are_pairs() {
        assert_eq!(
            written(Format::Text, [event(Kind::End(CloseReason::Complete))]),
            "2023-11-14T22:13:20.123Z connection end listener=shop/pg:5432 name=pg peer=10.0.0.1:4000 \
             client=192.0.2.7:5000 tls_version=TLS1.3 tls_server_name=db.example.com \
             tls_client=\"O=shop, CN=\\\"al\\nice\\\"\" endpoint=10.1.0.1:5432 attempts=1 \
             bytes_to_backend=7 bytes_to_client=8 connect_seconds=0.0015 duration_seconds=2 reason=complete\n"
        );
    }

    #[test]
    fn json_lines_are_objects() {
        let text = written(Format::Json, [event(Kind::Start), event(Kind::End(CloseReason::IdleTimeout))]);
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((lines[0]["event"].as_str(), lines[0].get("reason")), (Some("start"), None));
        assert_eq!(lines[1]["reason"], "idle_timeout");
        assert_eq!(lines[1]["connect_seconds"], 0.0015);
        assert_eq!(lines[1]["tls_client"], "O=shop, CN=\"al\nice\"");
    }

    #[test]
    fn at_the_end_all_that_was_offered_is_written_in_order() {
        let offered = (0..2000).map(|number| Event { bytes_to_backend: number, ..event(Kind::Start) });
        let text = written(Format::Json, offered);
        let numbers = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        assert!(numbers.map(|line| line["bytes_to_backend"].as_u64().unwrap()).eq(0..2000));
    }

    #[test]
    fn ends_that_cannot_be_written_count_as_dropped() {
        let (log, writer) = AccessLog::start(Events::Ends, Format::Text, Broken);
        for _ in 0..1000 {
            log.offer(event(Kind::End(CloseReason::Complete)));
        }
        writer.finish(&log);
        assert_eq!((log.logged(), log.dropped()), (0, 1000));
    }
}
