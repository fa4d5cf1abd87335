//! Checks documents as the API server does: against the published schema, then through the types.
//!
//! The types ignore unknown fields, so a mistyped field would be lost silently; the schema detects it. The CEL rules of
//! the schema have equivalents in the types and in the translation, except those about features of clusters.

mod path;
mod secrets;
#[cfg(test)]
mod tests;
mod values;

use std::{collections::BTreeSet, fmt, sync::LazyLock};

use k8s_openapi::{
    api::{
        core::v1::{ConfigMap, Secret, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use schemars::{JsonSchema, generate::SchemaSettings};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

use self::{
    path::DocumentPath,
    secrets::{is_check, may_be_secret, unknown_field as unknown_field_unquoted, unquoted_type, unquoted_value},
    values::{quoted, strings, unlisted, what_to_write, wrong_value},
};
use crate::{
    api::{self, TcpLoadBalancer, TcpLoadBalancerSpec},
    printable::limited,
    world::{MAX_PROBLEMS, MAX_SENTENCE, more_problems},
};

static SCHEMA: LazyLock<Value> = LazyLock::new(api::schema);
static METADATA: LazyLock<Value> = LazyLock::new(kubernetes::<ObjectMeta>);
static CONFIG_MAP: LazyLock<Value> = LazyLock::new(kubernetes::<ConfigMap>);
static SECRET: LazyLock<Value> = LazyLock::new(kubernetes::<Secret>);
static SERVICE: LazyLock<Value> = LazyLock::new(kubernetes::<Service>);
static ENDPOINT_SLICE: LazyLock<Value> = LazyLock::new(kubernetes::<EndpointSlice>);

/// The spec of a `TcpLoadBalancer` document, or all its problems, each a sentence `path: problem and correction`. The
/// caller has checked `apiVersion` and `kind`.
pub fn load_balancer(mut document: Value) -> Result<TcpLoadBalancerSpec, Vec<String>> {
    // The API server accepts the status from the controller only.
    if let Some(fields) = document.as_object_mut() {
        fields.remove("status");
    }
    let mut problems = SchemaProblems::default();
    problems.check(&SCHEMA, &mut document, &DocumentPath::Root);
    if !problems.all.is_empty() {
        return Err(problems.sentences(SchemaProblem::to_string));
    }
    typed::<TcpLoadBalancer>(document).map(|object| object.spec).map_err(|problem| {
        let sentence = if problem.may_be_secret { secrets::UNQUOTED.into() } else { problem.sentence };
        vec![SchemaProblem { sentence, ..problem }.to_string()]
    })
}

/// The paths of fields in the spec of a `TcpLoadBalancer` that are present without a value (`tls:`). They are ignored,
/// which is seldom meant. At most 100.
pub fn fields_without_value(document: &Value) -> Vec<String> {
    let mut paths = Vec::new();
    add_without_value(&SCHEMA["properties"]["spec"], &document["spec"], &DocumentPath::Root.field("spec"), &mut paths);
    paths
}

fn add_without_value(schema: &Value, value: &Value, path: &DocumentPath, paths: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let (schema, path) = (&schema["properties"][name], path.field(name));
                if schema.is_null() || paths.len() == MOST_WITHOUT_VALUE {
                    continue;
                }
                if value.is_null() {
                    paths.push(path.to_string());
                } else {
                    add_without_value(schema, value, &path, paths);
                }
            }
        }
        Value::Array(list) => {
            for (index, entry) in list.iter().enumerate() {
                add_without_value(&schema["items"], entry, &path.item(index), paths);
            }
        }
        _ => {}
    }
}

/// The maximum number of fields without a value that are reported.
const MOST_WITHOUT_VALUE: usize = 100;

/// The problems of the metadata of a `TcpLoadBalancer`, except its name and namespace.
pub(super) fn metadata(metadata: &Value) -> Vec<String> {
    let mut metadata = metadata.clone();
    let mut problems = SchemaProblems::default();
    let path = DocumentPath::Root.field("metadata");
    problems.check(&METADATA, &mut metadata, &path);
    for (field, is_label) in [("labels", true), ("annotations", false)] {
        for (key, value) in metadata[field].as_object().into_iter().flatten() {
            // The API server compares the keys of annotations in lower case.
            let compared = if is_label { key.clone() } else { key.to_lowercase() };
            if let Some(Err(sentence)) = api::format("QualifiedName").map(|check| check(&compared)) {
                problems.add(&path.field(field), sentence);
            }
            if let Some(value) = value.as_str().filter(|value| is_label && !is_label_value(value)) {
                let value = quoted(&Value::from(value));
                let sentence =
                    format!("{value} is not a valid label value: write at most 63 letters, digits, `-`, `_` and `.`");
                problems.add(&path.field(field).field(key), sentence);
            }
        }
    }
    problems.sentences(SchemaProblem::to_string)
}

