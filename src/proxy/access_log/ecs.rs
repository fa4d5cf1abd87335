//! An event in the Elastic Common Schema. The client is the source, and the endpoint the destination. Fields of tcplb
//! that the schema does not have are below `tcplb`.

use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use super::event::{Event, FullConnectionId, Kind, ProcessIdentity, seconds, timestamp};
use crate::proxy::{accounting::CloseReason, tls::ClientTls};

/// The version of the schema.
const ECS_VERSION: &str = "8.17.0";

pub fn write_ecs(text: &mut Vec<u8>, event: &Event, process: &ProcessIdentity) {
    let mut fields = EcsFields::default();
    describe_event(&mut fields, event, process);
    describe_network(&mut fields, event);
    if let Some(tls) = &event.tls {
        describe_tls(&mut fields, tls);
    }
    describe_connection(&mut fields, event, process);
    // Writing to memory does not fail.
    let _ = serde_json::to_writer(text, &fields.0);
}

fn describe_event(fields: &mut EcsFields, event: &Event, process: &ProcessIdentity) {
    let reason = event.kind.reason();
    let types = match event.kind {
        Kind::Start => json!(["connection", "start"]),
        Kind::End(reason) if reason.is_refusal() => json!(["connection", "denied", "end"]),
        Kind::End(_) => json!(["connection", "end"]),
    };
    fields.set("@timestamp", format!("{:.6}", timestamp(event.at)));
    fields.set("ecs.version", ECS_VERSION);
    fields.set("log.level", if event.kind.is_failure() { "warn" } else { "info" });
    fields.set("message", event.message());
    fields.set("event.kind", "event");
    fields.set("event.category", json!(["network"]));
    fields.set("event.type", types);
    fields.set("event.action", format!("connection-{}", event.kind.label()));
    fields.set("event.dataset", "tcplb.access");
    fields.set("event.module", "tcplb");
    fields.set_if("event.outcome", reason.map(CloseReason::outcome));
    fields.set_if("event.reason", reason.map(CloseReason::label));
    fields.set_if("event.duration", reason.map(|_| event.duration.as_nanos() as u64));
    fields.set("service.name", "tcplb");
    fields.set("service.version", env!("CARGO_PKG_VERSION"));
    fields.set("service.node.name", &*process.replica);
}

fn describe_network(fields: &mut EcsFields, event: &Event) {
    let (to_backend, to_client) = (event.bytes_to_backend, event.bytes_to_client);
    fields.set("network.transport", "tcp");
    fields.set("network.type", if event.client.is_ipv4() { "ipv4" } else { "ipv6" });
    fields.set_address("source", event.client);
    if let Some(endpoint) = event.endpoint {
        fields.set_address("destination", endpoint);
    }
    if event.kind != Kind::Start {
        fields.set("source.bytes", to_backend);
        fields.set("destination.bytes", to_client);
        fields.set("network.bytes", to_backend.saturating_add(to_client));
    }
}

fn describe_tls(fields: &mut EcsFields, tls: &ClientTls) {
    let agreed = tls.agreed.as_ref();
    let identity = agreed.and_then(|agreed| agreed.identity.as_ref());
    fields.set("tls.established", agreed.is_some());
    fields.set_if("tls.version", agreed.map(|agreed| agreed.version.trim_start_matches("TLS")));
    fields.set_if("tls.version_protocol", agreed.map(|_| "tls"));
    fields.set_if("tls.resumed", agreed.map(|agreed| agreed.resumed));
    fields.set_if("tls.client.server_name", tls.server_name.as_deref());
    fields.set_if("tls.client.subject", identity.map(|identity| &*identity.subject));
    fields.set_if("tcplb.tls_client_fault", tls.fault.map(|fault| fault.label()));
}

fn describe_connection(fields: &mut EcsFields, event: &Event, process: &ProcessIdentity) {
    let failed: Vec<_> = event.attempts.failed.iter().map(|failed| json!(failed)).collect();
    fields.set("tcplb.connection_id", FullConnectionId { process, id: event.id }.to_string());
    fields.set("tcplb.load_balancer", &*event.listener.load_balancer);
    fields.set("tcplb.listener", &*event.listener.label);
    fields.set("tcplb.listener_name", &*event.listener.name);
    fields.set_address("tcplb.peer", event.peer);
    fields.set_if("tcplb.route", event.route.as_deref());
    fields.set_if("tcplb.backend", event.backend.as_deref());
    fields.set_if("tcplb.attempts", event.kind.reason().map(|_| event.attempts.count));
    fields.set_if("tcplb.failed_endpoints", (!failed.is_empty()).then_some(failed));
    fields.set_if("tcplb.connect_seconds", event.connect.map(seconds));
}

/// Nested objects: `source.ip` is the member `ip` of the object `source`.
#[derive(Default)]
struct EcsFields(Map<String, Value>);

impl EcsFields {
    fn set(&mut self, name: &str, value: impl Into<Value>) {
        let mut object = &mut self.0;
        let (path, member) = name.rsplit_once('.').unwrap_or(("", name));
        for part in path.split('.').filter(|part| !part.is_empty()) {
            let below = object.entry(part).or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(below) = below else { return };
            object = below;
        }
        object.insert(member.to_owned(), value.into());
    }

    fn set_if(&mut self, name: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }

    fn set_address(&mut self, name: &str, address: SocketAddr) {
        self.set(&format!("{name}.ip"), address.ip().to_string());
        self.set(&format!("{name}.port"), address.port());
    }
}
