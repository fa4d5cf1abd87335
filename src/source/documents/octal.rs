//! Numbers with a leading zero: octal in YAML 1.1, which kubectl reads, and decimal in YAML 1.2 (section 10.3.2).

use serde_json::Value;

/// True if the text may contain such numbers.
pub fn are_possible(text: &str) -> bool {
    let begins = |before: u8| before.is_ascii_whitespace() || b"[,:{+-".contains(&before);
    text.as_bytes()
        .windows(3)
        .any(|window| begins(window[0]) && window[1] == b'0' && (window[2].is_ascii_digit() || window[2] == b'_'))
}

/// The path of the first part in which two readings of a document differ: `spec.listeners[0].port`.
pub fn difference(one: &Value, other: &Value) -> Option<String> {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => one.iter().find_map(|(key, value)| {
            let below = difference(value, other.get(key)?)?;
            Some(format!("{key}{}{below}", if below.is_empty() || below.starts_with('[') { "" } else { "." }))
        }),
        (Value::Array(one), Value::Array(other)) => {
            one.iter().zip(other).enumerate().find_map(|(index, (one, other))| {
                let below = difference(one, other)?;
                Some(format!("[{index}]{}{below}", if below.is_empty() || below.starts_with('[') { "" } else { "." }))
            })
        }
        _ => (one != other).then(String::new),
    }
}
