//! Metrics in Prometheus' text format, read from the live counters whenever somebody asks.

use std::{collections::BTreeMap, fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use crate::{
    model::{ObjectKey, UpstreamKey},
    proxy::{
        LiveListener, Monitor,
        accounting::{BUCKETS, CloseReason, HistogramTotals, Totals},
    },
    state::State,
    translate::Severity,
    upstream::{Endpoint, PoolFigures},
};

/// All metrics of this process.
#[derive(Debug)]
pub struct Metrics(Registry);

impl Metrics {
    pub fn new(monitor: Monitor, state: Arc<State>) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Live { monitor, state }));
        Self(registry)
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to memory does not fail.
        let _ = text::encode(&mut text, &self.0);
        text
    }
}

/// A metric, as it is documented.
struct Family {
    /// Without the suffixes for the unit and for counters.
    name: &'static str,
    kind: MetricType,
    unit: Option<Unit>,
    labels: &'static [&'static str],
    help: &'static str,
}

const LISTENER: &[&str] = &["load_balancer", "port"];
const ENDPOINT: &[&str] = &["load_balancer", "backend", "endpoint"];

macro_rules! families {
    ($($id:ident: $name:literal $kind:ident $unit:expr, $labels:expr, $help:literal;)*) => {
        $(const $id: Family = Family { name: $name, kind: MetricType::$kind, unit: $unit, labels: $labels, help: $help };)*
        /// All of them, in the order in which they are written.
        const FAMILIES: &[&Family] = &[$(&$id),*];
    };
}

