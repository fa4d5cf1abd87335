//! Classification of ended connections.

use std::{
    fmt,
    time::{Duration, Instant},
};

use super::{
    access_log::LogEntry,
    backends,
    record::{ClientEnd, ClientRecord},
    timeline::Timeline,
};

/// The time for which connections may still reach a killed backend, before tcplb detects the kill.
const KILL_GRACE: Duration = Duration::from_secs(1);
/// The time after which an edit must be in effect, on a busy machine.
const EDIT_GRACE: Duration = Duration::from_secs(10);

/// An expected end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndClass {
    Complete,
    ResetByClient,
    /// The backend of the connection was killed.
    BackendKilled,
    /// The connection was refused while its listener was removed.
    Refused,
    /// The connection was in the accept queue of a listener that was removed.
    NotAccepted,
}

impl fmt::Display for EndClass {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Complete => "complete",
            Self::ResetByClient => "reset by the client",
            Self::BackendKilled => "backend killed",
            Self::Refused => "refused",
            Self::NotAccepted => "not accepted",
        })
    }
}

/// Compares a connection with its line of the access log and with the disturbances of the run. The error is the
/// difference. `None`: the access log has no line.
pub fn classify(record: &ClientRecord, entry: Option<&LogEntry>, timeline: &Timeline) -> Result<EndClass, String> {
    if let ClientEnd::Corrupt(difference) = &record.end {
        return Err(format!("corrupt data: {difference}"));
    }
    let Some(entry) = entry else { return unlogged(record, timeline) };
    effective_edits(record, timeline)?;
    if let Some(backend) = record.backend
        && entry.endpoint != Some(backends::address(backend.backend))
    {
        return Err(format!(
            "endpoint mismatch: the client reached backend {}, the access log has {:?}",
            backend.backend, entry.endpoint
        ));
    }
    let killed = backend_killed(record, entry, timeline);
    match (&record.end, &*entry.reason) {
        (ClientEnd::Complete, "complete") => exact_counts(record, entry).map(|()| EndClass::Complete),
        (ClientEnd::Reset, "client_reset") => Ok(EndClass::ResetByClient),
        _ if killed => Ok(EndClass::BackendKilled),
        (end, reason) => Err(format!("{end:?} with the reason {reason}, and its backend was not killed")),
    }
}

fn unlogged(record: &ClientRecord, timeline: &Timeline) -> Result<EndClass, String> {
    let was_absent = timeline.was_absent(&record.balancer.name, record.opened, record.ended);
    match &record.end {
        ClientEnd::Refused if was_absent => Ok(EndClass::Refused),
        ClientEnd::Failed(_) if was_absent && record.backend.is_none() => Ok(EndClass::NotAccepted),
        end => Err(format!("{end:?} without a line in the access log")),
    }
}

/// True if the backend of this connection was killed while the connection was open.
fn backend_killed(record: &ClientRecord, entry: &LogEntry, timeline: &Timeline) -> bool {
    let from = record.opened - KILL_GRACE;
    match record.backend {
        Some(incarnation) => timeline.was_killed(from, record.ended, |killed| killed == incarnation),
        // The backend was killed before its first line arrived.
        None => entry
            .endpoint
            .and_then(backends::at)
            .is_some_and(|backend| timeline.was_killed(from, record.ended, |killed| killed.backend == backend)),
    }
}

fn exact_counts(record: &ClientRecord, entry: &LogEntry) -> Result<(), String> {
    let (logged, counted) = ((entry.bytes_to_backend, entry.bytes_to_client), (record.sent, record.received));
    if logged == counted { Ok(()) } else { Err(format!("bytes sent and received: {counted:?}, logged: {logged:?}")) }
}

/// Fails if a connection used an endpoint or a certificate that had been replaced long before.
fn effective_edits(record: &ClientRecord, timeline: &Timeline) -> Result<(), String> {
    let name = &record.balancer.name;
    let is_late = |edit: Option<Instant>| edit.is_some_and(|at| at + EDIT_GRACE < record.opened);
    if let Some(backend) = record.backend
        && is_late(timeline.endpoint_removed_at(name, backend.backend))
    {
        return Err(format!("a new connection to the removed endpoint {}", backend.backend));
    }
    if let Some(version) = record.certificate
        && is_late(timeline.certificate_replaced_at(name, version))
    {
        return Err(format!("a new connection with the replaced certificate version {version}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
