use std::{borrow::Cow, collections::BTreeMap, fmt};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::{Resource, api::ApiResource, core::DynamicResourceScope};
use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeOwned, Error, IgnoredAny, MapAccess, Visitor,
        value::{MapAccessDeserializer, MapDeserializer},
    },
};
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

/// An object with any content, as the API server sends it.
///
/// Like [`DynamicObject`](kube::api::DynamicObject), but the fields remain JSON until they are read as their type, and
/// `metadata.managedFields` is ignored: both save most of the time and memory for reading an object.
#[derive(Clone, Debug)]
pub struct ReceivedObject {
    pub metadata: ObjectMeta,
    /// The other fields, without `apiVersion` and `kind`.
    fields: Vec<(String, Json)>,
}

impl ReceivedObject {
    /// The JSON of a field. Null: it is missing.
    pub fn field(&self, name: &str) -> &RawValue {
        self.fields.iter().find(|(field, _)| field == name).map_or(RawValue::NULL, |(_, Json(value))| value)
    }

    /// Reads all fields except `metadata`.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        T::deserialize(MapDeserializer::new(self.fields.iter().map(|(field, Json(value))| (field.as_str(), &**value))))
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
        let (mut metadata, mut fields) = (Metadata::default(), Vec::new());
        while let Some(field) = map.next_key::<String>()? {
            match field.as_str() {
                "metadata" => metadata = map.next_value()?,
                "apiVersion" | "kind" => {
                    map.next_value::<IgnoredAny>()?;
                }
                _ => fields.push((field, map.next_value()?)),
            }
        }
        Ok(ReceivedObject { metadata: metadata.into(), fields })
    }
}

/// [`ObjectMeta`] without the fields that only the API server uses.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    annotations: Option<BTreeMap<String, String>>,
    creation_timestamp: Option<Timestamp>,
    deletion_timestamp: Option<Timestamp>,
    finalizers: Option<Vec<String>>,
    generation: Option<i64>,
    labels: Option<BTreeMap<String, String>>,
    name: Option<String>,
    namespace: Option<String>,
    owner_references: Option<Vec<OwnerReference>>,
    resource_version: Option<String>,
    uid: Option<String>,
}

impl From<Metadata> for ObjectMeta {
    fn from(metadata: Metadata) -> Self {
        Self {
            annotations: metadata.annotations,
            creation_timestamp: metadata.creation_timestamp.map(Time),
            deletion_timestamp: metadata.deletion_timestamp.map(Time),
            finalizers: metadata.finalizers,
            generation: metadata.generation,
            labels: metadata.labels,
            name: metadata.name,
            namespace: metadata.namespace,
            owner_references: metadata.owner_references,
            resource_version: metadata.resource_version,
            uid: metadata.uid,
            ..Self::default()
        }
    }
}

/// JSON in text form. A [`RawValue`] can be read from text only; this type also from anything else, such as an event of a
/// watch whose `object` precedes its `type`.
#[derive(Clone, Debug)]
struct Json(Box<RawValue>);

/// The name by which serde_json recognises that text is wanted.
const WANTS_TEXT: &str = "$serde_json::private::RawValue";

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(WANTS_TEXT, JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    /// serde_json passes text as a map.
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Json, A::Error> {
        Box::<RawValue>::deserialize(MapAccessDeserializer::new(map)).map(Json)
    }

    /// Everything else calls this.
    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        to_raw_value(&Value::deserialize(deserializer)?).map(Json).map_err(D::Error::custom)
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
    use kube::api::WatchEvent;
    use serde_json::json;

    use super::*;

    const TEXT: &str = r#"{"spec": {"a": [1.50, "x"]}, "kind": "Service", "metadata": {"name": "pg", "labels": null,
        "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [{"fieldsV1": {"f:spec": {}}}]}, "apiVersion": "v1"}"#;

    #[test]
    fn objects_are_read_from_text_and_from_values() {
        let of_text: ReceivedObject = serde_json::from_str(TEXT).unwrap();
        assert_eq!(of_text.field("spec").get(), r#"{"a": [1.50, "x"]}"#, "the text itself");
        let of_value: ReceivedObject = serde_json::from_value(serde_json::from_str(TEXT).unwrap()).unwrap();
        for object in [of_text, of_value] {
            assert_eq!(object.meta().name.as_deref(), Some("pg"));
            assert_eq!(object.meta().creation_timestamp, Some(Time("2026-01-01T00:00:00Z".parse().unwrap())));
            assert_eq!(object.meta().managed_fields, None);
            assert_eq!(object.read::<Value>().unwrap(), json!({"spec": {"a": [1.5, "x"]}}));
            assert_eq!(object.field("status").get(), "null");
        }
        let bare: ReceivedObject = serde_json::from_str("{}").unwrap();
        assert_eq!((bare.read::<Value>().unwrap(), bare.metadata), (json!({}), ObjectMeta::default()));
        assert!(serde_json::from_str::<ReceivedObject>("[]").is_err());
    }

    #[test]
    fn events_are_read_in_any_order_of_their_fields() {
        let type_first = format!(r#"{{"type": "ADDED", "object": {TEXT}}}"#);
        let object_first = format!(r#"{{"object": {TEXT}, "type": "ADDED"}}"#);
        for text in [type_first, object_first] {
            let WatchEvent::Added::<ReceivedObject>(object) = serde_json::from_str(&text).unwrap() else {
                panic!("another type: {text}")
            };
            assert_eq!(object.meta().name.as_deref(), Some("pg"));
            assert_eq!(object.read::<Value>().unwrap(), json!({"spec": {"a": [1.5, "x"]}}));
        }
    }
}
