//! Removes values from objects and texts that may be secret. Pure.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// Stands for a removed value.
pub const REMOVED: &str = "<removed>";

/// The fields of health checks with texts that are sent to backends or expected from them.
pub const CHECK_TEXTS: [&str; 3] = ["send", "expect", "headers"];
/// Annotations whose values are kept: those of this program and of rollouts. Others may contain anything.
const KEPT_ANNOTATIONS: [&str; 5] = [
    "deployment.kubernetes.io/revision",
    "deprecated.daemonset.template.generation",
    "kubectl.kubernetes.io/restartedAt",
    "tcplb.io/",
    "endpoints.kubernetes.io/",
];
/// Environment variables of containers whose values are kept.
const KEPT_VARIABLES: [&str; 1] = ["RUST_LOG"];
/// The begin and end of the types of private keys in PEM.
const KEY_END: &str = "PRIVATE KEY-----";
/// The words before the received and before the expected bytes in the failure of an exchange.
const ANSWERED: &str = "answered ";
const EXPECTED: &str = ", expected `";

/// An object without annotations, environment variables, arguments of foreign containers, and texts of health checks.
pub fn object(mut object: Value) -> Value {
    visit(&mut object);
    if object["kind"] == "TcpLoadBalancer" {
        health_checks(&mut object["spec"]);
    }
    // A snapshot.
    if object["loadBalancers"].is_array() {
        health_checks(&mut object["loadBalancers"]);
    }
    if object["kind"] == "Secret" || object["kind"] == "ConfigMap" && !is_allocations(&object) {
        return Value::from(REMOVED);
    }
    object
}

/// True if all keys of a ConfigMap are ports.
fn is_allocations(object: &Value) -> bool {
    let data = object["data"].as_object().into_iter().flatten();
    object["binaryData"].is_null() && data.into_iter().all(|(key, _)| key.parse::<u16>().is_ok())
}

fn visit(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("managedFields");
            if let Some(Value::Object(annotations)) = map.get_mut("annotations") {
                annotations.retain(|key, _| key != "kubectl.kubernetes.io/last-applied-configuration");
                let removed = annotations.iter_mut().filter(|(key, _)| !is_kept(key));
                removed.for_each(|(_, value)| *value = REMOVED.into());
            }
            for kind in ["containers", "initContainers", "ephemeralContainers"] {
                let containers = map.get_mut(kind).and_then(Value::as_array_mut).into_iter().flatten();
                containers.filter_map(Value::as_object_mut).for_each(container);
            }
            map.values_mut().for_each(visit);
        }
        Value::Array(list) => list.iter_mut().for_each(visit),
        _ => {}
    }
}

fn is_kept(annotation: &str) -> bool {
    KEPT_ANNOTATIONS.iter().any(|kept| annotation == *kept || kept.ends_with('/') && annotation.starts_with(kept))
}

fn container(container: &mut Map<String, Value>) {
    let variables = container.get_mut("env").and_then(Value::as_array_mut).into_iter().flatten();
    for variable in variables.filter(|variable| !variable["value"].is_null()) {
        if !KEPT_VARIABLES.iter().any(|kept| variable["name"] == *kept) {
            variable["value"] = REMOVED.into();
        }
    }
    let is_replica = container
        .get("ports")
        .and_then(Value::as_array)
        .is_some_and(|ports| ports.iter().any(|port| port["name"] == "admin"));
    if !is_replica {
        for field in ["command", "args", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
            if let Some(value) = container.get_mut(field) {
                *value = REMOVED.into();
            }
        }
    }
}

/// Replaces the texts of active checks.
fn health_checks(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if CHECK_TEXTS.contains(&key.as_str()) {
                    *value = REMOVED.into();
                } else {
                    health_checks(value);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(health_checks),
        _ => {}
    }
}

/// A text without private keys in PEM, and without the expected bytes of failed exchanges.
pub fn text(text: &str) -> String {
    without_keys(text).split_inclusive('\n').map(without_expected_bytes).collect()
}

/// A line without the expected bytes of failed exchanges. They may contain backticks, so the last one of the line is
/// their end.
fn without_expected_bytes(line: &str) -> Cow<'_, str> {
    let expected = |answered: usize| Some(answered + line[answered..].find(EXPECTED)? + EXPECTED.len());
    let Some(begin) = line.find(ANSWERED).and_then(expected) else { return line.into() };
    let (kept, after) = line.split_at(begin);
    let end = after.rfind('`').or_else(|| after.find('"')).unwrap_or(after.trim_end().len());
    format!("{kept}{REMOVED}{}", &after[end..]).into()
}

