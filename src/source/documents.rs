//! Reads the text of a manifest file into objects.

mod lists;
mod octal;
mod parts;
#[cfg(test)]
mod tests;
mod unique;

use std::{fmt, path::Path, sync::Arc};

use k8s_openapi::{
    ByteString,
    api::{
        core::v1::{ConfigMap, Secret, Service},
        discovery::v1::EndpointSlice,
    },
};
use lists::List;
use parts::{Part, SyntaxError, json, yaml};
use serde_json::{Map, Value};

use super::{
    limits::{MAX_DOCUMENTS, MAX_NAME as MAX_ANY_NAME, MAX_PROBLEMS},
    problem::{FileProblem, bounded_problems},
    schema::{self, Checked, near},
};
use crate::{
    api::{GROUP, KIND, Name, ObjectName, TcpLoadBalancerSpec, VERSION},
    model::ObjectKey,
};

/// What a file declares.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    pub objects: Vec<Document>,
    /// About documents of which nobody can say what object they are.
    pub problems: Vec<FileProblem>,
    /// About objects that can be read all the same.
    pub remarks: Vec<FileProblem>,
    /// The number of objects of other kinds.
    pub passed_over: usize,
}

/// An object that a file declares.
#[derive(Clone)]
pub struct Document {
    /// The file and line it starts at, for people.
    pub place: Arc<str>,
    /// See [`FileProblem::file`].
    pub file: Option<Arc<str>>,
    /// The line alone; zero: it comes from no file.
    pub line: u64,
    pub key: ObjectKey,
    pub object: Object,
    /// A tool is to replace values in it: see [`Files::templates`](super::Files::templates).
    pub is_template: bool,
}

impl Document {
    /// The kind and key, which tell it from all others.
    pub fn identity(&self) -> (&'static str, &ObjectKey) {
        (self.object.kind(), &self.key)
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
    ConfigMap(Readable<ConfigMap>),
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
            Self::ConfigMap(_) => "ConfigMap",
            Self::Service(_) => "Service",
            Self::EndpointSlice(_) => "EndpointSlice",
        }
    }
}

impl Documents {
    /// Reads YAML, or JSON where the file's name ends so. Objects of other kinds are passed over, and so is what is
    /// neither YAML nor JSON, with a problem for each such part.
    ///
    /// Objects without a namespace are in this one.
    pub fn read(file: &Path, text: &str, namespace: &str) -> Self {
        let is_json = file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        let title = file.display().to_string();
        let origin =
            Origin { file: Some(title.as_str().into()), is_kustomization: is_kustomization(file), title, namespace };
        if is_json { Self::of(&origin, json(text)) } else { Self::of(&origin, yaml(text)) }
    }

    /// Reads what has no file name: JSON where it begins with a brace, if it is JSON, otherwise YAML.
    pub fn read_unnamed(title: &str, text: &str, namespace: &str) -> Self {
        let is_json = text.trim_start().starts_with('{') && json(text).all(|part| part.is_ok());
        let origin = Origin { title: title.into(), file: None, is_kustomization: false, namespace };
        if is_json { Self::of(&origin, json(text)) } else { Self::of(&origin, yaml(text)) }
    }

    fn of(origin: &Origin, parts: impl IntoIterator<Item = Part>) -> Self {
        let title = &origin.title;
        let (mut documents, mut untold) = (Self::default(), 0);
        for part in parts {
            match part {
                Ok((line, value)) => documents.add(origin, &format!("{title}:{line}"), line, value),
                Err(SyntaxError { message, line }) => {
                    documents.problems.push(origin.problem(line, format!("{title}: {message}")));
                }
            }
            // A small file may have a million of them.
            untold += documents.problems.len().saturating_sub(MAX_PROBLEMS);
            documents.problems.truncate(MAX_PROBLEMS);
        }
        documents.bounded(origin, untold)
    }

    /// Applies the limits of one file.
    fn bounded(mut self, origin: &Origin, untold: usize) -> Self {
        if self.objects.len() > MAX_DOCUMENTS {
            let count = self.objects.len();
            self.objects.truncate(MAX_DOCUMENTS);
            // First of all, so that it is not left out itself.
            let many = format!(
                "{}: has {count} objects: write at most {MAX_DOCUMENTS} into one file; those after that are left out",
                origin.title
            );
            self.problems.insert(0, origin.problem(None, many));
        }
        self.problems = bounded_problems(self.problems, untold, MAX_PROBLEMS);
        self.remarks = bounded_problems(self.remarks, 0, MAX_PROBLEMS);
        self
    }

