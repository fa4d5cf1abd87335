use std::{borrow::Cow, fmt};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, api::ApiResource, core::DynamicResourceScope};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::{Map, Value};

/// An object with any content, as the API server sends it.
///
/// Like [`DynamicObject`](kube::api::DynamicObject), but the text is read once: serde copies all fields of a flattened
/// structure before it reads them.
#[derive(Clone, Debug)]
pub struct ReceivedObject {
    pub metadata: ObjectMeta,
    /// The other fields, without `apiVersion` and `kind`.
    pub fields: Map<String, Value>,
}

impl ReceivedObject {
    /// Removes a field. Null: it is missing.
    pub fn take(&mut self, field: &str) -> Value {
        self.fields.remove(field).unwrap_or_default()
    }
}

impl<'de> Deserialize<'de> for ReceivedObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor)
    }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = ReceivedObject;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ReceivedObject, A::Error> {
        let (mut metadata, mut fields) = (ObjectMeta::default(), Map::new());
        while let Some(field) = map.next_key::<String>()? {
            match field.as_str() {
                "metadata" => metadata = map.next_value()?,
                "apiVersion" | "kind" => {
                    map.next_value::<IgnoredAny>()?;
                }
                _ => {
                    fields.insert(field, map.next_value()?);
                }
            }
        }
        Ok(ReceivedObject { metadata, fields })
    }
}

impl Resource for ReceivedObject {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_read_in_any_order_from_text_and_from_values() {
        let text = r#"{"spec": {"a": [1, "x"]}, "kind": "Service", "metadata": {"name": "pg"}, "apiVersion": "v1"}"#;
        let of_text: ReceivedObject = serde_json::from_str(text).unwrap();
        let of_value: ReceivedObject = serde_json::from_value(serde_json::from_str(text).unwrap()).unwrap();
        for mut object in [of_text, of_value] {
            assert_eq!(object.meta().name.as_deref(), Some("pg"));
            assert_eq!(object.take("spec"), json!({"a": [1, "x"]}));
            assert_eq!((object.take("status"), object.fields.len()), (Value::Null, 0));
        }
        let bare: ReceivedObject = serde_json::from_str("{}").unwrap();
        assert_eq!(bare.metadata, ObjectMeta::default());
        assert!(serde_json::from_str::<ReceivedObject>("[]").is_err());
    }
}