fn is_label_value(text: &str) -> bool {
    let outer = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && outer(bytes.first())
        && outer(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// A readable object, and its remarks: unknown fields, which are ignored.
pub(super) struct Checked<T> {
    pub object: T,
    pub remarks: Vec<String>,
}

impl<T> Checked<T> {
    pub fn without_remarks(object: T) -> Self {
        Self { object, remarks: Vec::new() }
    }
}

pub(super) fn service(document: Value) -> Result<Checked<Service>, Vec<String>> {
    checked(&SERVICE, document, |problem| problem.to_string())
}

pub(super) fn config_map(document: Value) -> Result<Checked<ConfigMap>, Vec<String>> {
    checked(&CONFIG_MAP, document, |problem| problem.to_string())
}

pub(super) fn endpoint_slice(document: Value) -> Result<Checked<EndpointSlice>, Vec<String>> {
    checked(&ENDPOINT_SLICE, document, |problem| problem.to_string())
}

/// Reads a Secret. `sentence` describes a problem below a field of the document without quoting the document.
pub(super) fn secret(document: Value, sentence: fn(&str) -> &str) -> Result<Checked<Secret>, Vec<String>> {
    checked(&SECRET, document, |problem| format!("{}: {}", problem.path, sentence(&problem.top_field)))
}

/// Reads a document of a built-in kind of Kubernetes. Unknown fields are no reason to refuse the object, because they
/// may belong to a later version.
fn checked<T: DeserializeOwned>(
    schema: &Value,
    mut document: Value,
    describe: impl Fn(&SchemaProblem) -> String,
) -> Result<Checked<T>, Vec<String>> {
    let mut problems = SchemaProblems::default();
    problems.check(schema, &mut document, &DocumentPath::Root);
    let (unknown, wrong): (Vec<_>, Vec<_>) = problems.all.into_iter().partition(|problem| problem.unknown_field);
    let remarks = unknown.iter().map(|problem| format!("{problem}; it is ignored")).collect();
    if !wrong.is_empty() {
        return Err(SchemaProblems { all: wrong, more: problems.more }.sentences(describe));
    }
    match typed(document) {
        Ok(object) => Ok(Checked { object, remarks }),
        Err(problem) => Err(vec![describe(&problem)]),
    }
}

/// The schema of a kind from the library, without required fields: the translation does not need them, and the API
/// server writes empty lists as null.
fn kubernetes<T: JsonSchema>() -> Value {
    fn without_required(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                if fields.get("required").is_some_and(Value::is_array) {
                    fields.remove("required");
                }
                fields.values_mut().for_each(without_required);
            }
            Value::Array(list) => list.iter_mut().for_each(without_required),
            _ => {}
        }
    }

    let settings = SchemaSettings::openapi3().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    without_required(&mut schema);
    schema
}

/// Deserializes a document into its type.
fn typed<T: DeserializeOwned>(document: Value) -> Result<T, SchemaProblem> {
    serde_path_to_error::deserialize(document).map_err(|error| {
        let fields = error.path().iter().filter_map(|segment| match segment {
            Segment::Map { key } => Some(key.as_str()),
            Segment::Enum { variant } => Some(variant.as_str()),
            Segment::Seq { .. } | Segment::Unknown => None,
        });
        let fields = Vec::from_iter(fields);
        let (path, sentence) = (error.path().to_string(), error.inner().to_string());
        SchemaProblem::new(&path, fields.into_iter().rev(), &sentence, false)
    })
}

/// A problem of a document.
#[derive(Debug)]
struct SchemaProblem {
    path: String,
    /// The field of the document that contains the value.
    top_field: String,
    /// True if the value may be a password.
    may_be_secret: bool,
    sentence: String,
    unknown_field: bool,
}

impl SchemaProblem {
    /// `fields` are the names of the fields on the path, the last one first. Names and values may have any length.
    fn new<'a>(path: &str, fields: impl Iterator<Item = &'a str> + Clone, sentence: &str, unknown_field: bool) -> Self {
        let [path, top_field, sentence] = [path, fields.clone().last().unwrap_or_default(), sentence]
            .map(|text| limited(text, MAX_SENTENCE / 2).into_owned());
        Self { path, top_field, may_be_secret: may_be_secret(fields), sentence, unknown_field }
    }
}

impl fmt::Display for SchemaProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.sentence)
    }
}