    fn add(&mut self, origin: &Origin, place: &str, line: u64, value: Value) {
        let text = |field: &str| value[field].as_str().unwrap_or_default();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        let problem = |sentence: String| origin.problem(Some(line), format!("{place}: {sentence}"));
        if let Some(list) = List::of(api_version, kind) {
            match list.items(value) {
                Ok(items) => {
                    for (index, item) in items.into_iter().enumerate() {
                        self.add(origin, &format!("{place} items[{index}]"), line, item);
                    }
                }
                Err(sentence) => self.problems.push(problem(sentence)),
            }
            return;
        }
        if lists::is_mistyped(&value) {
            let list = "write `apiVersion: v1`, `kind: List`, and the objects below `items`";
            self.problems.push(problem(format!("is meant as a list of objects, but none that is read: {list}")));
            return;
        }
        match Kind::of(api_version, kind) {
            Kind::Ours(read) => match identity(&value, origin.namespace) {
                Ok((key, problems)) => {
                    let is_template = is_template(&value);
                    let Read { object, remarks } = read(value, problems);
                    let kind = object.kind();
                    let remark = |remark: String| problem(format!("{kind} {key}: {remark}")).of_object(kind, &key);
                    self.remarks.extend(remarks.into_iter().map(remark));
                    let (file, place) = (origin.file.clone(), place.into());
                    self.objects.push(Document { place, file, line, key, object, is_template });
                }
                // Nothing can refer to an object whose name the server makes.
                Err(_) if !is_ours(api_version, kind) && is_named_by_server(&value) => self.passed_over += 1,
                Err(wrong) => self.problems.push(problem(format!("{kind} {wrong}"))),
            },
            Kind::Mistyped(_) if origin.is_kustomization && api_version.is_empty() && kind.is_empty() => {
                self.passed_over += 1;
            }
            Kind::Mistyped(sentence) => self.problems.push(problem(sentence)),
            Kind::Other => {
                tracing::debug!(place, kind, "an object of another kind is passed over");
                self.passed_over += 1;
            }
        }
    }
}

/// The source of documents.
struct Origin<'a> {
    /// Its name, for people.
    title: String,
    /// See [`FileProblem::file`].
    file: Option<Arc<str>>,
    is_kustomization: bool,
    /// That of objects that name none.
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

/// What a document is, going by its `apiVersion` and `kind`.
enum Kind {
    /// Read by this, which is also told what is wrong with its metadata.
    Ours(fn(Value, Vec<String>) -> Read),
    Mistyped(String),
    Other,
}

/// The kinds of Kubernetes' own that matter here.
const KUBERNETES: [(&str, &str); 4] =
    [("v1", "Secret"), ("v1", "ConfigMap"), ("v1", "Service"), ("discovery.k8s.io/v1", "EndpointSlice")];

impl Kind {
    fn of(api_version: &str, kind: &str) -> Self {
        match (api_version, kind) {
            ("v1", "Secret") => Self::Ours(|value, problems| Read::of(value, problems, secret, Object::Secret)),
            ("v1", "ConfigMap") => {
                Self::Ours(|value, problems| Read::of(value, problems, schema::config_map, Object::ConfigMap))
            }
            ("v1", "Service") => {
                Self::Ours(|value, problems| Read::of(value, problems, schema::service, Object::Service))
            }
            ("discovery.k8s.io/v1", "EndpointSlice") => {
                Self::Ours(|value, problems| Read::of(value, problems, schema::endpoint_slice, Object::EndpointSlice))
            }
            // Whatever its version and kind are: an object that was served and is now mistyped has not been deleted.
            _ if is_ours(api_version, kind) => Self::Ours(|value, problems| {
                let read = |value| load_balancer(value).map(Checked::without_remarks);
                Read::of(value, problems, read, Object::LoadBalancer)
            }),
            ("", "") => Self::Mistyped(format!(
                "is not a Kubernetes object: begin it with `apiVersion: {GROUP}/{VERSION}` and `kind: {KIND}`"
            )),
            _ => match KUBERNETES.into_iter().find_map(|wanted| mistyped(api_version, kind, wanted)) {
                Some(problem) => Self::Mistyped(problem),
                None => Self::Other,
            },
        }
    }
}

