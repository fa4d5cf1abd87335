//! Messages about values that the schema refuses.

use serde_json::{Number, Value};

use crate::api;

pub fn strings(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// A short description of a value for a sentence.
pub fn quoted(value: &Value) -> String {
    match value {
        Value::Null => "empty".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "fields".into(),
        Value::String(text) => {
            format!("the text `{}`", text.chars().take(60).flat_map(char::escape_debug).collect::<String>())
        }
        Value::Bool(_) | Value::Number(_) => format!("`{value}`"),
    }
}

/// The message about a wrong value of the field `name`.
pub fn wrong_value(schema: &Value, value: &Value, name: &str) -> Option<String> {
    let bound = |key: &str| schema[key].as_f64();
    match value {
        Value::String(text) if schema["enum"].is_array() => not_listed(text, &schema["enum"]),
        Value::Number(number) => out_of_range(number, bound("minimum"), bound("maximum"), name),
        Value::String(text) => {
            let length = text.chars().count() as f64;
            if text.is_empty() && bound("minLength").is_some_and(|least| least > 0.0) {
                Some(format!("must not be empty: {}", what_to_write(name, schema)))
            } else if let Some(most) = bound("maxLength").filter(|most| length > *most) {
                Some(format!("has {length} characters: write at most {most}"))
            } else {
                api::format(schema["format"].as_str()?)?(text).err()
            }
        }
        Value::Array(list) => {
            let length = list.len() as f64;
            if bound("minItems").is_some_and(|least| length < least) {
                Some(format!("must not be empty: {}", what_to_write(name, schema)))
            } else {
                too_many(length, bound("maxItems"))
            }
        }
        Value::Object(fields) => too_many(fields.len() as f64, bound("maxProperties")),
        _ => None,
    }
}

fn too_many(length: f64, most: Option<f64>) -> Option<String> {
    most.filter(|most| length > *most).map(|most| format!("has {length} entries: write at most {most}"))
}

fn not_listed(text: &str, values: &Value) -> Option<String> {
    let values: Vec<_> = strings(values).collect();
    if values.contains(&text) {
        return None;
    }
    let text = quoted(&Value::from(text));
    Some(format!("{text} is not a valid value: write {}", alternatives(&values)))
}

/// The message about a boolean or a number in place of one of `values`.
pub fn unlisted(value: &Value, values: &[&str]) -> String {
    let meant = values.iter().find(|listed| yaml_boolean(listed).is_some_and(|read| *value == Value::Bool(read)));
    let reason = meant.map(|listed| format!(", with quotes, because YAML reads {listed} as {value}"));
    format!("`{value}` is not a valid value: write {}{}", alternatives(values), reason.unwrap_or_default())
}

/// The values of an enumeration. Those that YAML reads as booleans are quoted.
pub fn alternatives(values: &[&str]) -> String {
    let written = values.iter().map(|value| match yaml_boolean(value) {
        Some(_) => format!("\"{value}\""),
        None => (*value).to_owned(),
    });
    written.collect::<Vec<_>>().join(" or ")
}

/// The boolean that YAML 1.1 reads for a text without quotes.
fn yaml_boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "on" | "true" => Some(true),
        "no" | "off" | "false" => Some(false),
        _ => None,
    }
}

fn out_of_range(number: &Number, least: Option<f64>, most: Option<f64>, name: &str) -> Option<String> {
    let value = number.as_f64()?;
    if least.is_none_or(|least| value >= least) && most.is_none_or(|most| value <= most) {
        return None;
    }
    let range = match (least, most) {
        (Some(least), Some(most)) => format!("from {least} to {most}"),
        (Some(least), None) => format!("of at least {least}"),
        (None, most) => format!("of at most {}", most.unwrap_or_default()),
    };
    let instead =
        if name == "weight" && value == 0.0 { ", or remove the backend to send it no connections" } else { "" };
    Some(format!("{number} is out of range: write a number {range}{instead}"))
}

/// An example for a required field that is missing.
pub fn what_to_write(name: &str, schema: &Value) -> String {
    let example = match name {
        "spec" => "write `spec:` with `listeners` and `backends` below it",
        "listeners" => "write the ports that clients connect to, for example `listeners: [{port: 5432}]`",
        "backends" => {
            "write the backends that receive connections, for example `backends: [{addresses: [\"192.0.2.7:5432\"]}]`"
        }
        "addresses" => "write for example `addresses: [\"192.0.2.7:5432\"]`",
        _ => return described(name, schema),
    };
    example.into()
}

/// The description of a field in the schema.
fn described(name: &str, schema: &Value) -> String {
    let values: Vec<_> = strings(&schema["enum"]).collect();
    if !values.is_empty() {
        return format!("write `{name}` ({})", alternatives(&values));
    }
    // The bounds of a text do not describe its content.
    let rule = schema["x-kubernetes-validations"][0]["message"].as_str().filter(|_| schema["format"] != "Text");
    let instead = rule.and_then(|rule| rule.split_once(": write "));
    if let Some((_, instead)) = instead {
        return format!("write {instead}");
    }
    let described = schema["description"].as_str().unwrap_or_default();
    match described.split_inclusive(['.', ':']).next() {
        Some(first) => format!("write `{name}` ({})", first.trim_end_matches(['.', ':'])),
        None => "write a value, or remove it".into(),
    }
}
