//! Removes the texts of health checks wherever they are repeated: in failures, statuses and logs. Pure.

use std::{cmp::Reverse, collections::BTreeSet};

use serde_json::Value;

use super::redact::{CHECK_TEXTS, REMOVED};
use crate::api::HexBytes;

/// The minimum length of a text, in characters. Shorter ones occur in ordinary words.
const MIN_LENGTH: usize = 4;
/// The maximum length of the bytes that the failure of a probe quotes.
const MAX_QUOTED: usize = 120;
/// Stands for hidden texts in snapshots.
const HIDDEN: &str = "(hidden)";

/// The texts that health checks send and expect, and the values of their headers.
#[derive(Default)]
pub struct SecretTexts(
    /// The longest come first, because a text may contain another one.
    BTreeSet<(Reverse<usize>, String)>,
);

impl SecretTexts {
    /// Adds the texts of all checks in a spec or a snapshot.
    pub fn add_checks(&mut self, document: &Value) {
        match document {
            Value::Object(map) => {
                for (key, value) in map {
                    if CHECK_TEXTS.contains(&key.as_str()) {
                        self.add_texts(value);
                    } else {
                        self.add_checks(value);
                    }
                }
            }
            Value::Array(list) => list.iter().for_each(|item| self.add_checks(item)),
            _ => {}
        }
    }

    /// Adds `{text: …}`, `{hex: …}`, the values of headers, or an escaped text.
    fn add_texts(&mut self, value: &Value) {
        match value {
            Value::Object(bytes) => {
                if let Some(text) = bytes.get("text").and_then(Value::as_str) {
                    self.add_bytes(text.as_bytes());
                }
                if let Some(hex) = bytes.get("hex").and_then(Value::as_str) {
                    self.add(hex);
                    if let Ok(HexBytes(bytes)) = hex.parse::<HexBytes>() {
                        self.add_bytes(&bytes);
                    }
                }
            }
            // The headers of snapshots are names.
            Value::Array(headers) => {
                let values = headers.iter().filter_map(|header| header["value"].as_str());
                values.for_each(|value| self.add_bytes(value.as_bytes()));
            }
            // Snapshots of replicas with an older version contain the expected text.
            Value::String(text) if text != HIDDEN => self.add_escaped(text),
            _ => {}
        }
    }

    /// Adds a text in all forms in which it is written.
    fn add_bytes(&mut self, bytes: &[u8]) {
        if let Ok(text) = str::from_utf8(bytes) {
            self.add(text);
        }
        let trimmed = bytes.trim_ascii_end();
        self.add_escaped(&bytes.escape_ascii().to_string());
        self.add_escaped(&trimmed[..trimmed.len().min(MAX_QUOTED)].escape_ascii().to_string());
    }

    /// Adds an escaped text, which ends with escaped line breaks, and its form in the failures of probes.
    fn add_escaped(&mut self, escaped: &str) {
        let mut line = escaped;
        while let Some(shorter) = line.strip_suffix("\\r").or_else(|| line.strip_suffix("\\n")) {
            line = shorter;
        }
        self.add(line);
        self.add(&line.replace("\\'", "'").replace("\\\"", "\""));
    }

    /// Adds a text, also as it is written in JSON.
    fn add(&mut self, text: &str) {
        let text = text.trim();
        let quoted = Value::from(text).to_string();
        for form in [text, &quoted[1..quoted.len() - 1]] {
            if form.chars().count() >= MIN_LENGTH {
                self.0.insert((Reverse(form.len()), form.to_owned()));
            }
        }
    }

    /// Removes the texts from the strings of a document.
    pub fn json(&self, value: &mut Value) {
        match value {
            Value::Object(map) => map.values_mut().for_each(|value| self.json(value)),
            Value::Array(list) => list.iter_mut().for_each(|item| self.json(item)),
            Value::String(text) => *text = self.text(text),
            _ => {}
        }
    }

    /// A text without the texts.
    pub fn text(&self, text: &str) -> String {
        let mut kept = text.to_owned();
        for (_, secret) in &self.0 {
            if kept.contains(secret.as_str()) {
                kept = kept.replace(secret.as_str(), REMOVED);
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secrets() -> SecretTexts {
        let mut secrets = SecretTexts::default();
        secrets.add_checks(&json!({"healthCheck": {"active": {
            "exchange": {"send": {"text": "AUTH \"hunter2\"\r\n"}, "expect": {"hex": "2b68696464656e"}},
            "http": {"path": "/ready", "headers": [{"name": "Authorization", "value": "opensesame"}]},
        }}}));
        secrets.add_checks(&json!({"probe": {"exchange": {"send": HIDDEN, "expect": "+OLD\\r\\n"}}}));
        secrets
    }

    #[test]
    fn texts_of_checks_are_removed_in_all_forms() {
        let secrets = secrets();
        for (text, expected) in [
            ("sent `AUTH \"hunter2\"`", "sent `<removed>`"),
            (r#"{"reason":"sent `AUTH \"hunter2\"`"}"#, r#"{"reason":"sent `<removed>`"}"#),
            ("answered nothing, expected `+hidden`", "answered nothing, expected `<removed>`"),
            ("hex: 2b68696464656e", "hex: <removed>"),
            ("Authorization: opensesame", "Authorization: <removed>"),
            ("expected `+OLD`", "expected `<removed>`"),
            ("GET /ready (hidden)", "GET /ready (hidden)"),
        ] {
            assert_eq!(secrets.text(text), expected);
        }
        let mut document = json!({"headers": ["authorization"], "failure": ["opensesame", 1]});
        secrets.json(&mut document);
        assert_eq!(document, json!({"headers": ["authorization"], "failure": ["<removed>", 1]}));
    }

    #[test]
    fn failures_quote_the_beginning_of_long_texts() {
        let mut secrets = SecretTexts::default();
        let long = "0123456789".repeat(20);
        secrets.add_checks(&json!({"expect": {"text": long}}));
        assert_eq!(secrets.text(&format!("expected `{}…`", &long[..MAX_QUOTED])), "expected `<removed>…`");
        assert_eq!(secrets.text(&long), "<removed>");
    }

    #[test]
    fn texts_shorter_than_four_characters_stay() {
        let mut secrets = SecretTexts::default();
        secrets.add_checks(&json!({"send": {"text": "abc\r\n"}, "expect": {"text": "abcd"}}));
        assert_eq!(secrets.text("abc abcd"), "abc <removed>");
    }
}