/// The entry of `names` that `name` was probably meant to be.
pub fn near<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| -> String {
        text.chars().filter(|c| c.is_ascii_alphanumeric()).map(|c| c.to_ascii_lowercase()).collect()
    };
    let wanted = plain(name);
    let bound = match wanted.len() {
        0..3 => 0,
        3..6 => 1,
        _ => 2,
    };
    names
        .into_iter()
        .map(|name| (strsim::osa_distance(&wanted, &plain(name)), name))
        .filter(|(distance, _)| *distance <= bound)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[derive(Default)]
struct SchemaProblems {
    all: Vec<SchemaProblem>,
    /// The number of further problems, which are only counted.
    more: usize,
}

impl SchemaProblems {
    fn add(&mut self, path: &DocumentPath, sentence: String) {
        self.push(path, || sentence, false);
    }

    fn add_unknown(&mut self, path: &DocumentPath, sentence: impl FnOnce() -> String) {
        self.push(path, sentence, true);
    }

    /// Adds a problem. There may be any number of mistakes.
    fn push(&mut self, path: &DocumentPath, sentence: impl FnOnce() -> String, unknown_field: bool) {
        if self.all.len() >= MAX_PROBLEMS {
            self.more += 1;
            return;
        }
        let written = if path.is_root() { "the document".into() } else { path.to_string() };
        self.all.push(SchemaProblem::new(&written, path.fields(), &sentence(), unknown_field));
    }

    fn sentences(self, describe: impl Fn(&SchemaProblem) -> String) -> Vec<String> {
        let more = (self.more > 0).then(|| more_problems(self.more));
        self.all.iter().map(describe).chain(more).collect()
    }

    /// Checks `value` and everything below it. Nulls are dropped, as the API server does for fields that must not be
    /// null.
    fn check(&mut self, schema: &Value, value: &mut Value, path: &DocumentPath) {
        let is_secret = may_be_secret(path.fields());
        make_whole(schema, value, path);
        if let Some(sentence) = wrong_type(schema, value, path) {
            let sentence = if is_secret || is_check(path) { unquoted_type(schema, value) } else { sentence };
            return self.add(path, sentence);
        }
        let name = path.last_field();
        if let Some(sentence) = wrong_value(schema, value, name) {
            self.add(path, if is_secret { unquoted_value(schema, value, name) } else { sentence });
        }
        match value {
            Value::Array(list) => self.check_list(schema, list, path),
            Value::Object(fields) => self.check_fields(schema, fields, path),
            _ => {}
        }
    }

    fn check_list(&mut self, schema: &Value, list: &mut [Value], path: &DocumentPath) {
        let mut seen = BTreeSet::new();
        for (index, entry) in list.iter_mut().enumerate() {
            let item = path.item(index);
            if let Some(identity) = identity(schema, entry, path.last_field())
                && !seen.insert(identity.value)
            {
                let listed_twice = || "is listed twice: remove one".into();
                let sentence = if may_be_secret(path.fields()) { listed_twice() } else { identity.sentence };
                self.add(&identity.field.map_or(item, |field| item.field(field)), sentence);
            }
            self.check(&schema["items"], entry, &item);
        }
    }

    fn check_fields(&mut self, schema: &Value, fields: &mut Map<String, Value>, path: &DocumentPath) {
        let Some(known) = schema["properties"].as_object() else {
            return self.check_map(&schema["additionalProperties"], fields, path);
        };
        fields.retain(|name, value| !value.is_null() || !known.contains_key(name));
        for name in strings(&schema["required"]).filter(|name| !fields.contains_key(*name)) {
            self.add(&path.field(name), format!("is missing: {}", what_to_write(name, &known[name])));
        }
        for (name, value) in fields {
            match known.get(name) {
                Some(schema) => self.check(schema, value, &path.field(name)),
                // The API server handles these fields itself.
                None if path.is_root() && ["apiVersion", "kind", "metadata"].contains(&name.as_str()) => {}
                None if may_be_secret(path.fields()) => self.add_unknown(path, || unknown_field_unquoted(known)),
                None => self.add_unknown(&path.field(name), || unknown_field(name, known)),
            }
        }
    }

    /// Checks the values of a map with arbitrary keys.
    fn check_map(&mut self, schema: &Value, fields: &mut Map<String, Value>, path: &DocumentPath) {
        fields.retain(|_, value| !value.is_null());
        for (name, value) in fields {
            self.check(schema, value, &path.field(name));
        }
    }
}

/// The maximum number of field names in a message.
const MOST_LISTED: usize = 16;

