//! Reads the text of a manifest file into objects.

#[cfg(test)]
mod tests;

use std::{fmt, path::Path, sync::Arc};

use k8s_openapi::{
    ByteString,
    api::{
        core::v1::{Secret, Service},
        discovery::v1::EndpointSlice,
    },
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

use super::schema::{self, near, typed};
use crate::{
    api::{GROUP, KIND, Name, ObjectName, TcpLoadBalancerSpec, VERSION},
    model::ObjectKey,
};

/// What a file declares.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    pub objects: Vec<Document>,
    /// About documents of which nobody can say what object they are, each a sentence that names the place.
    pub problems: Vec<String>,
}

/// An object that a file declares.
#[derive(Clone)]
pub struct Document {
    /// The file and line it starts at, for people.
    pub place: Arc<str>,
    pub key: ObjectKey,
    pub object: Object,
}

impl Document {
    pub fn is_same_object(&self, other: &Self) -> bool {
        self.object.kind() == other.object.kind() && self.key == other.key
    }
}

/// Without what Secrets hold.
impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.place, self.object.kind(), self.key)
    }
}

/// An object of a kind that matters here.
#[derive(Clone)]
pub enum Object {
    LoadBalancer(Readable<TcpLoadBalancerSpec>),
    Secret(Readable<Secret>),
    Service(Readable<Service>),
    EndpointSlice(Readable<EndpointSlice>),
}

/// An object, or why it cannot be read: sentences that name the field.
pub type Readable<T> = Result<Arc<T>, Vec<String>>;

impl Object {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::LoadBalancer(_) => KIND,
            Self::Secret(_) => "Secret",
            Self::Service(_) => "Service",
            Self::EndpointSlice(_) => "EndpointSlice",
        }
    }
}

impl Documents {
    /// Reads YAML, or JSON where the file's name ends so. Objects of other kinds are passed over.
    ///
    /// # Errors
    /// A sentence that names file, line and column, when the text is neither.
    pub fn read(file: &Path, text: &str) -> Result<Self, String> {
        let values = if file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
            json(text).map_err(|error| format!("{}: is not JSON: {error}", file.display()))?
        } else {
            yaml(text).map_err(|error| format!("{}: is not YAML: {error}", file.display()))?
        };
        let mut documents = Self::default();
        for (line, value) in values {
            documents.add(&format!("{}:{line}", file.display()), value);
        }
        Ok(documents)
    }

    fn add(&mut self, place: &str, mut value: Value) {
        let text = |field: &str| value[field].as_str().unwrap_or_default();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        if api_version == "v1" && kind == "List" {
            let items = value["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
            for (index, item) in items.into_iter().enumerate() {
                self.add(&format!("{place} items[{index}]"), item);
            }
            return;
        }
        match Kind::of(api_version, kind) {
            Kind::Ours(read) => match identity(&value) {
                Ok((key, problems)) => {
                    let object = read(value, problems);
                    self.objects.push(Document { place: place.into(), key, object });
                }
                Err(problem) => self.problems.push(format!("{place}: {kind} {problem}")),
            },
            Kind::Mistyped(problem) => self.problems.push(format!("{place}: {problem}")),
            Kind::Other => tracing::debug!(place, kind, "an object of another kind is passed over"),
        }
    }
}

fn yaml(text: &str) -> Result<Vec<(u64, Value)>, String> {
    // The file's size bounds these; what aliases may multiply has a bound of its own.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_events: usize::MAX, max_nodes: usize::MAX, max_documents: usize::MAX },
        with_snippet: false,
    };
    let documents: Vec<Spanned<Value>> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|error| match error {
            serde_saphyr::Error::DuplicateMappingKey { key: Some(key), location } => {
                format!("`{key}` is written twice at line {}, column {}", location.line(), location.column())
            }
            error => error.to_string(),
        })?;
    Ok(documents.into_iter().map(|document| (document.referenced.line(), document.value)).collect())
}

fn json(text: &str) -> Result<Vec<(u64, Value)>, serde_json::Error> {
    let mut documents = serde_json::Deserializer::from_str(text).into_iter();
    let mut read = Vec::new();
    loop {
        let rest = &text[documents.byte_offset()..];
        let start = text.len() - rest.trim_start().len();
        let line = 1 + text[..start].bytes().filter(|byte| *byte == b'\n').count();
        match documents.next() {
            Some(document) => read.push((line as u64, document?)),
            None => return Ok(read),
        }
    }
}

/// What a document is, going by its `apiVersion` and `kind`.
enum Kind {
    /// Read by this, which is also told what is wrong with its metadata.
    Ours(fn(Value, Vec<String>) -> Object),
    Mistyped(String),
    Other,
}

