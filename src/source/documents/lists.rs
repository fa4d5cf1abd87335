//! Lists of objects.

use serde_json::Value;

use super::kind::{DocumentKind, KUBERNETES, is_ours};
use crate::{
    api::{GROUP, KIND, VERSION},
    source::schema::near,
};

/// A supported list of objects.
pub enum ListKind {
    /// Objects of any kind, each with its own kind.
    Any,
    /// Objects of this kind, which the API server does not repeat in each object.
    Of(&'static str),
}

impl ListKind {
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        let listed = kind.strip_suffix("List")?;
        let ours = (&*format!("{GROUP}/{VERSION}") == api_version && listed == KIND).then_some(KIND);
        let kubernetes = KUBERNETES.iter().find(|entry| **entry == (api_version, listed)).map(|(_, kind)| *kind);
        let any = (api_version == "v1" && listed.is_empty()).then_some(Self::Any);
        any.or_else(|| ours.or(kubernetes).map(Self::Of))
    }

    /// The objects of the list, each with its kind.
    ///
    /// # Errors
    /// A sentence that names the field, if it is not a list of objects.
    pub fn items(&self, mut list: Value) -> Result<Vec<Value>, String> {
        let mut fields = list.as_object().into_iter().flat_map(|fields| fields.keys());
        let unknown = |field: &&String| !["apiVersion", "kind", "metadata", "items"].contains(&field.as_str());
        if let Some(field) = fields.find(unknown) {
            return Err(format!("there is no field `{field}` in a list: write the objects below `items`"));
        }
        let api_version = list["apiVersion"].take();
        let mut items = match list.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => items,
            // Otherwise a deleted or wrongly indented value would delete all objects of the list.
            Some(Value::Null) => {
                return Err("items: has no value: write the objects below it, or `items: []` if there are none".into());
            }
            Some(_) => return Err("items: must be a list (entries that start with `- `)".into()),
            None => return Err("items: is missing: write the objects below `items`".into()),
        };
        if let Self::Of(kind) = self {
            for fields in items.iter_mut().filter_map(Value::as_object_mut) {
                fields.entry("apiVersion").or_insert_with(|| api_version.clone());
                fields.entry("kind").or_insert_with(|| (*kind).into());
            }
        }
        Ok(items)
    }
}

/// True if an object of another kind was probably meant as a supported list: it has load balancers, or its kind is
/// named like a list, and it has objects of a supported kind, or is named after one.
pub fn is_mistyped(object: &Value) -> bool {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let lower = kind.to_lowercase();
    let listed = lower.strip_suffix("lists").or_else(|| lower.strip_suffix("list"));
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let is_known_group = group == GROUP || !group.contains('.') || group.ends_with(".k8s.io");
    let mut kinds = KUBERNETES.iter().map(|(_, kind)| *kind).chain([KIND]);
    let is_called_after = |listed: &str| kinds.any(|kind| near(listed, [&*kind.to_lowercase()]).is_some());
    let fields = object.as_object().into_iter().flat_map(|fields| fields.values());
    let mut items = fields.filter_map(Value::as_array).flatten();
    let is_read = |item: &Value| {
        let text = |field: &str| item[field].as_str().unwrap_or_default();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        match listed {
            _ if kind.is_empty() => false,
            // Other objects may contain objects of Kubernetes.
            None => is_ours(api_version, kind),
            Some(_) => !matches!(DocumentKind::of(api_version, kind), DocumentKind::Other),
        }
    };
    is_known_group && listed.is_some_and(is_called_after) || items.any(is_read)
}
