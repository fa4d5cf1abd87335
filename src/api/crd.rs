use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

use super::{scalar::format, spec::TcpLoadBalancer};

/// The annotation of the CustomResourceDefinition that has the [`schema_hash`].
pub const SCHEMA_HASH: &str = "tcplb.io/schema-hash";

/// The CustomResourceDefinition as it is published.
pub fn crd() -> CustomResourceDefinition {
    let published = published();
    let hash = hash(&published);
    let mut crd: CustomResourceDefinition = serde_json::from_value(published).expect("a tidied CRD is a CRD");
    crd.metadata.annotations = Some([(SCHEMA_HASH.to_owned(), hash)].into());
    crd
}

/// A hash of the published schema: its fields, limits, defaults and rules, without the descriptions. If the CRD in a
/// cluster has another hash, the API server may drop fields that this program knows.
pub fn schema_hash() -> String {
    hash(&published())
}

fn hash(published: &Value) -> String {
    let mut schema = published["spec"]["versions"][0]["schema"].clone();
    remove_descriptions(&mut schema);
    format!("{:016x}", xxh3_64(schema.to_string().as_bytes()))
}

fn published() -> Value {
    let mut value = generated();
    remove_formats(&mut value);
    // Marks objects that no controller has processed. Without this default, tools that wait for a new object would
    // consider it finished.
    value["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["default"] =
        json!({"observedGeneration": -1});
    value
}

/// The OpenAPI schema of a whole `TcpLoadBalancer`: the published schema, and a `format` for each type that
/// [`format()`] knows.
pub fn schema() -> Value {
    generated()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take()
}

fn generated() -> Value {
    let mut value = serde_json::to_value(TcpLoadBalancer::crd()).expect("a CRD is JSON");
    tidy(&mut value);
    value
}

fn remove_formats(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("format").and_then(Value::as_str).is_some_and(|name| format(name).is_some()) {
                map.remove("format");
            }
            map.values_mut().for_each(remove_formats);
        }
        Value::Array(list) => list.iter_mut().for_each(remove_formats),
        _ => {}
    }
}

/// Removes all descriptions. A field named `description` holds a schema, not a text, and is kept.
fn remove_descriptions(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|name, value| name != "description" || !value.is_string());
            map.values_mut().for_each(remove_descriptions);
        }
        Value::Array(list) => list.iter_mut().for_each(remove_descriptions),
        _ => {}
    }
}

/// Removes what the API server only warns about: `nullable` on optional fields, unsigned formats, and `null` in enums.
/// Also removes the line breaks of descriptions, because `kubectl explain` wraps lines itself.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("nullable");
            if let Some(Value::String(description)) = map.get_mut("description") {
                *description = description.replace('\n', " ");
            }
            if map.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
                map.remove("format");
            }
            if let Some(Value::Array(values)) = map.get_mut("enum") {
                values.retain(|value| !value.is_null());
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(list) => list.iter_mut().for_each(tidy),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_hash_ignores_descriptions() {
        let published = published();
        assert_eq!(crd().metadata.annotations.unwrap()[SCHEMA_HASH], schema_hash());
        let schema = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
        for (place, value, same) in [
            (schema, "description", true),
            ("/metadata", "name", true),
            ("/spec/versions/0", "additionalPrinterColumns", true),
            (schema, "required", false),
            (&format!("{schema}/properties"), "connect", false),
            (&format!("{schema}/properties/className"), "x-kubernetes-validations", false),
        ] {
            let mut other = published.clone();
            other.pointer_mut(place).and_then(Value::as_object_mut).unwrap().remove(value).unwrap();
            assert_eq!(hash(&other) == hash(&published), same, "{place}/{value}");
        }
    }

    #[test]
    fn the_published_schema_has_no_line_breaks_and_no_own_formats() {
        fn visit(value: &Value) {
            match value {
                Value::Object(map) => {
                    let text = |name: &str| map.get(name).and_then(Value::as_str).unwrap_or_default();
                    assert!(!text("description").contains('\n'), "{}", text("description"));
                    assert!(["", "int64", "date-time"].contains(&text("format")), "{}", text("format"));
                    map.values().for_each(visit);
                }
                Value::Array(list) => list.iter().for_each(visit),
                _ => {}
            }
        }
        visit(&published());
    }
}
