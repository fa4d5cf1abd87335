use std::sync::{Arc, Mutex};

use tracing::{error, info, subscriber::with_default};

use super::*;

/// A name from outside: a line break and a forged line, a terminal sequence, a reordering character and a quote.
const FORGED: &str = "a\n2026-01-01T00:00:00Z ERROR forged\x1b[2J\u{9b}1m\u{202e}\"b";

#[derive(Clone, Default)]
struct LogBuffer(Arc<Mutex<Vec<u8>>>);

impl io::Write for LogBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn written(format: LogFormat, log: impl FnOnce()) -> String {
    let memory = LogBuffer::default();
    let sink = memory.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || sink.clone()).with_target(false).with_ansi(false);
    match format {
        LogFormat::Text => with_default(subscriber.fmt_fields(debug_fn(write_field).delimited(" ")).finish(), log),
        LogFormat::Json => with_default(subscriber.event_format(JsonLines).finish(), log),
    }
    String::from_utf8(memory.0.lock().unwrap().clone()).unwrap()
}

fn log_foreign_text() {
    error!(load_balancer = %FORGED, name = FORGED, listed = ?[FORGED], count = 3, "cannot read {FORGED}");
    info!("plain");
}

#[test]
fn foreign_text_forges_no_line_of_text() {
    let text = written(LogFormat::Text, log_foreign_text);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(text.chars().all(|c| c == '\n' || crate::printable::is_visible(c)), "{text:?}");
    assert!(
        lines[0].contains(r"ERROR cannot read a\n2026-01-01T00:00:00Z ERROR forged\u{1b}[2J\u{9b}1m\u{202e}"),
        "{text}"
    );
    assert!(lines[0].contains(" count=3"), "{text}");
    assert!(lines[1].ends_with(" INFO plain"), "{text}");
}

#[test]
fn foreign_text_keeps_its_value_in_json() {
    let text = written(LogFormat::Json, log_foreign_text);
    assert!(text.chars().all(|c| c == '\n' || crate::printable::is_visible(c)), "{text:?}");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!((&lines[0]["level"], &lines[0]["count"]), (&Value::from("ERROR"), &Value::from(3)));
    assert_eq!(lines[0]["message"], format!("cannot read {FORGED}"));
    assert_eq!((&lines[0]["load_balancer"], &lines[0]["name"]), (&Value::from(FORGED), &Value::from(FORGED)));
    assert_eq!(lines[1]["message"], "plain");
    assert!(lines[1]["time"].as_str().unwrap().parse::<Timestamp>().is_ok(), "{text}");
}

#[test]
fn a_field_has_a_bounded_length() {
    let long = "x".repeat(20_000_000);
    for format in [LogFormat::Text, LogFormat::Json] {
        let text = written(format, || error!(name = %long, kind = long, "no such object: {long}; last words"));
        assert!(text.len() < 4 * MAX_FIELD, "{}", text.len());
        assert!(text.contains("no such object: xxx") && text.contains("xxx; last words"));
    }
}
