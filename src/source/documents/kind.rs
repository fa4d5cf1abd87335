//! The relevant kinds of objects, and how each is read.

use std::sync::Arc;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use serde_json::{Map, Value};

use super::object::{Object, ReadResult};
use crate::{
    api::{GROUP, KIND, TcpLoadBalancerSpec, VERSION},
    source::schema::{self, Checked, near},
};

/// The kind of a document by its `apiVersion` and `kind`.
pub enum DocumentKind {
    /// The kind as it is correctly written, and the function that reads the object.
    Ours(&'static str, fn(Value) -> Read),
    Mistyped(String),
    Other,
}

/// The relevant built-in kinds of Kubernetes.
pub const KUBERNETES: [(&str, &str); 4] =
    [("v1", "Secret"), ("v1", "ConfigMap"), ("v1", "Service"), ("discovery.k8s.io/v1", "EndpointSlice")];

impl DocumentKind {
    pub fn of(api_version: &str, kind: &str) -> Self {
        match (api_version, kind) {
            ("v1", "Secret") => Self::Ours("Secret", |value| Read::of(value, secret, Object::Secret)),
            ("v1", "ConfigMap") => {
                Self::Ours("ConfigMap", |value| Read::of(value, schema::config_map, Object::ConfigMap))
            }
            ("v1", "Service") => Self::Ours("Service", |value| Read::of(value, schema::service, Object::Service)),
            ("discovery.k8s.io/v1", "EndpointSlice") => {
                Self::Ours("EndpointSlice", |value| Read::of(value, schema::endpoint_slice, Object::EndpointSlice))
            }
            // Applies to any version and kind: an object whose kind was mistyped in an edit has not been deleted.
            _ if is_ours(api_version, kind) => Self::Ours(KIND, |value| {
                let read = |value| load_balancer(value).map(Checked::without_remarks);
                Read::of(value, read, Object::LoadBalancer)
            }),
            ("", "") => Self::Mistyped(format!(
                "is not a Kubernetes object: start it with `apiVersion: {GROUP}/{VERSION}` and `kind: {KIND}`"
            )),
            _ => match KUBERNETES.into_iter().find_map(|wanted| mistyped(api_version, kind, wanted)) {
                Some(problem) => Self::Mistyped(problem),
                None => Self::Other,
            },
        }
    }
}

/// The correction, if a similar kind was probably meant.
fn mistyped(api_version: &str, kind: &str, (wanted_version, wanted): (&str, &str)) -> Option<String> {
    let [its_group, wanted_group] =
        [api_version, wanted_version].map(|version| version.split_once('/').map_or("", |(group, _)| group));
    // Other API groups may have a kind of the same name.
    let kubernetes_own = !its_group.contains('.') || its_group.ends_with(".k8s.io");
    if api_version == wanted_version {
        near(kind, [wanted]).map(|_| format!("there is no kind `{kind}` in {api_version}: did you mean `{wanted}`?"))
    } else if kind == wanted && (kubernetes_own || near(its_group, [wanted_group]).is_some()) {
        Some(match api_version {
            "" => format!("{kind} has no apiVersion: write `apiVersion: {wanted_version}`"),
            _ => format!("there is no {kind} in {api_version}: write `apiVersion: {wanted_version}`"),
        })
    } else {
        None
    }
}

/// True if a document is a load balancer, or was probably meant to be one.
pub fn is_ours(api_version: &str, kind: &str) -> bool {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let (project, _) = GROUP.split_once('.').unwrap_or((GROUP, ""));
    // Groups without a dot belong to Kubernetes, which has no such kind.
    let is_near =
        || !group.contains('.') || near(group, [GROUP]).is_some() || group.split('.').any(|label| label == project);
    group == GROUP || api_version == GROUP || near(kind, [KIND]).is_some() && is_near()
}

/// The object that was read from a document.
pub struct Read {
    pub object: Object,
    pub remarks: Vec<String>,
}

impl Read {
    fn of<T>(
        value: Value,
        read: impl FnOnce(Value) -> Result<Checked<T>, Vec<String>>,
        object: fn(ReadResult<T>) -> Object,
    ) -> Self {
        match read(value) {
            Ok(Checked { object: read, remarks }) => Self { object: object(Ok(Arc::new(read))), remarks },
            Err(problems) => Self { object: object(Err(problems)), remarks: Vec::new() },
        }
    }
}

fn load_balancer(mut value: Value) -> Result<TcpLoadBalancerSpec, Vec<String>> {
    let mut problems = Vec::new();
    let version = format!("{GROUP}/{VERSION}");
    let has_other_version = value["apiVersion"] != *version;
    for (field, wanted) in [("apiVersion", &*version), ("kind", KIND)] {
        if value[field] != *wanted {
            problems.push(format!("{field}: must be {wanted}: write `{field}: {wanted}`"));
        }
    }
    let metadata = schema::metadata(&value["metadata"]);
    if !metadata.is_empty() {
        // The metadata is checked only once.
        value["metadata"] = Value::Object(Map::new());
        problems.extend(metadata);
    }
    // The schema does not apply to fields of another version.
    if has_other_version {
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

/// A Secret with `stringData` merged into `data`, as the API server does. Messages about it do not quote it.
fn secret(mut value: Value) -> Result<Checked<Secret>, Vec<String>> {
    if let Some(data) = value["data"].as_object_mut() {
        unfold(data);
    }
    let sentence = |top_field: &str| match top_field {
        "data" => "is not base64: encode it, or write the plain text in `stringData`",
        "stringData" => "must be text: write it with quotes, or as a block after `|`",
        _ => "is not valid in a Secret",
    };
    let mut checked = schema::secret(value, sentence)?;
    for (name, text) in checked.object.string_data.take().unwrap_or_default() {
        checked.object.data.get_or_insert_default().insert(name, ByteString(text.into_bytes()));
    }
    Ok(checked)
}

/// Removes line breaks from base64 text. The API server's decoder ignores them.
fn unfold(data: &mut Map<String, Value>) {
    for value in data.values_mut() {
        if let Value::String(text) = value {
            text.retain(|c| !matches!(c, '\n' | '\r'));
        }
    }
}
