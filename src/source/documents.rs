//! Reads the text of a manifest file into objects.

mod aliases;
mod kind;
mod line_breaks;
mod lists;
mod merge_keys;
mod node_problem;
mod object;
mod octal;
mod parts;
mod tags;
#[cfg(test)]
mod tests;
mod unique;

use std::{collections::BTreeSet, path::Path, sync::Arc};

use kind::{DocumentKind, KUBERNETES, Read};
use lists::ListKind;
pub use object::{Document, Object, ReadResult};
use parts::{DocumentPart, SyntaxError, json, yaml};
use serde_json::{Map, Value};

use super::{
    limits::{MAX_DOCUMENTS, MAX_NAME},
    problem::{FileProblem, bounded_problems},
    schema,
};
use crate::{
    api::{KIND, Name, ObjectName},
    model::ObjectKey,
    world::MAX_PROBLEMS,
};

/// The objects of a file.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    pub objects: Vec<Document>,
    /// Problems of documents that cannot be identified.
    pub problems: Vec<FileProblem>,
    /// The kinds of the objects in these documents.
    pub hidden: HiddenKinds,
    /// Problems of objects that can be read nevertheless.
    pub remarks: Vec<FileProblem>,
    /// The number of objects of other kinds.
    pub passed_over: usize,
}

/// The value of a YAML text with at most one document.
///
/// # Errors
/// A sentence without the name of the file.
pub fn yaml_value(text: &str) -> Result<Value, String> {
    let mut documents = yaml(text).into_iter();
    let first = documents.next().transpose().map_err(|problem| problem.message)?;
    match documents.next() {
        None => Ok(first.map_or(Value::Null, |(_, value)| value)),
        Some(Err(problem)) => Err(problem.message),
        Some(Ok(_)) => Err("has several YAML documents: write only one".into()),
    }
}

impl Documents {
    /// Reads YAML, or JSON if the name of the file ends in `.json`. Objects of other kinds are skipped. Parts that are
    /// neither YAML nor JSON are skipped with a problem for each.
    ///
    /// `namespace` is the namespace of objects that set none.
    pub fn read(file: &Path, text: &str, namespace: &str) -> Self {
        let is_json = file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        let title = file.display().to_string();
        let origin =
            Origin { file: Some(title.as_str().into()), is_kustomization: is_kustomization(file), title, namespace };
        if is_json { Self::of(&origin, json(text)) } else { Self::of(&origin, yaml(text)) }
    }

    /// Reads text without a file name: JSON if it begins with a brace and is valid JSON, otherwise YAML.
    pub fn read_unnamed(title: &str, text: &str, namespace: &str) -> Self {
        let is_json = text.trim_start().starts_with('{') && json(text).all(|part| part.is_ok());
        let origin = Origin { title: title.into(), file: None, is_kustomization: false, namespace };
        if is_json { Self::of(&origin, json(text)) } else { Self::of(&origin, yaml(text)) }
    }

    fn of(origin: &Origin, parts: impl IntoIterator<Item = DocumentPart>) -> Self {
        let title = &origin.title;
        let (mut documents, mut omitted) = (Self::default(), 0);
        for part in parts {
            match part {
                Ok((line, value)) => documents.add(origin, &format!("{title}:{line}"), line, value),
                Err(SyntaxError { message, line }) => {
                    documents.add_hidden(origin.problem(line, format!("{title}: {message}")));
                }
            }
            // A small file may contain a million of them.
            omitted += documents.problems.len().saturating_sub(MAX_PROBLEMS);
            documents.problems.truncate(MAX_PROBLEMS);
        }
        documents.bounded(origin, omitted)
    }

    /// Applies the limits of one file.
    fn bounded(mut self, origin: &Origin, omitted: usize) -> Self {
        if self.objects.len() > MAX_DOCUMENTS {
            let count = self.objects.len();
            self.objects.truncate(MAX_DOCUMENTS);
            // First in the list, so that the limit does not drop it.
            let many = format!(
                "{}: has {count} objects: write at most {MAX_DOCUMENTS} into one file; the others are ignored",
                origin.title
            );
            self.problems.insert(0, origin.problem(None, many));
            self.hidden = HiddenKinds::Any;
        }
        self.problems = bounded_problems(self.problems, omitted, MAX_PROBLEMS);
        self.remarks = bounded_problems(self.remarks, 0, MAX_PROBLEMS);
        self
    }

    /// Adds the problem of a document of unknown kind.
    fn add_hidden(&mut self, problem: FileProblem) {
        self.hidden = HiddenKinds::Any;
        self.problems.push(problem);
    }

