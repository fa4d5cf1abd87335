//! Matches each client connection with its line of the access log.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::{
    access_log::LogEntry,
    classify::{EndClass, classify},
    failures::FailureLog,
    record::{ClientEnd, ClientKind, ClientRecord},
    timeline::Timeline,
    transport::Transport,
};

/// The time after which the line of an ended connection must have arrived, on a busy machine.
const LINE_TIMEOUT: Duration = Duration::from_secs(20);
/// The time after which the client of a logged connection must have noticed its end.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(90);

/// The numbers of connections that ended as expected.
pub type ClassCounts = BTreeMap<(ClientKind, Transport, EndClass), u64>;

/// The load balancer, and the client's address.
type ConnectionKey = (String, SocketAddr);

/// All connections of a run. Each has one record of its client and one line of the access log.
pub struct Accounting {
    timeline: Arc<Timeline>,
    failures: Arc<FailureLog>,
    state: Mutex<AccountingState>,
}

#[derive(Default)]
struct AccountingState {
    records: HashMap<ConnectionKey, ClientRecord>,
    entries: HashMap<ConnectionKey, (LogEntry, Instant)>,
    classes: ClassCounts,
    /// The lines of each load balancer.
    lines: HashMap<String, u64>,
}

impl Accounting {
    pub fn new(timeline: Arc<Timeline>, failures: Arc<FailureLog>) -> Self {
        Self { timeline, failures, state: Mutex::default() }
    }

    /// Adds an ended connection of a client.
    pub fn add_record(&self, record: ClientRecord) {
        let mut state = self.state.lock().unwrap();
        if record.end == ClientEnd::Refused {
            return self.classify(&mut state, &record, None);
        }
        let key = (record.balancer.name.clone(), record.local);
        match state.entries.remove(&key) {
            Some((entry, _)) => self.classify(&mut state, &record, Some(&entry)),
            None => {
                if let Some(unmatched) = state.records.insert(key, record) {
                    self.classify(&mut state, &unmatched, None);
                }
            }
        }
    }

    /// Adds a line of the access log.
    pub fn add_entry(&self, entry: LogEntry) {
        let mut state = self.state.lock().unwrap();
        *state.lines.entry(entry.balancer().into()).or_default() += 1;
        let key = (entry.balancer().into(), entry.peer);
        match state.records.remove(&key) {
            Some(record) => self.classify(&mut state, &record, Some(&entry)),
            None => {
                if let Some((unmatched, _)) = state.entries.insert(key, (entry, Instant::now())) {
                    self.failures.add(&format!("two lines of the access log for one connection: {unmatched:?}"));
                }
            }
        }
    }

    /// Classifies connections whose counterpart is overdue.
    pub fn sweep(&self) {
        let (now, mut state) = (Instant::now(), self.state.lock().unwrap());
        let overdue = |record: &ClientRecord| record.ended + LINE_TIMEOUT < now;
        let records: Vec<_> = state.records.extract_if(|_, record| overdue(record)).collect();
        for (_, record) in records {
            self.classify(&mut state, &record, None);
        }
        for (_, (entry, _)) in state.entries.extract_if(|_, (_, at)| *at + CLIENT_TIMEOUT < now) {
            self.failures.add(&format!("a line of the access log without a client: {entry:?}"));
        }
    }

    /// The numbers of records and lines without their counterparts.
    pub fn unmatched(&self) -> (usize, usize) {
        let state = self.state.lock().unwrap();
        (state.records.len(), state.entries.len())
    }

    /// The lines of the access log of one load balancer.
    pub fn lines_of(&self, balancer: &str) -> u64 {
        self.state.lock().unwrap().lines.get(balancer).copied().unwrap_or_default()
    }

    /// The numbers of classified connections.
    pub fn classes(&self) -> ClassCounts {
        self.state.lock().unwrap().classes.clone()
    }

    fn classify(&self, state: &mut AccountingState, record: &ClientRecord, entry: Option<&LogEntry>) {
        match classify(record, entry, &self.timeline) {
            Ok(class) => {
                *state.classes.entry((record.kind, record.balancer.variant.transport, class)).or_default() += 1
            }
            Err(difference) => self.failures.add(&self.describe(record, entry, &difference)),
        }
    }

    fn describe(&self, record: &ClientRecord, entry: Option<&LogEntry>, difference: &str) -> String {
        let (opened, ended) = (self.timeline.seconds(record.opened), self.timeline.seconds(record.ended));
        let backend = record.backend.map(|backend| backend.backend);
        let backend = backend.or_else(|| super::backends::at(entry?.endpoint?));
        format!(
            "{}: {} connection of {}, open from {opened:.3} to {ended:.3} s, backend {}, sent {}, received {}: \
             {difference}. {}",
            record.balancer.name,
            record.kind,
            record.local,
            backend.map_or("unknown".into(), |backend| backend.to_string()),
            record.sent,
            record.received,
            self.timeline.nearest(record.ended, &record.balancer.name),
        )
    }
}
