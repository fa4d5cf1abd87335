use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use super::{TcpLoadBalancer, format};

/// The CustomResourceDefinition as it is published.
pub fn crd() -> CustomResourceDefinition {
    let mut value = generated();
    remove_formats(&mut value);
    serde_json::from_value(value).expect("a tidied CRD is a CRD")
}

/// The OpenAPI schema of a whole `TcpLoadBalancer`: the published one, and a `format` wherever one of [`format()`] is
/// expected.
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

/// Takes out what the API server only warns about: `nullable` on optional fields, unsigned formats, `null` in enums.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("nullable");
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
