//! The table of all metrics.

use prometheus_client::{metrics::MetricType, registry::Unit};

use super::classic;

/// A metric with its documentation.
pub struct Family {
    /// The name without the suffixes for the unit and for counters.
    pub name: &'static str,
    pub kind: MetricType,
    pub unit: Option<Unit>,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

// The Prometheus operator sets the labels endpoint, namespace, pod, service, job, instance and container on every
// series. Metrics with the same label names would get them renamed to exported_…, so these names differ.
pub const LOAD_BALANCER: &[&str] = &["load_balancer_namespace", "load_balancer"];
pub const LISTENER: &[&str] = &["load_balancer_namespace", "load_balancer", "port"];
pub const ENDPOINT: &[&str] = &["load_balancer_namespace", "load_balancer", "backend", "endpoint_address"];

macro_rules! families {
    ($($id:ident: $name:literal $kind:ident $unit:expr, $labels:expr, $help:literal;)*) => {
        $(pub const $id: Family = Family { name: $name, kind: MetricType::$kind, unit: $unit, labels: $labels, help: $help };)*
        /// All families, in their output order.
        pub const FAMILIES: &[&Family] = &[$(&$id),*];
    };
}

families! {
    BUILD: "tcplb_build" Info None, &["version"], "Version of the program";
    ACCEPTED: "tcplb_connections_accepted" Counter None, LISTENER, "Accepted connections; always the sum of active and closed connections";
    CLOSED: "tcplb_connections_closed" Counter None, &["load_balancer_namespace", "load_balancer", "port", "reason"], "Closed and refused connections, by reason";
    ACTIVE: "tcplb_connections_active" Gauge None, LISTENER, "Open connections";
    GUARANTEED: "tcplb_connections_guaranteed" Gauge None, LOAD_BALANCER, "Connections guaranteed to the load balancer, regardless of the connections of others";
    SOURCES: "tcplb_source_entries" Gauge None, LISTENER, "Client addresses that are tracked for limits per source";
    DRAINING: "tcplb_connections_draining" Gauge None, &["load_balancer_namespace", "load_balancer", "reason"], "Open connections being drained, by close reason";
    OVERDUE: "tcplb_connections_draining_overdue" Gauge None, &["load_balancer_namespace", "load_balancer", "reason"], "Open connections of overdue drains, by close reason: all should have been closed more than 60 s ago";
    RELAYED: "tcplb_relayed" Counter Some(Unit::Bytes), &["load_balancer_namespace", "load_balancer", "port", "direction"], "Bytes relayed so far, also of open connections; direction is to_backend or to_client";
    CONNECT: "tcplb_connect_duration" Histogram Some(Unit::Seconds), LISTENER, "Time from the choice of the first endpoint to an established connection, including failed attempts";
    DURATION: "tcplb_connection_duration" Histogram Some(Unit::Seconds), LISTENER, "Duration of closed and refused connections";
    HANDSHAKES: "tcplb_tls_handshakes" Counter None, &["load_balancer_namespace", "load_balancer", "port", "result"], "TLS handshakes with clients; result is full, resumed, refused (no valid client certificate), failed or timeout";
    BACKEND_HANDSHAKES: "tcplb_backend_tls_handshakes" Counter None, &["load_balancer_namespace", "load_balancer", "port", "result"], "Completed TLS handshakes with backends; result is full or resumed. Failed ones count in tcplb_endpoint_connect_failures_total";
    CERTIFICATE: "tcplb_certificate_not_after_timestamp" Gauge Some(Unit::Seconds), &["load_balancer_namespace", "load_balancer", "port", "certificate"], "Expiry of a listener's certificate, in Unix time";
    BACKEND_CERTIFICATE: "tcplb_backend_certificate_not_after_timestamp" Gauge Some(Unit::Seconds), &["load_balancer_namespace", "load_balancer", "backend", "certificate"], "Expiry of the client certificate for a backend, in Unix time";
    USABLE: "tcplb_endpoint_usable" Gauge None, ENDPOINT, "1 if the endpoint may get new connections, otherwise 0";
    IN_SERVICE: "tcplb_endpoint_in_service" Gauge None, ENDPOINT, "1 if the endpoint's priority is active, 0 if it is on standby";
    HEALTHY: "tcplb_endpoint_healthy" Gauge None, ENDPOINT, "1 if the endpoint passes its active check or has none, otherwise 0";
    SHARE: "tcplb_endpoint_share_percent" Gauge None, ENDPOINT, "Percentage of the endpoint's weight that is in effect: below 100 during slow start";
    NEAR: "tcplb_endpoint_near" Gauge None, ENDPOINT, "1 if the endpoint is preferred because it is near this process, otherwise 0";
    EJECTED: "tcplb_endpoint_ejected" Gauge None, ENDPOINT, "1 while the endpoint is ejected because connections to it failed, otherwise 0";
    ENDPOINT_ACTIVE: "tcplb_endpoint_connections_active" Gauge None, ENDPOINT, "Open connections to the endpoint";
    ENDPOINT_CONNECTIONS: "tcplb_endpoint_connections" Counter None, ENDPOINT, "Connections to the endpoint made for clients";
    CONNECT_FAILURES: "tcplb_endpoint_connect_failures" Counter None, ENDPOINT, "Failed connection attempts to the endpoint, without probes";
    EJECTIONS: "tcplb_endpoint_ejections" Counter None, ENDPOINT, "Ejections of the endpoint";
    PROBES: "tcplb_endpoint_probes" Counter None, &["load_balancer_namespace", "load_balancer", "backend", "endpoint_address", "result"], "Probes of the endpoint; result is passed or failed";
    PRECONNECTED: "tcplb_endpoint_preconnected" Gauge None, ENDPOINT, "Preconnected sockets waiting for a client";
    PRECONNECT: "tcplb_endpoint_preconnect" Counter None, &["load_balancer_namespace", "load_balancer", "backend", "endpoint_address", "result"], "Requests for preconnected sockets; result is hit, miss, or discarded for a socket that was closed unused";
    UPSTREAM_ENDPOINTS: "tcplb_upstream_endpoints" Gauge None, &["load_balancer_namespace", "load_balancer", "state"], "Endpoints, without those that are not ready, terminating or drained; state is usable or unusable";
    SWITCHES: "tcplb_upstream_priority_switches" Counter None, LOAD_BALANCER, "Changes of the active priority: failovers and failbacks";
    GENERATION: "tcplb_configuration_generation" Gauge None, &[], "Generation of the applied configuration";
    PROBLEMS: "tcplb_configuration_problems" Gauge None, &["severity"], "Problems in the current manifests; severity is refused or warning";
    MISMATCHES: "tcplb_configuration_mismatches" Counter None, &[], "Translations with reused results that differed from a full translation; compared at most once per hour. More than 0 is a bug of tcplb";
    TRANSLATE: "tcplb_translate_duration" Histogram Some(Unit::Seconds), &[], "Duration of translating the manifests to a configuration";
    APPLY: "tcplb_apply_duration" Histogram Some(Unit::Seconds), &[], "Duration of applying a changed configuration to sockets and endpoints";
    UNBOUND: "tcplb_listeners_unbound" Gauge None, &[], "Listeners whose address could not be bound";
    LOGGED: "tcplb_access_log_events" Counter None, &["result"], "Closed connections, by their result in the access log: logged, dropped (writer too slow, or too many refusals) or suppressed (excluded by accessLog of the listener)";
    LIMIT: "tcplb_process_connections_limit" Gauge None, &[], "Connections allowed by the process's file descriptor limit, less what listening sockets and the process itself need";
    HANDSHAKE_MEMORY: "tcplb_handshake_memory" Gauge Some(Unit::Bytes), &[], "Memory of unfinished TLS handshakes beyond 8 KiB each; at most 16 MiB";
    RELAY_MEMORY: "tcplb_relay_memory" Gauge Some(Unit::Bytes), &[], "Bytes that open connections hold because their receivers are slow; from 32 MiB on, connections of load balancers above their guaranteed part read at most 4 KiB at once, or 16 KiB from senders with TLS";
    WORKER: "tcplb_worker_connections_active" Gauge None, &["worker"], "Open connections, by worker";
    SILENT: "tcplb_worker_heartbeat_age" Gauge Some(Unit::Seconds), &["worker"], "Time since the worker's last heartbeat";
    LOOKUPS: "tcplb_dns_lookups" Counter None, &["result"], "DNS lookups of backends; result is found, empty (no address), failed or timeout (5 s)";
    LOOKUP_DURATION: "tcplb_dns_lookup_duration" Histogram Some(Unit::Seconds), &[], "Duration of DNS lookups";
    WATCHES: "tcplb_watches" Gauge None, &["kind", "state"], "Watches of the API server, by kind of the objects; state is working or failing. In a cluster";
    WATCH_FAILURES: "tcplb_watch_failures" Counter None, &["kind", "reason"], "Failures of watches; reason is refused (by the API server) or unreachable. In a cluster";
    WATCH_OUTAGE_AGE: "tcplb_watch_outage_age" Gauge Some(Unit::Seconds), &["kind"], "Time for which the objects of this kind have not been updated completely: since the first of the failing watches failed, or 0. Secrets and ConfigMaps that the API server has refused since the start of the process do not count, because statuses show them; those of sidecars count. In a cluster";
    API_WRITES: "tcplb_api_writes" Counter None, &["resource", "result"], "Writes to the API server; result is ok, conflict (another writer was faster; repeated) or failed. Controller only";
    LEADER: "tcplb_leader" Gauge None, &["lease"], "1 if this replica is the leader, otherwise 0. Controller only";
    RECONCILE: "tcplb_reconcile_duration" Histogram Some(Unit::Seconds), &[], "Duration of reconciliations by the leader";
    REPLICAS: "tcplb_replicas" Gauge None, &["state"], "Replicas, without terminating ones; state is reporting, silent (ready, but the leader cannot read its report) or unready. Leader only";
    PORTS: "tcplb_proxy_ports" Gauge None, &["state"], "Ports of the range of proxy ports; state is allocated, cooldown (freed, not yet available) or free. Leader of the placement Gateway only";
    CONDITION: "tcplb_load_balancer_condition" Gauge None, &["load_balancer_namespace", "load_balancer", "type", "status"], "1 for the current status of each condition of each load balancer; status is True, False or Unknown. Leader only";
    CPU: "process_cpu" Counter Some(Unit::Seconds), &[], "User and system CPU time";
    RESIDENT_MEMORY: "process_resident_memory" Gauge Some(Unit::Bytes), &[], "Resident memory";
    VIRTUAL_MEMORY: "process_virtual_memory" Gauge Some(Unit::Bytes), &[], "Virtual memory";
    OPEN_FDS: "process_open_fds" Gauge None, &[], "Open file descriptors";
    MAX_FDS: "process_max_fds" Gauge None, &[], "Maximum number of open file descriptors";
    THREADS: "process_threads" Gauge None, &[], "Threads";
    START_TIME: "process_start_time" Gauge Some(Unit::Seconds), &[], "Start of the process, in Unix time";
}

/// The table of all metrics, for the documentation.
pub fn table() -> String {
    let mut text = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for family in FAMILIES {
        let unit = family.unit.as_ref().map(|unit| format!("_{}", unit.as_str())).unwrap_or_default();
        let kind = family.kind.as_str();
        let suffix = classic::sample_suffix(kind);
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let name = family.name;
        text += &format!("| `{name}{unit}{suffix}` | {kind} | {} | {} |\n", labels.join(", "), family.help);
    }
    text
}