    fn add(&mut self, origin: &Origin, place: &str, line: u64, value: Value) {
        let text = |field: &str| value[field].as_str().unwrap_or_default();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        let problem = |sentence: String| origin.problem(Some(line), format!("{place}: {sentence}"));
        if let Some(list) = ListKind::of(api_version, kind) {
            match list.items(value) {
                Ok(items) => {
                    for (index, item) in items.into_iter().enumerate() {
                        self.add(origin, &format!("{place} items[{index}]"), line, item);
                    }
                }
                Err(sentence) => self.add_hidden(problem(sentence)),
            }
            return;
        }
        if lists::is_mistyped(&value) {
            let list = "write `apiVersion: v1`, `kind: List`, and the objects below `items`";
            self.add_hidden(problem(format!("looks like a list of objects, but is not a supported one: {list}")));
            return;
        }
        if lacks_kind(&value) {
            return self.add_hidden(problem("has no kind: write for example `kind: Secret`".into()));
        }
        match DocumentKind::of(api_version, kind) {
            DocumentKind::Ours(known, read) => match identity(&value, origin.namespace, known) {
                Ok(key) => {
                    let is_template = is_template(&value);
                    let without_value = if known == KIND { schema::fields_without_value(&value) } else { Vec::new() };
                    let Read { object, remarks } = read(value);
                    let remark = |remark: String| problem(format!("{known} {key}: {remark}")).of_object(known, &key);
                    self.remarks.extend(remarks.into_iter().map(remark));
                    let (file, place) = (origin.file.clone(), place.into());
                    self.objects.push(Document { place, file, line, key, object, without_value, is_template });
                }
                // No manifest can refer to an object whose name the API server generates.
                Err(_) if known != KIND && is_named_by_server(&value) => self.passed_over += 1,
                Err(wrong) => {
                    self.hidden.add(known);
                    self.problems.push(problem(format!("{kind} {wrong}")));
                }
            },
            DocumentKind::Mistyped(_) if origin.is_kustomization && api_version.is_empty() && kind.is_empty() => {
                self.passed_over += 1;
            }
            DocumentKind::Mistyped(sentence) => self.add_hidden(problem(sentence)),
            DocumentKind::Other => {
                tracing::debug!(place, kind, "ignoring an object of another kind");
                self.passed_over += 1;
            }
        }
    }
}

/// The kinds of the objects in documents that cannot be identified.
#[derive(Clone, Debug)]
pub enum HiddenKinds {
    Only(BTreeSet<&'static str>),
    Any,
}

impl Default for HiddenKinds {
    fn default() -> Self {
        Self::Only(BTreeSet::new())
    }
}

impl HiddenKinds {
    fn add(&mut self, kind: &'static str) {
        if let Self::Only(kinds) = self {
            kinds.insert(kind);
        }
    }

    /// True if an object of this kind may be in one of the documents.
    pub fn may_have(&self, kind: &str) -> bool {
        match self {
            Self::Only(kinds) => kinds.contains(kind),
            Self::Any => true,
        }
    }
}

/// The maximum length of the name of a load balancer, so that derived names fit into 63 characters.
const MAX_LOAD_BALANCER_NAME: usize = 52;

/// The source of documents.
struct Origin<'a> {
    /// The name for messages.
    title: String,
    /// See [`FileProblem::file`].
    file: Option<Arc<str>>,
    is_kustomization: bool,
    /// The namespace of objects that set none.
    namespace: &'a str,
}

impl Origin<'_> {
    fn problem(&self, line: Option<u64>, message: String) -> FileProblem {
        FileProblem { message, file: self.file.clone(), line, object: None }
    }
}

/// True for the file that kustomize reads first, which needs neither `apiVersion` nor `kind`.
fn is_kustomization(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name == "kustomization.yaml" || name == "kustomization.yml")
}

/// True for an object without a kind that may be of a relevant one. Charts of Helm have an `apiVersion` too.
fn lacks_kind(document: &Value) -> bool {
    let is_relevant = KUBERNETES.iter().any(|(api_version, _)| document["apiVersion"] == *api_version);
    let has_kind = document["kind"].as_str().is_some_and(|kind| !kind.is_empty());
    is_relevant && !has_kind && document["metadata"].is_object()
}

fn is_named_by_server(document: &Value) -> bool {
    document["metadata"]["generateName"].as_str().is_some_and(|prefix| !prefix.is_empty())
}

/// True if a tool replaces values before the object is applied: the document is encrypted by SOPS, or has placeholders
/// of the Argo CD Vault Plugin.
fn is_template(document: &Value) -> bool {
    let is_replaced = |text: &str| {
        let text = text.trim();
        text.starts_with("ENC[") && text.ends_with(']')
            || text.starts_with('<') && text.ends_with('>') && !text.contains(char::is_whitespace)
    };
    let values = ["data", "stringData", "binaryData"].iter().filter_map(|section| document[section].as_object());
    let has_replaced = values.flat_map(Map::values).any(|value| value.as_str().is_some_and(is_replaced));
    document.get("sops").is_some() || has_replaced
}

/// The object's key, or the reason why it has none. An object with an invalid name has none: it may be one that is served
/// and whose name is being edited.
fn identity(document: &Value, namespace: &str, kind: &str) -> Result<ObjectKey, String> {
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
    let namespace = text("namespace")?.unwrap_or(namespace);
    let longest = if kind == KIND { MAX_LOAD_BALANCER_NAME } else { MAX_NAME };
    for (field, text, longest) in [("name", name, longest), ("namespace", namespace, MAX_NAME)] {
        if text.len() > longest {
            let length = text.len();
            return Err(format!("has a metadata.{field} of {length} bytes: write at most {longest}"));
        }
    }
    let invalid = |field: &str, problem: String| format!("has an invalid metadata.{field}: {problem}");
    name.parse::<ObjectName>().map_err(|problem| invalid("name", problem))?;
    namespace.parse::<Name>().map_err(|problem| invalid("namespace", problem))?;
    Ok(ObjectKey::new(namespace, name))
}

fn plain(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        _ => "my-name".into(),
    }
}
