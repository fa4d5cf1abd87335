//! An event in the log data model of OpenTelemetry, with the attributes of its
//! [semantic conventions](https://opentelemetry.io/docs/specs/semconv/registry/attributes/). The client is `client`, the
//! endpoint is `server`, and the other end of the TCP connection is `network.peer`. Attributes of tcplb that the
//! conventions do not have begin with `tcplb.`.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::event::{Event, FullConnectionId, Kind, ProcessIdentity, seconds};
use crate::proxy::{accounting::CloseReason, tls::ClientTls};

/// [Severity numbers](https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber).
const INFO: (u8, &str) = (9, "INFO");
const WARN: (u8, &str) = (13, "WARN");

pub fn write_otel(text: &mut Vec<u8>, event: &Event, process: &ProcessIdentity) {
    let mut resource = OtelAttributes::default();
    resource.set("service.name", "tcplb");
    resource.set("service.version", env!("CARGO_PKG_VERSION"));
    resource.set("service.instance.id", &*process.replica);
    let (severity, severity_text) = if event.kind.is_failure() { WARN } else { INFO };
    let time = nanoseconds(event.at);
    let record = json!({
        "timeUnixNano": time,
        "observedTimeUnixNano": time,
        "severityNumber": severity,
        "severityText": severity_text,
        "eventName": format!("tcplb.connection.{}", event.kind.label()),
        "body": {"stringValue": event.message()},
        "attributes": attributes(event, process).0,
    });
    let scope = json!({"scope": {"name": "tcplb.access"}, "logRecords": [record]});
    let line = json!({"resourceLogs": [{"resource": {"attributes": resource.0}, "scopeLogs": [scope]}]});
    // Writing to memory does not fail.
    let _ = serde_json::to_writer(text, &line);
}

fn attributes(event: &Event, process: &ProcessIdentity) -> OtelAttributes {
    let mut attributes = OtelAttributes::default();
    let reason = event.kind.reason();
    attributes.set("network.transport", "tcp");
    attributes.set("network.type", if event.client.is_ipv4() { "ipv4" } else { "ipv6" });
    attributes.set("client.address", event.client.ip().to_string());
    attributes.set("client.port", event.client.port());
    attributes.set("network.peer.address", event.peer.ip().to_string());
    attributes.set("network.peer.port", event.peer.port());
    attributes.set_if("server.address", event.endpoint.map(|endpoint| endpoint.ip().to_string()));
    attributes.set_if("server.port", event.endpoint.map(|endpoint| endpoint.port()));
    attributes.set_if("error.type", reason.filter(|reason| reason.is_failure()).map(CloseReason::label));
    attributes.set("tcplb.connection.id", FullConnectionId { process, id: event.id }.to_string());
    attributes.set("tcplb.load_balancer", &*event.listener.load_balancer);
    attributes.set("tcplb.listener", &*event.listener.label);
    attributes.set("tcplb.listener.name", &*event.listener.name);
    attributes.set_if("tcplb.route", event.route.as_deref());
    attributes.set_if("tcplb.backend", event.backend.as_deref());
    if let Some(tls) = &event.tls {
        describe_tls(&mut attributes, tls);
    }
    attributes.set_if("tcplb.connect.duration", event.connect.map(seconds));
    if event.kind != Kind::Start {
        attributes.set("tcplb.attempts", event.attempts.count);
        attributes.set("tcplb.bytes.to_backend", event.bytes_to_backend);
        attributes.set("tcplb.bytes.to_client", event.bytes_to_client);
        attributes.set("tcplb.connection.duration", seconds(event.duration));
    }
    attributes.set_if("tcplb.outcome", reason.map(CloseReason::outcome));
    attributes.set_if("tcplb.reason", reason.map(CloseReason::label));
    let failed: Vec<_> = event.attempts.failed.iter().map(|failed| json!(failed)).collect();
    attributes.set_if("tcplb.failed_endpoints", (!failed.is_empty()).then_some(failed));
    attributes
}

fn describe_tls(attributes: &mut OtelAttributes, tls: &ClientTls) {
    let agreed = tls.agreed.as_ref();
    let identity = agreed.and_then(|agreed| agreed.identity.as_ref());
    attributes.set("tls.established", agreed.is_some());
    attributes.set_if("tls.protocol.name", agreed.map(|_| "tls"));
    attributes.set_if("tls.protocol.version", agreed.map(|agreed| agreed.version.trim_start_matches("TLS")));
    attributes.set_if("tls.resumed", agreed.map(|agreed| agreed.resumed));
    attributes.set_if("tls.client.subject", identity.map(|identity| &*identity.subject));
    // `tls.client.server_name` is deprecated in favour of `server.address`, which is the endpoint here.
    attributes.set_if("tcplb.tls.server_name", tls.server_name.as_deref());
    attributes.set_if("tcplb.tls.client_fault", tls.fault.map(|fault| fault.label()));
}

/// A list of `KeyValue`.
#[derive(Default)]
struct OtelAttributes(Vec<Value>);

impl OtelAttributes {
    fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.0.push(json!({"key": name, "value": any_value(value.into())}));
    }

    fn set_if(&mut self, name: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }
}

/// An `AnyValue`. 64-bit integers are strings in the JSON encoding of Protocol Buffers.
fn any_value(value: Value) -> Value {
    match value {
        Value::String(text) => json!({"stringValue": text}),
        Value::Bool(value) => json!({"boolValue": value}),
        Value::Number(number) if number.is_f64() => json!({"doubleValue": number}),
        Value::Number(number) => json!({"intValue": number.to_string()}),
        Value::Array(values) => {
            let values: Vec<_> = values.into_iter().map(any_value).collect();
            json!({"arrayValue": {"values": values}})
        }
        Value::Object(members) => {
            let values: Vec<_> =
                members.into_iter().map(|(key, value)| json!({"key": key, "value": any_value(value)})).collect();
            json!({"kvlistValue": {"values": values}})
        }
        Value::Null => json!({}),
    }
}

/// Nanoseconds since 1970, as a string.
fn nanoseconds(at: SystemTime) -> String {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}
