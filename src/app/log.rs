//! The log of the process on standard error.
//!
//! Log entries contain names, error texts and answers from outside the program. No field can forge a line, send control
//! characters to a terminal, or have unlimited length.

mod filter;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    io::{self, IsTerminal},
    path::PathBuf,
};

use jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_appender::non_blocking::NonBlockingBuilder;
use tracing_subscriber::{
    EnvFilter,
    field::MakeExt,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Writer, debug_fn},
    },
    registry::LookupSpan,
    reload,
};

use self::filter::{FilterFile, filter_of_environment, report_environment};
use super::last_words::{Log, catch_panics};
use crate::{
    cli::{LogFormat, RunArgs},
    printable::{limited, printable, visible_json},
};

/// The maximum length of a field, in bytes.
const MAX_FIELD: usize = 8 << 10;

/// The maximum number of lines that wait to be written: those of a start with many listeners. The queue has its full size
/// from the start, 32 bytes for each line.
const MAX_WAITING_LINES: usize = 32_768;

/// The settings of the log.
#[derive(Clone, Debug)]
pub struct LogOptions {
    pub format: LogFormat,
    /// The file that selects and changes the filter.
    pub filter_file: Option<PathBuf>,
}

impl LogOptions {
    pub fn of(run: &RunArgs) -> Self {
        Self { format: run.log_format, filter_file: run.log_filter_file.clone() }
    }
}

/// Starts the log. The filter is in the file of the options, otherwise in RUST_LOG (default: info, also if it is
/// invalid). Dropping the result writes the pending lines.
///
/// A separate thread writes the log. Lines are dropped while that thread is blocked, so that a pipe without a reader
/// never blocks the code that logs.
pub fn log_to_stderr(options: &LogOptions) -> Log {
    let (stderr, guard) = NonBlockingBuilder::default().buffered_lines_limit(MAX_WAITING_LINES).finish(io::stderr());
    let mut file = options.filter_file.as_deref().map(FilterFile::new);
    let (filter, problem) = match file.as_mut().and_then(FilterFile::first) {
        Some(filter) => (filter, None),
        None => filter_of_environment(),
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_target(false);
    // The library would log its own errors to standard error, and panic if that fails: a full disk, a closed pipe.
    let log = log.log_internal_errors(false);
    match options.format {
        LogFormat::Text => {
            let log = log.with_ansi(io::stderr().is_terminal()).fmt_fields(debug_fn(write_field).delimited(" "));
            let log = log.with_filter_reloading();
            let handle = log.reload_handle();
            log.init();
            follow(file, move |filter| handle.reload(filter));
        }
        LogFormat::Json => {
            let log = log.event_format(JsonLines).with_filter_reloading();
            let handle = log.reload_handle();
            log.init();
            follow(file, move |filter| handle.reload(filter));
        }
    }
    if let Some(problem) = problem {
        report_environment(&problem);
    }
    catch_panics(options.format);
    Log(Some(guard))
}

fn follow(file: Option<FilterFile>, set: impl Fn(EnvFilter) -> Result<(), reload::Error> + Send + 'static) {
    if let Some(file) = file {
        file.follow(set);
    }
}

/// `message`, or `name=value`.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let value = format!("{value:?}");
    let value = printable(&value, MAX_FIELD);
    if field.name() == MESSAGE { writer.write_str(&value) } else { write!(writer, "{}={value}", field.name()) }
}

const MESSAGE: &str = "message";

/// A JSON object on each line: the time, the level, and the fields of the event.
struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let (time, level) = (Timestamp::now(), event.metadata().level());
        let message = fields.0.remove(MESSAGE).unwrap_or_default();
        let rest = Value::Object(fields.0).to_string();
        let rest = rest[1..].strip_suffix('}').filter(|rest| !rest.is_empty());
        let rest = rest.map(|rest| format!(",{rest}")).unwrap_or_default();
        let line = format!("{{\"time\":\"{time:.6}\",\"level\":\"{level}\",\"message\":{message}{rest}}}");
        writeln!(writer, "{}", visible_json(&line))
    }
}

/// Fields of an event, as JSON.
struct Fields(Map<String, Value>);

impl Fields {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, &*limited(value, MAX_FIELD));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}