families! {
    BUILD: "tcplb_build" Info None, &["version"], "The program's version";
    ACCEPTED: "tcplb_connections_accepted" Counter None, LISTENER, "Connections accepted; always connections_active plus connections_closed over all reasons";
    CLOSED: "tcplb_connections_closed" Counter None, &["load_balancer", "port", "reason"], "Connections ended, refusals among them, by reason";
    ACTIVE: "tcplb_connections_active" Gauge None, LISTENER, "Connections open now";
    DRAINING: "tcplb_connections_draining" Gauge None, &["load_balancer", "reason"], "Open connections of what gets no more of them and has those closed that it has, by the reason they are to be closed for";
    RELAYED: "tcplb_relayed" Counter Some(Unit::Bytes), &["load_balancer", "port", "direction"], "Bytes passed on, counted while they move; direction is to_backend or to_client";
    CONNECT: "tcplb_connect_duration" Histogram Some(Unit::Seconds), LISTENER, "Time from choosing the first endpoint to an established connection, failed attempts included";
    DURATION: "tcplb_connection_duration" Histogram Some(Unit::Seconds), LISTENER, "How long connections lasted, refusals among them";
    HANDSHAKES: "tcplb_tls_handshakes" Counter None, &["load_balancer", "port", "result"], "TLS handshakes with clients; result is full, resumed, refused (of clients without a right certificate), failed or timeout";
    BACKEND_HANDSHAKES: "tcplb_backend_tls_handshakes" Counter None, &["load_balancer", "port", "result"], "TLS handshakes with backends; result is full or resumed, and failed ones count among tcplb_endpoint_connect_failures";
    CERTIFICATE: "tcplb_certificate_not_after_timestamp" Gauge Some(Unit::Seconds), &["load_balancer", "port", "certificate"], "When a certificate that clients are shown expires, in Unix time";
    BACKEND_CERTIFICATE: "tcplb_backend_certificate_not_after_timestamp" Gauge Some(Unit::Seconds), &["load_balancer", "backend", "certificate"], "When the certificate that a backend is shown expires, in Unix time";
    USABLE: "tcplb_endpoint_usable" Gauge None, ENDPOINT, "1 if new connections may go to the endpoint, else 0";
    IN_SERVICE: "tcplb_endpoint_in_service" Gauge None, ENDPOINT, "0 while the endpoint stands by, since endpoints of another priority serve, else 1";
    HEALTHY: "tcplb_endpoint_healthy" Gauge None, ENDPOINT, "1 if the endpoint passes its active check or has none, else 0";
    SHARE: "tcplb_endpoint_share_percent" Gauge None, ENDPOINT, "How much of its weight counts: below 100 while the endpoint starts slowly";
    NEAR: "tcplb_endpoint_near" Gauge None, ENDPOINT, "1 if the endpoint is preferred since it is near this process, else 0";
    EJECTED: "tcplb_endpoint_ejected" Gauge None, ENDPOINT, "1 while the endpoint is ejected because connections to it failed, else 0";
    ENDPOINT_ACTIVE: "tcplb_endpoint_connections_active" Gauge None, ENDPOINT, "Connections the endpoint has now";
    ENDPOINT_CONNECTIONS: "tcplb_endpoint_connections" Counter None, ENDPOINT, "Connections made to the endpoint for clients";
    CONNECT_FAILURES: "tcplb_endpoint_connect_failures" Counter None, ENDPOINT, "Failed attempts to connect to the endpoint, probes not among them";
    EJECTIONS: "tcplb_endpoint_ejections" Counter None, ENDPOINT, "Times the endpoint was ejected";
    PROBES: "tcplb_endpoint_probes" Counter None, &["load_balancer", "backend", "endpoint", "result"], "Probes of the endpoint; result is passed or failed";
    PRECONNECTED: "tcplb_endpoint_preconnected" Gauge None, ENDPOINT, "Preconnected sockets that wait for a client";
    PRECONNECT: "tcplb_endpoint_preconnect" Counter None, &["load_balancer", "backend", "endpoint", "result"], "Preconnected sockets asked for or thrown away; result is hit, miss or discarded";
    UPSTREAM_ENDPOINTS: "tcplb_upstream_endpoints" Gauge None, &["load_balancer", "state"], "Endpoints; state is usable or unusable";
    SWITCHES: "tcplb_upstream_priority_switches" Counter None, &["load_balancer"], "Times that endpoints of another priority began to serve, failing over or back";
    GENERATION: "tcplb_configuration_generation" Gauge None, &[], "Generation of the configuration that is applied";
    PROBLEMS: "tcplb_configuration_problems" Gauge None, &["severity"], "What is wrong with the manifests now; severity is refused or warning";
    UNBOUND: "tcplb_listeners_unbound" Gauge None, &[], "Listeners whose address could not be bound";
    LOGGED: "tcplb_access_log_events" Counter None, &["result"], "Ends of connections; result is logged or dropped (the writer was behind, or there were too many refusals)";
    LIMIT: "tcplb_process_connections_limit" Gauge None, &[], "Connections that the process's file descriptors allow";
    WORKER: "tcplb_worker_connections_active" Gauge None, &["worker"], "Connections open now, by worker";
    SILENT: "tcplb_worker_heartbeat_age" Gauge Some(Unit::Seconds), &["worker"], "How long ago the worker was seen alive";
}

/// The table of all metrics, for the documentation.
pub fn table() -> String {
    let mut text = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for family in FAMILIES {
        let unit = family.unit.as_ref().map(|unit| format!("_{}", unit.as_str())).unwrap_or_default();
        let (suffix, kind) = match family.kind {
            MetricType::Counter => ("_total", "counter"),
            MetricType::Histogram => ("", "histogram"),
            MetricType::Info => ("_info", "info"),
            _ => ("", "gauge"),
        };
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let name = family.name;
        text += &format!("| `{name}{unit}{suffix}` | {kind} | {} | {} |\n", labels.join(", "), family.help);
    }
    text
}

#[derive(Debug)]
struct Live {
    monitor: Monitor,
    state: Arc<State>,
}