/// A text without private keys in PEM. Line ends inside a key may be escaped.
fn without_keys(text: &str) -> String {
    let (mut kept, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(begin) = private_key(rest) {
        kept += &rest[..begin];
        kept += REMOVED;
        let after_begin = begin + rest[begin..].find(KEY_END).map_or(0, |at| at + KEY_END.len());
        let end = rest[after_begin..].find(KEY_END).map(|at| after_begin + at + KEY_END.len());
        // A key without an end may continue up to the end of the text.
        rest = end.map_or("", |end| &rest[end..]);
    }
    kept + rest
}

/// The position of the first line `-----BEGIN … PRIVATE KEY-----`.
fn private_key(text: &str) -> Option<usize> {
    let begin = "-----BEGIN ";
    text.match_indices(begin).map(|(at, _)| at).find(|at| {
        let line = &text[at + begin.len()..];
        let label = line.split("-----").next().unwrap_or_default();
        label.ends_with("PRIVATE KEY") && label.len() < 40
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_that_may_be_secret_are_removed() {
        let check = json!({
            "exchange": {"send": {"text": "AUTH hunter2"}, "expect": {"text": "hunter2"}},
            "http": {"headers": [{"name": "Authorization", "value": "hunter2"}], "path": "/ready"},
            "postgres": {"user": "monitor", "passwordRef": {"name": "pg-monitor"}},
        });
        let load_balancer = object(json!({
            "kind": "TcpLoadBalancer",
            "metadata": {
                "name": "pg",
                "managedFields": [{"manager": "kubectl"}],
                "annotations": {
                    "kubectl.kubernetes.io/last-applied-configuration": "hunter2",
                    "example.com/token": "hunter2",
                    "tcplb.io/owner": "shop/pg",
                },
            },
            "spec": {"healthCheck": {"active": check}, "backends": [{"healthCheck": {"active": check}}]},
        }));
        let text = load_balancer.to_string();
        assert!(!text.contains("hunter2") && !text.contains("managedFields"), "{text}");
        for kept in ["\"tcplb.io/owner\":\"shop/pg\"", "pg-monitor", "/ready", "example.com/token"] {
            assert!(text.contains(kept), "{kept}: {text}");
        }

        let pod = object(json!({"kind": "Pod", "spec": {"containers": [
            {
                "name": "tcplb",
                "args": ["controller", "--class=tcplb"],
                "ports": [{"name": "admin"}],
                "env": [
                    {"name": "RUST_LOG", "value": "info"},
                    {"name": "TOKEN", "value": "hunter2"},
                    {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                ],
            },
            {"name": "mesh", "args": ["--token=hunter2"], "command": ["hunter2"]},
        ]}}));
        let text = pod.to_string();
        assert!(!text.contains("hunter2"), "{text}");
        for kept in ["--class=tcplb", "\"value\":\"info\"", "metadata.name"] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
    }

    #[test]
    fn secrets_and_foreign_config_maps_are_never_included() {
        for (value, kept) in [
            (json!({"kind": "Secret", "data": {"a": "aHVudGVyMg=="}}), false),
            (json!({"kind": "ConfigMap", "data": {"20000": "{}"}}), true),
            (json!({"kind": "ConfigMap", "data": {"20000": "{}", "password": "hunter2"}}), false),
            (json!({"kind": "ConfigMap", "data": {}, "binaryData": {"1": "aHVudGVyMg=="}}), false),
        ] {
            assert_eq!(object(value.clone()) == value, kept, "{value}");
        }
    }

    #[test]
    fn checks_in_snapshots_have_no_texts() {
        let exchange = json!({"send": "(hidden)", "expect": "+OK"});
        let snapshot = object(json!({"loadBalancers": [{"applied": {"probe": {"exchange": exchange}}}]}));
        assert!(!snapshot.to_string().contains("+OK"), "{snapshot}");
    }

    #[test]
    fn expected_bytes_are_removed_from_failures_in_any_form() {
        for (line, expected) in [
            ("answered nothing, expected `a`b`", "answered nothing, expected `<removed>`"),
            (
                r#""reason": "answered `x` in time, expected `a\"b`","#,
                r#""reason": "answered `x` in time, expected `<removed>`","#,
            ),
            (r#"{"reason":"answered nothing, expected `a"}"#, r#"{"reason":"answered nothing, expected `<removed>"}"#),
            ("answered nothing, expected `a", "answered nothing, expected `<removed>"),
            ("HTTP status 503, expected 200", "HTTP status 503, expected 200"),
            ("unknown field `a`, expected `b`", "unknown field `a`, expected `b`"),
        ] {
            assert_eq!(text(&format!("{line}\nnext `line`\n")), format!("{expected}\nnext `line`\n"));
        }
    }

    #[test]
    fn private_keys_are_removed_from_texts() {
        let begin = "-----BEGIN";
        for kind in ["", "RSA ", "EC ", "ENCRYPTED "] {
            let key = format!("{begin} {kind}PRIVATE KEY-----\nMII\n-----END {kind}PRIVATE KEY-----");
            assert_eq!(text(&format!("a {key} b {key}\n")), "a <removed> b <removed>\n");
            assert_eq!(text(&format!("a {}", key.replace('\n', "\\n"))), "a <removed>");
            assert_eq!(text(&format!("a {begin} {kind}PRIVATE KEY-----\nMII")), "a <removed>");
        }
        let certificate = format!("{begin} CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n");
        assert_eq!(text(&certificate), certificate);
    }
}
