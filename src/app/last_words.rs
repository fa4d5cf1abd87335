//! Output at the end of the process, to files that may block: a pipe without a reader fills up.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, Write},
    panic,
    sync::mpsc::sync_channel,
    thread,
    time::Duration,
};

use serde_json::json;
use tracing_appender::non_blocking::WorkerGuard;

use crate::cli::LogFormat;

/// The maximum wait for standard error at the end of the process.
const LIMIT: Duration = Duration::from_millis(500);

/// Writes to standard error. It waits at most [`LIMIT`] for a blocked reader.
pub fn print_error(text: &str) {
    let text = format!("{text}\n");
    // Standard error may be closed.
    within(LIMIT, move || drop(io::stderr().write_all(text.as_bytes())));
}

/// The log on standard error. On drop, it writes pending lines if that is possible in time.
pub struct Log(pub Option<WorkerGuard>);

impl Drop for Log {
    fn drop(&mut self) {
        let guard = self.0.take();
        within(LIMIT, move || drop(guard));
    }
}

/// Writes panics in the format of the log. The hook of the standard library would wait for the reader and prevent the
/// end of the process.
pub fn catch_panics(format: LogFormat) {
    panic::set_hook(Box::new(move |panic| {
        let backtrace = Backtrace::capture();
        let name = thread::current().name().unwrap_or("unnamed").to_owned();
        let mut text = format!("thread `{name}` {panic}");
        if backtrace.status() == BacktraceStatus::Captured {
            text += &format!("\n{backtrace}");
        }
        match format {
            LogFormat::Text => print_error(&text),
            LogFormat::Json => {
                let time = format!("{:.6}", jiff::Timestamp::now());
                print_error(&json!({"time": time, "level": "ERROR", "message": text}).to_string());
            }
        }
    }));
}

/// Runs `work` on its own thread, which is abandoned after `limit`. Returns true if the work finished in time.
fn within(limit: Duration, work: impl FnOnce() + Send + 'static) -> bool {
    let (done, ended) = sync_channel::<()>(0);
    let started = thread::Builder::new().name("last-words".into()).spawn(move || {
        work();
        drop(done);
    });
    started.is_ok() && ended.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Disconnected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_writer_does_not_delay_the_end() {
        let (reader, mut writer) = io::pipe().unwrap();
        let more_than_it_holds = vec![b'x'; 2 << 20];
        assert!(!within(Duration::from_millis(50), move || drop(writer.write_all(&more_than_it_holds))));
        drop(reader);
        assert!(within(Duration::from_secs(30), || ()));
    }
}
