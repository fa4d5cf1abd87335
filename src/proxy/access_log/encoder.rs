//! The formats of the log.

use std::borrow::Cow;

use super::{
    ecs::write_ecs,
    event::{Event, ProcessIdentity},
    json::write_json,
    otel::write_otel,
    text::write_text,
};
use crate::printable::visible_json;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `key=value` pairs.
    Text,
    /// A JSON object on each line.
    Json,
    /// A JSON object with the fields of the [Elastic Common Schema](https://www.elastic.co/docs/reference/ecs).
    Ecs,
    /// `LogsData` in the [JSON encoding of OTLP](https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding).
    Otel,
}

/// Writes events as lines.
#[derive(Clone, Debug)]
pub struct LineEncoder {
    pub format: Format,
    pub process: ProcessIdentity,
}

impl LineEncoder {
    /// Appends one line.
    pub fn write(&self, text: &mut Vec<u8>, event: &Event) {
        let start = text.len();
        match self.format {
            Format::Text => write_text(text, event, &self.process),
            Format::Json => write_json(text, event, &self.process),
            Format::Ecs => write_ecs(text, event, &self.process),
            Format::Otel => write_otel(text, event, &self.process),
        }
        if self.format != Format::Text {
            make_visible(text, start);
        }
        text.push(b'\n');
    }
}

/// Escapes the invisible characters of the JSON after `start`.
fn make_visible(text: &mut Vec<u8>, start: usize) {
    let is_visible = |byte: &u8| matches!(byte, b' '..=b'~');
    if text[start..].iter().all(is_visible) {
        return;
    }
    if let Ok(Cow::Owned(visible)) = str::from_utf8(&text[start..]).map(visible_json) {
        text.truncate(start);
        text.extend_from_slice(visible.as_bytes());
    }
}