impl Collector for Live {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let view = self.monitor.view();
        let listeners: Vec<Listening> = view.listeners.iter().map(|listener| Listening::of(listener)).collect();
        let endpoints: Vec<Member> = view
            .upstreams
            .iter()
            .flat_map(|(key, upstream)| {
                upstream.endpoints().iter().map(|endpoint| Member::of(key, endpoint)).collect::<Vec<_>>()
            })
            .collect();
        let encoder = &mut Encoder(&mut encoder);

        encoder.family(&BUILD)?.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        encoder.counters(&ACCEPTED, listeners.iter().map(|l| (l.labels(), l.totals.accepted)))?;
        encoder.counters(
            &CLOSED,
            listeners.iter().flat_map(|l| {
                // A reason that never came is left out: most listeners ever see a few.
                CloseReason::ALL
                    .into_iter()
                    .map(|reason| (l.labels_and("reason", reason.label()), l.totals.closed(reason)))
                    .filter(|(_, count)| *count > 0)
            }),
        )?;
        encoder.gauges(&ACTIVE, listeners.iter().map(|l| (l.labels(), l.totals.active() as i64)))?;
        encoder.gauges(&DRAINING, draining(&self.monitor))?;
        encoder.counters(
            &RELAYED,
            listeners.iter().flat_map(|l| {
                [("to_backend", l.totals.bytes_to_backend), ("to_client", l.totals.bytes_to_client)]
                    .map(|(direction, bytes)| (l.labels_and("direction", direction), bytes))
            }),
        )?;
        encoder.histograms(&CONNECT, listeners.iter().map(|l| (l.labels(), &l.totals.connect)))?;
        encoder.histograms(&DURATION, listeners.iter().map(|l| (l.labels(), &l.totals.duration)))?;
        encoder.counters(
            &HANDSHAKES,
            listeners.iter().flat_map(|l| {
                [
                    ("full", l.totals.tls_full_handshakes),
                    ("resumed", l.totals.tls_resumed_handshakes),
                    ("refused", l.totals.closed(CloseReason::TlsClientCertificate)),
                    ("failed", l.totals.closed(CloseReason::TlsFailed)),
                    ("timeout", l.totals.closed(CloseReason::TlsTimeout)),
                ]
                .map(|(result, count)| (l.labels_and("result", result), count))
                .into_iter()
                .filter(|(_, count)| *count > 0)
            }),
        )?;
        encoder.counters(
            &BACKEND_HANDSHAKES,
            listeners.iter().flat_map(|l| {
                [("full", l.totals.backend_tls_full_handshakes), ("resumed", l.totals.backend_tls_resumed_handshakes)]
                    .map(|(result, count)| (l.labels_and("result", result), count))
                    .into_iter()
                    .filter(|(_, count)| *count > 0)
            }),
        )?;
        encoder.gauges(
            &CERTIFICATE,
            view.snapshot.listeners.iter().flat_map(|(key, listener)| {
                listener.tls.iter().flat_map(|tls| &tls.certificates).map(|certificate| {
                    let labels = vec![
                        ("load_balancer", key.object.to_string()),
                        ("port", key.port.to_string()),
                        ("certificate", certificate.source.to_string()),
                    ];
                    (labels, certificate.not_after.as_second())
                })
            }),
        )?;
        encoder.gauges(
            &BACKEND_CERTIFICATE,
            view.snapshot.upstreams.iter().flat_map(|(key, upstream)| {
                upstream.backends.iter().filter_map(|(name, backend)| {
                    let certificate = backend.shown_certificate()?;
                    let labels = vec![
                        ("load_balancer", key.to_string()),
                        ("backend", name.to_string()),
                        ("certificate", certificate.source.to_string()),
                    ];
                    Some((labels, certificate.not_after.as_second()))
                })
            }),
        )?;
        encoder.gauges(&USABLE, endpoints.iter().map(|e| (e.labels(), i64::from(e.endpoint.usable()))))?;
        encoder.gauges(&IN_SERVICE, endpoints.iter().map(|e| (e.labels(), i64::from(e.endpoint.in_service()))))?;
        encoder.gauges(&HEALTHY, endpoints.iter().map(|e| (e.labels(), i64::from(e.healthy))))?;
        encoder.gauges(&SHARE, endpoints.iter().map(|e| (e.labels(), i64::from(e.endpoint.share()))))?;
        encoder.gauges(&NEAR, endpoints.iter().map(|e| (e.labels(), i64::from(e.endpoint.near()))))?;
        encoder.gauges(&EJECTED, endpoints.iter().map(|e| (e.labels(), i64::from(e.ejected))))?;
        encoder.gauges(&ENDPOINT_ACTIVE, endpoints.iter().map(|e| (e.labels(), i64::from(e.endpoint.active()))))?;
        encoder.counters(&ENDPOINT_CONNECTIONS, endpoints.iter().map(|e| (e.labels(), e.endpoint.connections())))?;
        encoder.counters(&CONNECT_FAILURES, endpoints.iter().map(|e| (e.labels(), e.endpoint.connect_failures())))?;
        encoder.counters(&EJECTIONS, endpoints.iter().map(|e| (e.labels(), e.endpoint.ejections())))?;
        encoder.counters(
            &PROBES,
            endpoints.iter().flat_map(|e| {
                [("passed", e.endpoint.probes_passed()), ("failed", e.endpoint.probes_failed())]
                    .map(|(result, count)| (e.labels_and("result", result), count))
                    .into_iter()
                    .filter(|(_, count)| *count > 0)
            }),
        )?;
        encoder.gauges(&PRECONNECTED, endpoints.iter().map(|e| (e.labels(), e.pool.idle as i64)))?;
        encoder.counters(
            &PRECONNECT,
            endpoints.iter().flat_map(|e| {
                [("hit", e.pool.hits), ("miss", e.pool.misses), ("discarded", e.pool.discarded)]
                    .map(|(result, count)| (e.labels_and("result", result), count))
                    .into_iter()
                    .filter(|(_, count)| *count > 0)
            }),
        )?;
        encoder.gauges(
            &UPSTREAM_ENDPOINTS,
            view.upstreams.iter().flat_map(|(key, upstream)| {
                let usable = upstream.usable();
                [("usable", usable), ("unusable", upstream.endpoints().len().saturating_sub(usable))].map(
                    |(state, count)| (vec![("load_balancer", key.to_string()), ("state", state.into())], count as i64),
                )
            }),
        )?;
        encoder.counters(
            &SWITCHES,
            view.upstreams
                .iter()
                .map(|(key, upstream)| (vec![("load_balancer", key.to_string())], upstream.switches())),
        )?;
        encoder.gauges(&GENERATION, [(Vec::new(), view.snapshot.generation as i64)])?;
        let configuration = self.state.configuration();
        encoder.gauges(
            &PROBLEMS,
            [("refused", Severity::Refused), ("warning", Severity::Warning)]
                .map(|(name, severity)| (vec![("severity", name.into())], configuration.problems_of(severity) as i64)),
        )?;
        encoder.gauges(&UNBOUND, [(Vec::new(), view.report.unbound().count() as i64)])?;
        let log = self.monitor.access_log();
        encoder.counters(
            &LOGGED,
            [("logged", log.logged()), ("dropped", log.dropped())]
                .map(|(result, count)| (vec![("result", result.into())], count)),
        )?;
        encoder.gauges(&LIMIT, [(Vec::new(), self.monitor.capacity().limit() as i64)])?;
        let worker = |index: usize| vec![("worker", index.to_string())];
        let open = self.monitor.open_by_worker().enumerate();
        encoder.gauges(&WORKER, open.map(|(index, open)| (worker(index), open as i64)))?;
        let silent = self.monitor.workers_silent_for().enumerate();
        encoder.gauges(&SILENT, silent.map(|(index, age)| (worker(index), age.as_secs_f64())))
    }
}