/// What to write instead, if something like this was meant.
fn mistyped(api_version: &str, kind: &str, (wanted_version, wanted): (&str, &str)) -> Option<String> {
    let [its_group, wanted_group] =
        [api_version, wanted_version].map(|version| version.split_once('/').map_or("", |(group, _)| group));
    // Other groups may well have a kind of the same name.
    let kubernetes_own = !its_group.contains('.') || its_group.ends_with(".k8s.io");
    if api_version == wanted_version {
        near(kind, [wanted])
            .map(|_| format!("there is no kind `{kind}` in {api_version}: write `{wanted}`, if that is meant"))
    } else if kind == wanted && (kubernetes_own || near(its_group, [wanted_group]).is_some()) {
        Some(match api_version {
            "" => format!("{kind} has no apiVersion: write `apiVersion: {wanted_version}`"),
            _ => format!("there is no {kind} in {api_version}: write `apiVersion: {wanted_version}`"),
        })
    } else {
        None
    }
}

/// Whether a document is a load balancer, or was meant to be one.
fn is_ours(api_version: &str, kind: &str) -> bool {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let (project, _) = GROUP.split_once('.').unwrap_or((GROUP, ""));
    // Groups without a dot are Kubernetes' own, which have no such kind.
    let is_near =
        || !group.contains('.') || near(group, [GROUP]).is_some() || group.split('.').any(|label| label == project);
    group == GROUP || api_version == GROUP || near(kind, [KIND]).is_some() && is_near()
}

fn is_named_by_server(document: &Value) -> bool {
    document["metadata"]["generateName"].as_str().is_some_and(|prefix| !prefix.is_empty())
}

/// True if a tool replaces values before the object is applied: it is encrypted by SOPS, or has placeholders of the Argo CD
/// Vault Plugin.
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

/// The object's key and what is wrong with its metadata, or why it has no key.
fn identity(document: &Value, namespace: &str) -> Result<(ObjectKey, Vec<String>), String> {
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
    // The name is part of much that is said and remembered.
    for (field, text) in [("name", name), ("namespace", namespace)] {
        if text.len() > MAX_ANY_NAME {
            let length = text.len();
            return Err(format!("has a metadata.{field} of {length} bytes: write at most {MAX_ANY_NAME}"));
        }
    }
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

/// What was made of a document.
struct Read {
    object: Object,
    remarks: Vec<String>,
}

impl Read {
    fn of<T>(
        value: Value,
        mut problems: Vec<String>,
        read: impl FnOnce(Value) -> Result<Checked<T>, Vec<String>>,
        object: fn(Readable<T>) -> Object,
    ) -> Self {
        match read(value) {
            Ok(Checked { object: read, remarks }) if problems.is_empty() => {
                Self { object: object(Ok(Arc::new(read))), remarks }
            }
            Ok(Checked { remarks, .. }) => Self { object: object(Err(problems)), remarks },
            Err(more) => {
                problems.extend(more);
                Self { object: object(Err(problems)), remarks: Vec::new() }
            }
        }
    }
}

/// The longest name, so that what is made of it fits into 63 characters.
const MAX_NAME: usize = 52;

fn load_balancer(mut value: Value) -> Result<TcpLoadBalancerSpec, Vec<String>> {
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
    let metadata = schema::metadata(&value["metadata"]);
    if !metadata.is_empty() {
        // Once is enough.
        value["metadata"] = Value::Object(Map::new());
        problems.extend(metadata);
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
fn secret(mut value: Value) -> Result<Checked<Secret>, Vec<String>> {
    if let Some(data) = value["data"].as_object_mut() {
        unfold(data);
    }
    let sentence = |path: &str| match path.split('.').next() {
        Some("data") => "is not base64: encode it, or write the text itself below `stringData`",
        Some("stringData") => "must be text: write it with quotes, or as a block after `|`",
        _ => "is not what a Secret has there",
    };
    let mut checked = schema::secret(value, sentence)?;
    for (name, text) in checked.object.string_data.take().unwrap_or_default() {
        checked.object.data.get_or_insert_default().insert(name, ByteString(text.into_bytes()));
    }
    Ok(checked)
}

/// Takes line breaks out of base64 text, which the server's decoder passes over.
fn unfold(data: &mut Map<String, Value>) {
    for value in data.values_mut() {
        if let Value::String(text) = value {
            text.retain(|c| !matches!(c, '\n' | '\r'));
        }
    }
}
