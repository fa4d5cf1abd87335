//! The JSON form of an event, and its schema.

use std::net::SocketAddr;

use jiff::Timestamp;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde::{Serialize, Serializer};

use super::event::{Event, FailedEndpoint, FullConnectionId, ProcessIdentity, seconds, timestamp};
use crate::proxy::{
    accounting::{CloseReason, FAILURE, SUCCESS},
    tls::HandshakeFault,
};

pub fn write_json(text: &mut Vec<u8>, event: &Event, process: &ProcessIdentity) {
    // Writing to memory does not fail.
    let _ = serde_json::to_writer(text, &JsonEvent::of(event, process));
}

/// The schema of a line in the format `json`.
pub fn schema() -> serde_json::Value {
    let settings = SchemaSettings::default().for_serialize();
    settings.into_generator().into_root_schema_for::<JsonEvent<'static>>().to_value()
}

/// A connection event in the access log of tcplb. Readers must accept additional fields.
#[derive(JsonSchema, Serialize)]
#[schemars(title = "Access log event of tcplb")]
struct JsonEvent<'a> {
    /// The time of the event: UTC, always with six decimals of the second.
    #[schemars(with = "String", extend("format" = "date-time"))]
    #[serde(serialize_with = "write_time")]
    time: Timestamp,
    /// `start` when the connection is admitted, or `end`.
    #[schemars(extend("enum" = ["start", "end"]))]
    event: &'static str,
    /// The connection: the start time of the process, the worker and a number. Unique together with `replica`.
    #[schemars(with = "String")]
    connection_id: FullConnectionId<'a>,
    /// The name of the process: the pod or host.
    replica: &'a str,
    /// The load balancer, as `namespace/name`.
    load_balancer: &'a str,
    /// The listener, as `namespace/name:port`.
    listener: &'a str,
    /// The listener's `name` in the manifest; by default its port.
    listener_name: &'a str,
    /// The address of the other end of the TCP connection: the client, or a load balancer in front.
    #[schemars(with = "String")]
    peer: SocketAddr,
    /// The effective address of the client: the address in the PROXY header, otherwise the peer.
    #[schemars(with = "String")]
    client: SocketAddr,
    /// The TLS version; absent without a completed handshake.
    #[schemars(with = "String", extend("enum" = ["TLS1.2", "TLS1.3"]))]
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_version: Option<&'static str>,
    /// The server name that the client asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    tls_server_name: Option<&'a str>,
    /// The subject of the client's certificate, at most 256 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    tls_client: Option<&'a str>,
    /// The route: its first server name, or `*` for the default route. Absent without a matching route, and if the
    /// listener has a single route for all clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    route: Option<&'a str>,
    /// The backend of the endpoint, as named in `spec.backends`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    backend: Option<&'a str>,
    /// The endpoint that the client was connected to; absent if none was reached.
    #[schemars(with = "String")]
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<SocketAddr>,
    /// The number of endpoints tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u16")]
    attempts: Option<u16>,
    /// The endpoints that could not be reached, in the order of the attempts; at most 10.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    failed_endpoints: &'a [FailedEndpoint],
    /// Bytes written to the backend, without TLS and PROXY headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    bytes_to_backend: Option<u64>,
    /// Bytes written to the client, without TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    bytes_to_client: Option<u64>,
    /// The time from the choice of the first endpoint to an established connection, including failed attempts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "f64")]
    connect_seconds: Option<f64>,
    /// The time from accept to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "f64")]
    duration_seconds: Option<f64>,
    /// `failure` if the connection was refused, aborted, or never connected to a backend.
    #[schemars(with = "String", extend("enum" = [SUCCESS, FAILURE]))]
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    /// The close reason.
    #[schemars(with = "String", extend("enum" = CloseReason::ALL.map(CloseReason::label).to_vec()))]
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// With the reasons `tls_failed` and `tls_client_certificate`: the cause of the failed handshake.
    #[schemars(with = "String", extend("enum" = HandshakeFault::ALL.map(HandshakeFault::label).to_vec()))]
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_client_fault: Option<&'static str>,
}

impl<'a> JsonEvent<'a> {
    fn of(event: &'a Event, process: &'a ProcessIdentity) -> Self {
        let tls = event.tls.as_deref();
        let agreed = tls.and_then(|tls| tls.agreed.as_ref());
        let reason = event.kind.reason();
        Self {
            time: timestamp(event.at),
            event: event.kind.label(),
            connection_id: FullConnectionId { process, id: event.id },
            replica: &process.replica,
            load_balancer: &event.listener.load_balancer,
            listener: &event.listener.label,
            listener_name: &event.listener.name,
            peer: event.peer,
            client: event.client,
            tls_version: agreed.map(|agreed| agreed.version),
            tls_server_name: tls.and_then(|tls| tls.server_name.as_deref()),
            tls_client: agreed.and_then(|agreed| Some(&*agreed.identity.as_ref()?.subject)),
            route: event.route.as_deref(),
            backend: event.backend.as_deref(),
            endpoint: event.endpoint,
            attempts: reason.map(|_| event.attempts.count),
            failed_endpoints: &event.attempts.failed,
            bytes_to_backend: reason.map(|_| event.bytes_to_backend),
            bytes_to_client: reason.map(|_| event.bytes_to_client),
            connect_seconds: event.connect.map(seconds),
            duration_seconds: reason.map(|_| seconds(event.duration)),
            outcome: reason.map(CloseReason::outcome),
            reason: reason.map(CloseReason::label),
            tls_client_fault: tls.and_then(|tls| Some(tls.fault?.label())),
        }
    }
}

/// Writes a time with all digits, so that times sort as text.
fn write_time<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.6}"))
}
