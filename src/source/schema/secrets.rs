//! Messages about fields that may contain a password. They never quote a value.

use serde_json::{Map, Value};

use super::{path::DocumentPath, values::wrong_value};

/// Fields that may contain a password, even in the wrong place. Their values are never quoted.
const SECRET: [&str; 3] = ["send", "headers", "passwordRef"];
/// Fields that contain such fields. A string in their place may be a password.
const CHECKS: [&str; 5] = ["exchange", "http", "postgres", "mysql", "redis"];
pub const UNQUOTED: &str = "is not valid: see the manual for valid values";

/// True if one of the fields on a path may contain a password.
pub fn may_be_secret<'a>(mut fields: impl Iterator<Item = &'a str>) -> bool {
    fields.any(|field| SECRET.contains(&field))
}

pub fn is_check(path: &DocumentPath) -> bool {
    path.fields().last() == Some("spec") && CHECKS.contains(&path.last_field())
}

/// The message about a wrong type, without the value.
pub fn unquoted_type(schema: &Value, value: &Value) -> String {
    match schema["type"].as_str() {
        Some("object") => format!("must be an object (`name: value` lines), not {}", kind_of(value)),
        Some("array") => format!("must be a list (entries that start with `- `), not {}", kind_of(value)),
        Some("string") => "must be text: write it with quotes".into(),
        _ => UNQUOTED.into(),
    }
}

/// The message of [`wrong_value`], without the value.
pub fn unquoted_value(schema: &Value, value: &Value, name: &str) -> String {
    let named = |value: &Value| wrong_value(schema, value, name);
    match value {
        // The length of an empty text reveals nothing.
        Value::String(text) if text.is_empty() => named(value),
        Value::String(text) if schema["maxLength"].as_u64().is_some_and(|most| text.chars().count() as u64 > most) => {
            named(value)
        }
        Value::String(_) => {
            let rule = schema["x-kubernetes-validations"][0]["message"].as_str();
            rule.map(|rule| format!("it is {rule}"))
        }
        Value::Array(_) | Value::Object(_) => named(value),
        _ => None,
    }
    .unwrap_or_else(|| UNQUOTED.into())
}

pub fn unknown_field(known: &Map<String, Value>) -> String {
    let names: Vec<_> = known.keys().map(String::as_str).collect();
    format!("has an unknown field: known fields are {}", names.join(", "))
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Array(_) => "a list",
        Value::Object(_) => "fields",
        Value::String(_) => "text",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
    }
}
