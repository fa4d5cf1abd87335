//! Makes text from outside the program safe for logs, pages, statuses and terminals.
//!
//! Names, certificates, answers of servers and error texts may contain anything: line breaks and terminal sequences
//! that forge log lines, characters that change the reading order, or megabytes.

#[cfg(test)]
mod tests;

use std::{borrow::Cow, fmt::Write};

/// True if a character is displayed as itself. Control, format and unassigned characters and combining marks are not.
pub fn is_visible(c: char) -> bool {
    matches!(c, ' '..='~') || c.escape_debug().len() == 1
}

/// At most about `limit` bytes of a text, with invisible characters escaped as in Rust: `\n`, `\u{202e}`.
pub fn printable(text: &str, limit: usize) -> Cow<'_, str> {
    match limited(text, limit) {
        Cow::Borrowed(text) => escaped(text),
        Cow::Owned(text) => Cow::Owned(escaped(&text).into_owned()),
    }
}

/// Applies [`printable`] to each line of a text.
pub fn printable_lines(text: &str, limit: usize) -> String {
    let lines: Vec<_> = text.split('\n').map(|line| printable(line, limit)).collect();
    lines.join("\n")
}

/// The beginning and the end of a text that is longer than `limit` bytes, because sentences begin with quotations and
/// end with conclusions. The result is not longer than `limit`, which must be at least 3.
pub fn limited(text: &str, limit: usize) -> Cow<'_, str> {
    const GAP: &str = "…";
    if text.len() <= limit {
        return text.into();
    }
    let room = limit.saturating_sub(GAP.len());
    let (head, tail) = (room - room / 4, room / 4);
    let head = &text[..text.floor_char_boundary(head)];
    let tail = &text[text.ceil_char_boundary(text.len() - tail)..];
    format!("{head}{GAP}{tail}").into()
}

fn escaped(text: &str) -> Cow<'_, str> {
    // Most texts are ASCII, for which this is faster.
    let is_visible_ascii = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if is_visible_ascii || text.chars().all(is_visible) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_visible(c) {
            shown.push(c);
        } else {
            shown.extend(c.escape_debug());
        }
    }
    shown.into()
}

/// JSON with the same strings, in which invisible characters are escaped as `\uXXXX`.
///
/// Outside strings JSON is ASCII, and control characters below U+0020 in strings are already escaped.
pub fn visible_json(json: &str) -> Cow<'_, str> {
    let hidden = |c: char| c > '~' && !is_visible(c);
    if !json.contains(hidden) {
        return json.into();
    }
    let mut visible = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if hidden(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to memory does not fail.
                let _ = write!(visible, "\\u{unit:04x}");
            }
        } else {
            visible.push(c);
        }
    }
    visible.into()
}

/// A text in double quotes with the escapes of JSON, which logfmt parsers also support.
pub fn quoted(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    match visible_json(&json) {
        Cow::Borrowed(_) => json,
        Cow::Owned(visible) => visible,
    }
}