fn unknown_field(name: &str, known: &Map<String, Value>) -> String {
    match near(name, known.keys().map(String::as_str)) {
        Some(near) => format!("unknown field (did you mean `{near}`?)"),
        None => {
            let names: Vec<_> = known.keys().map(String::as_str).collect();
            match names.len() {
                0..=MOST_LISTED => format!("unknown field: known fields are {}", names.join(", ")),
                _ => "unknown field: remove it".into(),
            }
        }
    }
}

/// Fields whose values the CEL rules always read. Rules cannot read a whole number with a fraction of zero.
const READ_BY_RULES: [&str; 1] = ["nodePort"];

/// Converts a whole number with a fraction of zero (`3.0`) to an integer like the API server, unless a rule reads it.
fn make_whole(schema: &Value, value: &mut Value, path: &DocumentPath) {
    let whole = |float: &f64| float.fract() == 0.0 && float.abs() < (1_u64 << 53) as f64;
    if schema["type"] == "integer"
        && !READ_BY_RULES.contains(&path.last_field())
        && !value.is_i64()
        && !value.is_u64()
        && let Some(float) = value.as_f64().filter(whole)
    {
        *value = (float as i64).into();
    }
}

fn wrong_type(schema: &Value, value: &Value, path: &DocumentPath) -> Option<String> {
    let integer = value.is_i64() || value.is_u64();
    let (right, wanted) = match schema["type"].as_str() {
        Some("object") => (value.is_object(), "be an object (`name: value` lines)"),
        Some("array") => (value.is_array(), "be a list (entries that start with `- `)"),
        Some("string") => (value.is_string(), "be text"),
        Some("boolean") => (value.is_boolean(), "be true or false"),
        Some("integer") => (integer, "be a whole number"),
        Some("number") => (value.is_number(), "be a number"),
        _ if schema["x-kubernetes-int-or-string"] == true => {
            (integer || value.is_string(), "be a whole number or a name")
        }
        _ => (true, ""),
    };
    if right {
        return None;
    }
    let rule = schema["x-kubernetes-validations"][0]["message"].as_str();
    Some(match (schema["type"].as_str(), value) {
        (Some("integer"), Value::String(text)) if text.parse::<u64>().is_ok() => {
            format!("must be a number: write {text} without quotes")
        }
        // YAML reads `off` and `1.2` as these types.
        (Some("string"), Value::Number(_) | Value::Bool(_)) if strings(&schema["enum"]).next().is_some() => {
            unlisted(value, &Vec::from_iter(strings(&schema["enum"])))
        }
        (Some("string"), Value::Number(_)) if schema["format"] == "Duration" => {
            format!("`{value}` is {}", rule.unwrap_or_default())
        }
        (Some("string"), Value::Number(_)) => format!("must be text: write \"{value}\", with quotes"),
        (Some("string"), Value::Bool(_)) => {
            "must be text: write it with quotes, since yes, no, on, off, true and false are booleans in YAML".into()
        }
        (Some("object"), Value::String(_)) if let Some((field, values)) = only_choice(schema) => {
            let (name, first) = (path.last_field(), values[0]);
            format!("must {wanted}, not {}: write for example `{name}: {{{field}: {first}}}`", quoted(value))
        }
        _ => format!("must {wanted}, not {}", quoted(value)),
    })
}

/// The only required field, if its values are an enumeration.
fn only_choice(schema: &Value) -> Option<(&str, Vec<&str>)> {
    let mut required = strings(&schema["required"]);
    let field = required.next().filter(|_| required.next().is_none())?;
    let values: Vec<_> = strings(&schema["properties"][field]["enum"]).collect();
    (!values.is_empty()).then_some((field, values))
}

/// The part of a list entry that must be unique.
struct UniqueKey<'a> {
    value: String,
    /// The field of the entry that must be unique. `None`: the entry itself.
    field: Option<&'a str>,
    /// The message for a duplicate.
    sentence: String,
}

fn identity<'a>(schema: &'a Value, entry: &Value, list: &str) -> Option<UniqueKey<'a>> {
    match schema["x-kubernetes-list-type"].as_str()? {
        "set" => Some(UniqueKey {
            value: entry.to_string(),
            field: None,
            sentence: format!("{} is listed twice: remove one", quoted(entry)),
        }),
        "map" => {
            let key = strings(&schema["x-kubernetes-list-map-keys"]).next()?;
            let value = entry.get(key)?;
            let owner = list.trim_end_matches('s');
            Some(UniqueKey {
                value: value.to_string(),
                field: Some(key),
                sentence: format!("{key} {value} is declared twice: give each {owner} its own {key}"),
            })
        }
        _ => None,
    }
}
