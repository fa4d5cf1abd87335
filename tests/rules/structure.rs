//! The structural part of a schema: everything except its rules. It reads the schema like an API server with strict
//! validation of fields.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// The object without nulls, which the API server drops, as no field of the schema may be null. Entries of lists stay.
pub fn without_nulls(schema: &Value, value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(name, value)| !value.is_null() || field(schema, name).is_none());
            kept.map(|(name, value)| {
                let value = field(schema, name).map_or(value.clone(), |schema| without_nulls(schema, value));
                (name.clone(), value)
            })
            .collect()
        }
        Value::Array(list) => list.iter().map(|entry| without_nulls(&schema["items"], entry)).collect(),
        other => other.clone(),
    }
}

/// The schema of a field. `None`: the field is unknown.
fn field<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    schema["properties"].get(name).or(schema.get("additionalProperties"))
}

/// All structural problems of the spec of an object.
pub fn problems(schema: &Value, object: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    check(&schema["properties"]["spec"], &object["spec"], "spec", &mut problems);
    problems
}

fn check(schema: &Value, value: &Value, path: &str, problems: &mut Vec<String>) {
    let mut problem = |what: String| problems.push(format!("{path}: {what}"));
    if !has_type(schema, value) {
        return problem(format!("{value} has the wrong type"));
    }
    if schema["enum"].as_array().is_some_and(|values| !values.contains(value)) {
        problem(format!("{value} is not among the values"));
    }
    let (size, limits) = match value {
        Value::String(text) => (text.chars().count() as f64, ["minLength", "maxLength"]),
        Value::Array(list) => (list.len() as f64, ["minItems", "maxItems"]),
        Value::Object(fields) => (fields.len() as f64, ["minProperties", "maxProperties"]),
        value => (value.as_f64().unwrap_or_default(), ["minimum", "maximum"]),
    };
    let [least, most] = limits.map(|limit| schema[limit].as_f64());
    if least.is_some_and(|least| size < least) || most.is_some_and(|most| size > most) {
        problem(format!("{size} is outside of {limits:?}"));
    }
    match value {
        Value::Object(fields) => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            for name in required.filter(|name| !fields.contains_key(*name)) {
                problem(format!("{name} is missing"));
            }
            for (name, value) in fields {
                match field(schema, name) {
                    Some(schema) => check(schema, value, &format!("{path}.{name}"), problems),
                    None => problems.push(format!("{path}: {name} is unknown")),
                }
            }
        }
        Value::Array(list) => {
            let key = &schema["x-kubernetes-list-map-keys"][0];
            let identity = |entry: &Value| match schema["x-kubernetes-list-type"].as_str() {
                Some("set") => Some(entry.to_string()),
                Some("map") => Some(entry[key.as_str()?].to_string()),
                _ => None,
            };
            let identities: Vec<_> = list.iter().filter_map(identity).collect();
            if identities.iter().collect::<BTreeSet<_>>().len() < identities.len() {
                problem("an entry is listed twice".into());
            }
            for (index, entry) in list.iter().enumerate() {
                check(&schema["items"], entry, &format!("{path}[{index}]"), problems);
            }
        }
        _ => {}
    }
}

fn has_type(schema: &Value, value: &Value) -> bool {
    // A whole number with a fraction of zero is an integer.
    let is_integer = value.as_f64().is_some_and(|number| number.fract() == 0.0);
    match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => is_integer,
        None if schema["x-kubernetes-int-or-string"] == json!(true) => is_integer || value.is_string(),
        other => panic!("the schema has the type {other:?}"),
    }
}
