//! The values of the chart: each is in the schema, and in docs/helm.md, which is generated from values.yaml and its
//! comments.

use serde_json::Value;

use crate::{is_current, read};

const VALUES: &str = "charts/tcplb/values.yaml";

/// The first line of the generated part of docs/helm.md.
const TABLE: &str = "| value | default | meaning |";

fn defaults() -> Value {
    serde_saphyr::from_str(&read(VALUES)).unwrap()
}

#[test]
fn the_schema_has_the_values_there_are_and_refuses_all_others() {
    let schema: Value = serde_json::from_str(&read("charts/tcplb/values.schema.json")).unwrap();
    compare(&schema, &defaults(), "");
    for (name, definition) in schema["definitions"].as_object().unwrap() {
        is_closed(definition, name);
    }
}

fn compare(schema: &Value, values: &Value, path: &str) {
    is_closed(schema, path);
    let Some(properties) = schema["properties"].as_object() else { return };
    let values = values.as_object().unwrap_or_else(|| panic!("{path} is not an object in {VALUES}"));
    // Helm itself adds it to a chart that is part of another one.
    let expected: Vec<_> = properties.keys().filter(|name| *name != "global").collect();
    let mut actual: Vec<_> = values.keys().collect();
    actual.sort();
    assert_eq!(
        actual,
        {
            let mut expected = expected.clone();
            expected.sort();
            expected
        },
        "at {path}"
    );
    for name in expected {
        compare(&properties[name], &values[name], &format!("{path}.{name}"));
    }
}

fn is_closed(schema: &Value, path: &str) {
    if schema.get("properties").is_some() {
        assert_eq!(schema["additionalProperties"], false, "{path} takes typing mistakes");
    }
}

#[test]
fn the_documented_values_are_current() {
    let file = "docs/helm.md";
    let text = read(file);
    let (head, _) = text.split_once(TABLE).expect("docs/helm.md has the table");
    is_current(file, &format!("{head}{}", table()));
}

fn table() -> String {
    let defaults = defaults();
    let mut text = format!("{TABLE}\n|---|---|---|\n");
    for Documented { path, meaning } in documented(&read(VALUES)) {
        let default = defaults.pointer(&format!("/{}", path.replace('.', "/"))).unwrap();
        let default = match default {
            Value::Null => String::new(),
            Value::String(text) if text.is_empty() => String::new(),
            other => format!("`{other}`").replace('|', "\\|"),
        };
        text += &format!("| `{path}` | {default} | {} |\n", meaning.replace('|', "\\|"));
    }
    text
}

struct Documented {
    path: String,
    meaning: String,
}

/// The values with a comment that begins with `--`. All values except groups of such values must have one.
fn documented(text: &str) -> Vec<Documented> {
    let mut found: Vec<Documented> = Vec::new();
    let mut above: Vec<(usize, String)> = Vec::new();
    let mut comment: Option<String> = None;
    // Nested values of a documented value are indented further.
    let mut inside: Option<usize> = None;
    for line in text.lines() {
        let words = line.trim_start();
        let depth = line.len() - words.len();
        if let Some(said) = words.strip_prefix('#') {
            match (said.trim().strip_prefix("-- "), &mut comment) {
                (Some(first), _) => comment = Some(first.into()),
                (None, Some(comment)) => *comment += &format!(" {}", said.trim()),
                (None, None) => {}
            }
            continue;
        }
        if inside.is_some_and(|value| depth > value || words.starts_with('-')) || words.is_empty() {
            continue;
        }
        let (key, _) = words.split_once(':').unwrap_or_else(|| panic!("`{line}` is no value"));
        above.retain(|(other, _)| *other < depth);
        above.push((depth, key.into()));
        let path = above.iter().map(|(_, key)| key.as_str()).collect::<Vec<_>>().join(".");
        inside = None;
        match comment.take() {
            Some(meaning) => {
                inside = Some(depth);
                found.push(Documented { path, meaning });
            }
            None => assert!(words.ends_with(':'), "{path} has no comment that begins with `--` in {VALUES}"),
        }
    }
    found
}

#[test]
fn values_are_found_with_their_comments() {
    let text = "# about\nimage:\n  # -- Where it\n  # is.\n  tag: x\n# -- Any.\nprobe:\n  httpGet: {}\nlist: # a\n";
    let text = text.replace("list: # a\n", "# -- Some.\nlist:\n- a: 1\n");
    let found: Vec<_> = documented(&text).into_iter().map(|value| (value.path, value.meaning)).collect();
    let expected = [("image.tag", "Where it is."), ("probe", "Any."), ("list", "Some.")];
    assert_eq!(found, expected.map(|(path, meaning)| (path.to_owned(), meaning.to_owned())));
}