impl Kind {
    fn of(api_version: &str, kind: &str) -> Self {
        match (api_version, kind) {
            ("v1", "Secret") => Self::Ours(|value, problems| Object::Secret(readable(value, problems, secret))),
            ("v1", "Service") => Self::Ours(|value, problems| Object::Service(readable(value, problems, any))),
            ("discovery.k8s.io/v1", "EndpointSlice") => {
                Self::Ours(|value, problems| Object::EndpointSlice(readable(value, problems, any)))
            }
            // Whatever its version and kind are: an object that was served and is now mistyped has not been deleted.
            _ if is_ours(api_version, kind) => {
                Self::Ours(|value, problems| Object::LoadBalancer(readable(value, problems, load_balancer)))
            }
            ("", "") => Self::Mistyped(format!(
                "is not a Kubernetes object: begin it with `apiVersion: {GROUP}/{VERSION}` and `kind: {KIND}`"
            )),
            _ => {
                let kinds: &[_] = match api_version {
                    "v1" => &["Secret", "Service"],
                    "discovery.k8s.io/v1" => &["EndpointSlice"],
                    _ => &[],
                };
                near(kind, kinds.iter().copied()).map_or(Self::Other, |near| {
                    Self::Mistyped(format!(
                        "there is no kind `{kind}` in {api_version}: write `{near}`, if that is meant"
                    ))
                })
            }
        }
    }
}

/// Whether a document is a load balancer, or was meant to be one.
fn is_ours(api_version: &str, kind: &str) -> bool {
    let group = api_version.split('/').next().unwrap_or_default();
    group == GROUP || near(kind, [KIND]).is_some() && (!api_version.contains('/') || near(group, [GROUP]).is_some())
}

/// The object's key and what is wrong with its metadata, or why it has no key.
fn identity(document: &Value) -> Result<(ObjectKey, Vec<String>), String> {
    let metadata = &document["metadata"];
    let text = |field: &str| match &metadata[field] {
        Value::Null => Ok(None),
        Value::String(text) if text.is_empty() => Ok(None),
        Value::String(text) => Ok(Some(text.as_str())),
        other => {
            Err(format!("has a metadata.{field} that is not text: write for example `{field}: \"{}\"`", plain(other)))
        }
    };
    let name = text("name")?.ok_or("has no name: write `metadata:` with `name:` below it")?;
    let namespace = text("namespace")?.unwrap_or("default");
    let mut problems = Vec::new();
    if let Err(problem) = name.parse::<ObjectName>() {
        problems.push(format!("metadata.name: {problem}"));
    }
    if let Err(problem) = namespace.parse::<Name>() {
        problems.push(format!("metadata.namespace: {problem}"));
    }
    Ok((ObjectKey::new(namespace, name), problems))
}

fn plain(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        _ => "my-name".into(),
    }
}

/// All that is wrong with an object, if anything is.
fn readable<T>(value: Value, mut problems: Vec<String>, read: fn(Value) -> Result<T, Vec<String>>) -> Readable<T> {
    match read(value) {
        Ok(object) if problems.is_empty() => Ok(Arc::new(object)),
        Ok(_) => Err(problems),
        Err(more) => {
            problems.extend(more);
            Err(problems)
        }
    }
}

fn any<T: DeserializeOwned>(value: Value) -> Result<T, Vec<String>> {
    typed(value).map_err(|problem| vec![problem.to_string()])
}

/// The longest name, so that what is made of it fits into 63 characters.
const MAX_NAME: usize = 52;

fn load_balancer(value: Value) -> Result<TcpLoadBalancerSpec, Vec<String>> {
    let mut problems = Vec::new();
    let wanted = [("apiVersion", format!("{GROUP}/{VERSION}")), ("kind", KIND.to_owned())];
    for (field, wanted) in wanted {
        if value[field] != *wanted {
            problems.push(format!("{field}: must be {wanted}: write `{field}: {wanted}`"));
        }
    }
    let length = value["metadata"]["name"].as_str().map_or(0, str::len);
    if length > MAX_NAME {
        problems.push(format!("metadata.name: has {length} characters: write at most {MAX_NAME}"));
    }
    // Fields of another version are not ours to judge.
    if problems.iter().any(|problem| problem.starts_with("apiVersion")) {
        return Err(problems);
    }
    match schema::load_balancer(value) {
        Ok(spec) if problems.is_empty() => Ok(spec),
        Ok(_) => Err(problems),
        Err(more) => {
            problems.extend(more);
            Err(problems)
        }
    }
}

/// A Secret with `stringData` merged into `data`, as the server does. What is said about it holds nothing of it.
fn secret(mut value: Value) -> Result<Secret, Vec<String>> {
    if let Some(data) = value["data"].as_object_mut() {
        unfold(data);
    }
    let mut secret: Secret = typed(value).map_err(|problem| {
        let sentence = match problem.path.split('.').next() {
            Some("data") => "is not base64: encode it, or write the text itself below `stringData`",
            Some("stringData") => "must be text: write it with quotes, or as a block after `|`",
            _ => "is not what a Secret has there",
        };
        vec![format!("{}: {sentence}", problem.path)]
    })?;
    for (name, text) in secret.string_data.take().unwrap_or_default() {
        secret.data.get_or_insert_default().insert(name, ByteString(text.into_bytes()));
    }
    Ok(secret)
}

/// Takes line breaks out of base64 text, which the server's decoder passes over.
fn unfold(data: &mut Map<String, Value>) {
    for value in data.values_mut() {
        if let Value::String(text) = value {
            text.retain(|c| !matches!(c, '\n' | '\r'));
        }
    }
}