/// Connections that are to be closed, by load balancer and reason.
fn draining(monitor: &Monitor) -> Vec<(Labels, i64)> {
    let mut open: BTreeMap<_, i64> = BTreeMap::new();
    for departing in &*monitor.departing() {
        *open.entry((departing.object.clone(), departing.reason)).or_default() += departing.gone.open() as i64;
    }
    let labels = |object: &ObjectKey, reason: CloseReason| {
        vec![("load_balancer", object.to_string()), ("reason", reason.label().into())]
    };
    open.iter().map(|((object, reason), open)| (labels(object, *reason), *open)).collect()
}

type Labels = Vec<(&'static str, String)>;

struct Listening {
    load_balancer: String,
    port: String,
    totals: Totals,
}

impl Listening {
    fn of(listener: &LiveListener) -> Self {
        let key = &listener.key;
        Self { load_balancer: key.object.to_string(), port: key.port.to_string(), totals: listener.counters.totals() }
    }

    fn labels(&self) -> Labels {
        vec![("load_balancer", self.load_balancer.clone()), ("port", self.port.clone())]
    }

    fn labels_and(&self, name: &'static str, value: &str) -> Labels {
        let mut labels = self.labels();
        labels.push((name, value.into()));
        labels
    }
}

struct Member {
    load_balancer: String,
    endpoint: Arc<Endpoint>,
    healthy: bool,
    ejected: bool,
    pool: PoolFigures,
}

impl Member {
    fn of(upstream: &UpstreamKey, endpoint: &Arc<Endpoint>) -> Self {
        let state = endpoint.state();
        Self {
            load_balancer: upstream.to_string(),
            endpoint: endpoint.clone(),
            healthy: state.healthy,
            ejected: state.ejected_until.is_some(),
            pool: endpoint.pool_figures(),
        }
    }

    fn labels(&self) -> Labels {
        let key = self.endpoint.key();
        vec![
            ("load_balancer", self.load_balancer.clone()),
            ("backend", key.backend.to_string()),
            ("endpoint", key.address.to_string()),
        ]
    }

    fn labels_and(&self, name: &'static str, value: &str) -> Labels {
        let mut labels = self.labels();
        labels.push((name, value.into()));
        labels
    }
}

/// Writes whole families.
struct Encoder<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Encoder<'_, '_> {
    fn family(&mut self, family: &'static Family) -> Result<MetricEncoder<'_>, fmt::Error> {
        self.0.encode_descriptor(family.name, family.help, family.unit.as_ref(), family.kind)
    }

    fn counters(&mut self, family: &'static Family, series: impl IntoIterator<Item = (Labels, u64)>) -> fmt::Result {
        let mut encoder = self.family(family)?;
        for (labels, value) in series {
            encoder.encode_family(&labels.as_slice())?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    fn gauges<V>(&mut self, family: &'static Family, series: impl IntoIterator<Item = (Labels, V)>) -> fmt::Result
    where
        V: prometheus_client::encoding::EncodeGaugeValue,
    {
        let mut encoder = self.family(family)?;
        for (labels, value) in series {
            encoder.encode_family(&labels.as_slice())?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn histograms<'h>(
        &mut self,
        family: &'static Family,
        series: impl IntoIterator<Item = (Labels, &'h HistogramTotals)>,
    ) -> fmt::Result {
        let bounds = BUCKETS.into_iter().chain([f64::MAX]);
        let mut encoder = self.family(family)?;
        for (labels, totals) in series {
            let buckets: Vec<(f64, u64)> = bounds.clone().zip(totals.buckets).collect();
            let count = totals.buckets.iter().sum();
            encoder.encode_family(&labels.as_slice())?.encode_histogram::<NoLabelSet>(
                totals.seconds,
                count,
                &buckets,
                None,
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_table_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        let text = std::fs::read_to_string(path).unwrap();
        let (head, _) = text.split_once("| metric |").expect("docs/metrics.md has the table");
        let current = format!("{head}{}", table());
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, current).unwrap();
        } else {
            assert_eq!(text, current, "docs/metrics.md is not current: run `make generate`");
        }
    }
}
