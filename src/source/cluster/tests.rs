mod api_server;
mod reading;
mod watching;

use serde_json::{Value, json};

use super::received_object::ReceivedObject;

/// A load balancer as the API server sends it.
fn load_balancer(name: &str, uid: &str, generation: i64, spec: &Value) -> Value {
    json!({
        "apiVersion": "tcplb.io/v1alpha1", "kind": "TcpLoadBalancer",
        "metadata": {
            "namespace": "shop", "name": name, "uid": uid, "generation": generation,
            "creationTimestamp": "2026-01-02T03:04:05Z", "resourceVersion": generation.to_string(),
            "managedFields": [{"manager": "kubectl"}],
        },
        "spec": spec,
    })
}

fn good_spec(port: u16) -> Value {
    json!({"listeners": [{"port": port}], "backends": [{"service": {"name": "pg", "port": 5432}}]})
}

fn object(value: Value) -> ReceivedObject {
    serde_json::from_value(value).unwrap()
}
