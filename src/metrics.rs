//! Metrics in Prometheus' text formats, read from the live counters on each request.

mod classic;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeGaugeValue, EncodeLabel, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet,
        text,
    },
    metrics::MetricType,
    registry::{Registry, Unit},
};

use crate::{
    model::{ObjectKey, Snapshot, UpstreamKey},
    printable::printable,
    proxy::{
        ListenerState, Monitor, View,
        accounting::{BUCKETS, CloseReason, HistogramTotals, Totals},
    },
    state::ReadinessState,
    translate::Severity,
    upstream::{Endpoint, PoolFigures, Upstream},
};

/// All metrics of this process.
#[derive(Debug)]
pub struct Metrics(Registry);

/// The exported series of endpoints. Each endpoint has at least eleven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointSeries {
    All,
    None,
}

impl Metrics {
    pub fn new(monitor: Monitor, state: Arc<ReadinessState>, endpoint_series: EndpointSeries) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Live { monitor, state, endpoint_series }));
        Self(registry)
    }

    pub fn text(&self, format: ExpositionFormat) -> String {
        let mut text = String::new();
        // Writing to memory does not fail.
        let _ = text::encode(&mut text, &self.0);
        match format {
            ExpositionFormat::OpenMetrics => text,
            ExpositionFormat::Classic => classic::from_open_metrics(&text),
        }
    }
}

/// A text format in which metrics are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpositionFormat {
    /// <https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md>
    OpenMetrics,
    /// <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>, which every client supports.
    Classic,
}

impl ExpositionFormat {
    /// The format for a request with this `Accept` header: OpenMetrics if it is named and not excluded, otherwise the
    /// classic format.
    pub fn accepted(accept: &str) -> Self {
        let open_metrics = accept.split(',').any(|range| {
            let mut parameters = range.split(';').map(str::trim);
            let name = parameters.next().unwrap_or_default();
            let excluded = parameters.any(|parameter| {
                let quality = parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q="));
                quality.is_some_and(|quality| quality.parse::<f32>() == Ok(0.0))
            });
            name.eq_ignore_ascii_case("application/openmetrics-text") && !excluded
        });
        if open_metrics { Self::OpenMetrics } else { Self::Classic }
    }

    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// A metric with its documentation.
struct Family {
    /// The name without the suffixes for the unit and for counters.
    name: &'static str,
    kind: MetricType,
    unit: Option<Unit>,
    labels: &'static [&'static str],
    help: &'static str,
}

// The Prometheus operator sets the labels endpoint, namespace, pod, service, job, instance and container on every
// series. Metrics with the same label names would get them renamed to exported_…, so these names differ.
const LOAD_BALANCER: &[&str] = &["load_balancer_namespace", "load_balancer"];
const LISTENER: &[&str] = &["load_balancer_namespace", "load_balancer", "port"];
const ENDPOINT: &[&str] = &["load_balancer_namespace", "load_balancer", "backend", "endpoint_address"];

macro_rules! families {
    ($($id:ident: $name:literal $kind:ident $unit:expr, $labels:expr, $help:literal;)*) => {
        $(const $id: Family = Family { name: $name, kind: MetricType::$kind, unit: $unit, labels: $labels, help: $help };)*
        /// All families, in their output order.
        const FAMILIES: &[&Family] = &[$(&$id),*];
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
    UPSTREAM_ENDPOINTS: "tcplb_upstream_endpoints" Gauge None, &["load_balancer_namespace", "load_balancer", "state"], "Endpoints; state is usable or unusable";
    SWITCHES: "tcplb_upstream_priority_switches" Counter None, LOAD_BALANCER, "Changes of the active priority: failovers and failbacks";
    GENERATION: "tcplb_configuration_generation" Gauge None, &[], "Generation of the applied configuration";
    PROBLEMS: "tcplb_configuration_problems" Gauge None, &["severity"], "Problems in the current manifests; severity is refused or warning";
    MISMATCHES: "tcplb_configuration_mismatches" Counter None, &[], "Translations with reused results that differed from a full translation; compared at most once per hour. More than 0 is a bug of tcplb";
    UNBOUND: "tcplb_listeners_unbound" Gauge None, &[], "Listeners whose address could not be bound";
    LOGGED: "tcplb_access_log_events" Counter None, &["result"], "Closed connections offered to the access log; result is logged or dropped (writer too slow, or too many refusals)";
    LIMIT: "tcplb_process_connections_limit" Gauge None, &[], "Connections allowed by the process's file descriptor limit, less what listening sockets and the process itself need";
    HANDSHAKE_MEMORY: "tcplb_handshake_memory" Gauge Some(Unit::Bytes), &[], "Memory of unfinished TLS handshakes beyond 8 KiB each; at most 16 MiB";
    WORKER: "tcplb_worker_connections_active" Gauge None, &["worker"], "Open connections, by worker";
    SILENT: "tcplb_worker_heartbeat_age" Gauge Some(Unit::Seconds), &["worker"], "Time since the worker's last heartbeat";
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

#[derive(Debug)]
struct Live {
    monitor: Monitor,
    state: Arc<ReadinessState>,
    endpoint_series: EndpointSeries,
}

impl Collector for Live {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let view = self.monitor.view();
        let listeners: Vec<ListenerSample> = view.listeners.iter().map(ListenerSample::of).collect();
        let upstreams = view.upstreams.iter();
        let upstreams = upstreams.filter(|_| self.endpoint_series == EndpointSeries::All);
        let endpoints: Vec<EndpointSample> =
            upstreams.flat_map(|(key, upstream)| EndpointSample::all_of(key, upstream)).collect();
        let encoder = &mut Encoder(&mut encoder);

        encoder.family(&BUILD)?.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        encode_connections(encoder, &listeners)?;
        encoder.gauges(&DRAINING, draining(&self.monitor))?;
        encode_traffic(encoder, &listeners)?;
        encode_handshakes(encoder, &listeners)?;
        encode_certificates(encoder, &view.snapshot)?;
        encode_endpoint_states(encoder, &endpoints)?;
        encode_endpoint_events(encoder, &endpoints)?;
        encode_upstreams(encoder, &view)?;
        encode_configuration(encoder, &view, &self.state)?;
        encode_process(encoder, &self.monitor)
    }
}

fn encode_connections(encoder: &mut Encoder<'_, '_>, listeners: &[ListenerSample]) -> fmt::Result {
    encoder.counters(&ACCEPTED, listeners.iter().map(|l| (l.labels(), l.totals.accepted)))?;
    let closed = |l: &ListenerSample| CloseReason::ALL.map(|reason| (reason.label(), l.totals.closed(reason)));
    encoder.counters(
        &CLOSED,
        listeners.iter().flat_map(|l| occurred(closed(l)).map(|(reason, count)| (l.labels_and(reason), count))),
    )?;
    encoder.gauges(&ACTIVE, listeners.iter().map(|l| (l.labels(), l.totals.active() as i64)))?;
    let guaranteed: BTreeMap<_, _> =
        listeners.iter().map(|l| (&l.state.key.object, l.state.share.guaranteed())).collect();
    encoder.gauges(&GUARANTEED, guaranteed.iter().map(|(object, count)| (labels_of(object, []), *count as i64)))?;
    let sources = listeners.iter().map(|l| (l, l.state.admission.sources())).filter(|(_, count)| *count > 0);
    encoder.gauges(&SOURCES, sources.map(|(l, count)| (l.labels(), count as i64)))
}

fn encode_traffic(encoder: &mut Encoder<'_, '_>, listeners: &[ListenerSample]) -> fmt::Result {
    encoder.counters(
        &RELAYED,
        listeners.iter().flat_map(|l| {
            [("to_backend", l.totals.bytes_to_backend), ("to_client", l.totals.bytes_to_client)]
                .map(|(direction, bytes)| (l.labels_and(direction), bytes))
        }),
    )?;
    encoder.histograms(&CONNECT, listeners.iter().map(|l| (l.labels(), &l.totals.connect)))?;
    encoder.histograms(&DURATION, listeners.iter().map(|l| (l.labels(), &l.totals.duration)))
}

fn encode_handshakes(encoder: &mut Encoder<'_, '_>, listeners: &[ListenerSample]) -> fmt::Result {
    let with_clients = |l: &ListenerSample| {
        [
            ("full", l.totals.tls_full_handshakes),
            ("resumed", l.totals.tls_resumed_handshakes),
            ("refused", l.totals.closed(CloseReason::TlsClientCertificate)),
            ("failed", l.totals.closed(CloseReason::TlsFailed)),
            ("timeout", l.totals.closed(CloseReason::TlsTimeout)),
        ]
    };
    encoder.counters(
        &HANDSHAKES,
        listeners.iter().flat_map(|l| occurred(with_clients(l)).map(|(result, count)| (l.labels_and(result), count))),
    )?;
    let with_backends = |l: &ListenerSample| {
        [("full", l.totals.backend_tls_full_handshakes), ("resumed", l.totals.backend_tls_resumed_handshakes)]
    };
    encoder.counters(
        &BACKEND_HANDSHAKES,
        listeners.iter().flat_map(|l| occurred(with_backends(l)).map(|(result, count)| (l.labels_and(result), count))),
    )
}

fn encode_certificates(encoder: &mut Encoder<'_, '_>, snapshot: &Snapshot) -> fmt::Result {
    encoder.gauges(
        &CERTIFICATE,
        snapshot.listeners.iter().flat_map(|(key, listener)| {
            listener.tls.iter().flat_map(|tls| &tls.certificates).map(|certificate| {
                let labels = labels_of(&key.object, [key.port.to_string(), certificate.source.to_string()]);
                (labels, certificate.not_after.as_second())
            })
        }),
    )?;
    encoder.gauges(
        &BACKEND_CERTIFICATE,
        snapshot.upstreams.iter().flat_map(|(key, upstream)| {
            upstream.backends.iter().filter_map(|(name, backend)| {
                let certificate = backend.shown_certificate()?;
                let labels = labels_of(&key.object, [name.to_string(), certificate.source.to_string()]);
                Some((labels, certificate.not_after.as_second()))
            })
        }),
    )
}

fn encode_endpoint_states(encoder: &mut Encoder<'_, '_>, endpoints: &[EndpointSample]) -> fmt::Result {
    encoder.gauges(&USABLE, endpoints.iter().map(|e| (e.labels(), i64::from(e.endpoint.usable()))))?;
    encoder.gauges(&IN_SERVICE, endpoints.iter().map(|e| (e.labels(), i64::from(e.endpoint.in_service()))))?;
    encoder.gauges(&HEALTHY, endpoints.iter().map(|e| (e.labels(), i64::from(e.healthy))))?;
    encoder.gauges(&SHARE, endpoints.iter().map(|e| (e.labels(), i64::from(e.endpoint.share()))))?;
    encoder.gauges(&NEAR, endpoints.iter().map(|e| (e.labels(), i64::from(e.endpoint.near()))))?;
    encoder.gauges(&EJECTED, endpoints.iter().map(|e| (e.labels(), i64::from(e.ejected))))?;
    encoder.gauges(&ENDPOINT_ACTIVE, endpoints.iter().map(|e| (e.labels(), i64::from(e.endpoint.active()))))
}

fn encode_endpoint_events(encoder: &mut Encoder<'_, '_>, endpoints: &[EndpointSample]) -> fmt::Result {
    encoder.counters(&ENDPOINT_CONNECTIONS, endpoints.iter().map(|e| (e.labels(), e.endpoint.connections())))?;
    encoder.counters(&CONNECT_FAILURES, endpoints.iter().map(|e| (e.labels(), e.endpoint.connect_failures())))?;
    encoder.counters(&EJECTIONS, endpoints.iter().map(|e| (e.labels(), e.endpoint.ejections())))?;
    let probes = |e: &EndpointSample| [("passed", e.endpoint.probes_passed()), ("failed", e.endpoint.probes_failed())];
    encoder.counters(
        &PROBES,
        endpoints.iter().flat_map(|e| occurred(probes(e)).map(|(result, count)| (e.labels_and(result), count))),
    )?;
    encoder.gauges(&PRECONNECTED, endpoints.iter().map(|e| (e.labels(), e.pool.idle as i64)))?;
    let requests =
        |e: &EndpointSample| [("hit", e.pool.hits), ("miss", e.pool.misses), ("discarded", e.pool.discarded)];
    encoder.counters(
        &PRECONNECT,
        endpoints.iter().flat_map(|e| occurred(requests(e)).map(|(result, count)| (e.labels_and(result), count))),
    )
}

fn encode_upstreams(encoder: &mut Encoder<'_, '_>, view: &View) -> fmt::Result {
    encoder.gauges(
        &UPSTREAM_ENDPOINTS,
        view.upstreams.iter().flat_map(|(key, upstream)| {
            let usable = upstream.usable();
            [("usable", usable), ("unusable", upstream.endpoints().len().saturating_sub(usable))]
                .map(|(state, count)| (labels_of(&key.object, [state.into()]), count as i64))
        }),
    )?;
    encoder.counters(
        &SWITCHES,
        view.upstreams.iter().map(|(key, upstream)| (labels_of(&key.object, []), upstream.priority_changes())),
    )
}

fn encode_configuration(encoder: &mut Encoder<'_, '_>, view: &View, state: &ReadinessState) -> fmt::Result {
    let configuration = state.configuration();
    encoder.gauges(&GENERATION, [(Vec::<String>::new(), view.snapshot.generation as i64)])?;
    encoder.gauges(
        &PROBLEMS,
        [("refused", Severity::Refused), ("warning", Severity::Warning)]
            .map(|(name, severity)| (vec![name.into()], configuration.problems_of(severity) as i64)),
    )?;
    encoder.counters(&MISMATCHES, [(Vec::<String>::new(), state.mismatches())])?;
    encoder.gauges(&UNBOUND, [(Vec::<String>::new(), view.report.unbound().count() as i64)])
}

fn encode_process(encoder: &mut Encoder<'_, '_>, monitor: &Monitor) -> fmt::Result {
    let log = monitor.access_log();
    encoder.counters(
        &LOGGED,
        [("logged", log.logged()), ("dropped", log.dropped())].map(|(result, count)| (vec![result.into()], count)),
    )?;
    encoder.gauges(&LIMIT, [(Vec::<String>::new(), monitor.capacity().total() as i64)])?;
    encoder.gauges(&HANDSHAKE_MEMORY, [(Vec::<String>::new(), monitor.handshake_memory() as i64)])?;
    let worker = |index: usize| vec![index.to_string()];
    let open = monitor.open_by_worker().enumerate();
    encoder.gauges(&WORKER, open.map(|(index, open)| (worker(index), open as i64)))?;
    let silent = monitor.workers_silent_for().enumerate();
    encoder.gauges(&SILENT, silent.map(|(index, age)| (worker(index), age.as_secs_f64())))
}

/// The counts above zero. Counters by reason or result omit the others, because most listeners and endpoints have only
/// a few.
fn occurred<const N: usize>(counts: [(&'static str, u64); N]) -> impl Iterator<Item = (&'static str, u64)> {
    counts.into_iter().filter(|(_, count)| *count > 0)
}

/// The number of draining connections by load balancer and reason.
fn draining(monitor: &Monitor) -> Vec<(Vec<String>, i64)> {
    let mut open: BTreeMap<_, i64> = BTreeMap::new();
    for departing in &*monitor.draining() {
        *open.entry((departing.object.clone(), departing.reason)).or_default() += departing.resource.open() as i64;
    }
    open.iter().map(|((object, reason), open)| (labels_of(object, [reason.label().into()]), *open)).collect()
}

/// The maximum length of a label value, in bytes. Certificates are named by their file.
const MAX_LABEL: usize = 1024;

/// The values of a series' labels, in the order of its family's label names.
struct Labels<'a> {
    values: Cow<'a, [String]>,
    /// The value of the last label, if it is not one of `values`.
    last: Option<&'static str>,
}

impl<'a> Labels<'a> {
    fn shared(values: &'a [String]) -> Self {
        Self { values: Cow::Borrowed(values), last: None }
    }
}

impl From<Vec<String>> for Labels<'_> {
    fn from(values: Vec<String>) -> Self {
        Self { values: Cow::Owned(values), last: None }
    }
}

fn labels_of<const N: usize>(object: &ObjectKey, more: [String; N]) -> Vec<String> {
    let labels = [object.namespace.to_string(), object.name.to_string()].into_iter().chain(more);
    labels.map(|label| printable(&label, MAX_LABEL).into_owned()).collect()
}

/// The labels of a series with the label names of its family.
struct NamedLabels<'a>(&'static Family, Labels<'a>);

impl EncodeLabelSet for NamedLabels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let Self(family, Labels { values, last }) = self;
        debug_assert_eq!(family.labels.len(), values.len() + usize::from(last.is_some()), "{}", family.name);
        let values = values.iter().map(String::as_str).chain(*last);
        family
            .labels
            .iter()
            .zip(values)
            .try_for_each(|label| EncodeLabel::encode(&(*label.0, label.1), encoder.encode_label()))
    }
}

/// A listener with its counters at one time.
struct ListenerSample {
    state: Arc<ListenerState>,
    totals: Totals,
    labels: Vec<String>,
}

impl ListenerSample {
    fn of(listener: &Arc<ListenerState>) -> Self {
        let labels = labels_of(&listener.key.object, [listener.key.port.to_string()]);
        Self { state: listener.clone(), totals: listener.counters.totals(), labels }
    }

    fn labels(&self) -> Labels<'_> {
        Labels::shared(&self.labels)
    }

    fn labels_and(&self, value: &'static str) -> Labels<'_> {
        Labels { last: Some(value), ..self.labels() }
    }
}

/// An endpoint with its state at one time.
struct EndpointSample {
    labels: Vec<String>,
    endpoint: Arc<Endpoint>,
    healthy: bool,
    ejected: bool,
    pool: PoolFigures,
}

impl EndpointSample {
    fn all_of(key: &UpstreamKey, upstream: &Upstream) -> Vec<Self> {
        upstream.endpoints().iter().map(|endpoint| Self::of(key, endpoint)).collect()
    }

    fn of(upstream: &UpstreamKey, endpoint: &Arc<Endpoint>) -> Self {
        let (state, key) = (endpoint.state(), endpoint.key());
        Self {
            labels: labels_of(&upstream.object, [key.backend.to_string(), key.address.to_string()]),
            endpoint: endpoint.clone(),
            healthy: state.healthy,
            ejected: state.ejected_until.is_some(),
            pool: endpoint.pool_figures(),
        }
    }

    fn labels(&self) -> Labels<'_> {
        Labels::shared(&self.labels)
    }

    fn labels_and(&self, value: &'static str) -> Labels<'_> {
        Labels { last: Some(value), ..self.labels() }
    }
}

/// Writes whole families.
struct Encoder<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Encoder<'_, '_> {
    fn family(&mut self, family: &'static Family) -> Result<MetricEncoder<'_>, fmt::Error> {
        self.0.encode_descriptor(family.name, family.help, family.unit.as_ref(), family.kind)
    }

    fn counters<'l, L: Into<Labels<'l>>>(
        &mut self,
        family: &'static Family,
        series: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut encoder = self.family(family)?;
        for (labels, value) in series {
            encoder
                .encode_family(&NamedLabels(family, labels.into()))?
                .encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    fn gauges<'l, L: Into<Labels<'l>>, V: EncodeGaugeValue>(
        &mut self,
        family: &'static Family,
        series: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut encoder = self.family(family)?;
        for (labels, value) in series {
            encoder.encode_family(&NamedLabels(family, labels.into()))?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn histograms<'h>(
        &mut self,
        family: &'static Family,
        series: impl IntoIterator<Item = (Labels<'h>, &'h HistogramTotals)>,
    ) -> fmt::Result {
        // The library writes this bound as +Inf, which every histogram must have.
        let bounds = BUCKETS.into_iter().chain([f64::INFINITY]);
        let mut encoder = self.family(family)?;
        for (labels, totals) in series {
            let buckets: Vec<(f64, u64)> = bounds.clone().zip(totals.buckets).collect();
            let count = totals.buckets.iter().sum();
            encoder.encode_family(&NamedLabels(family, labels))?.encode_histogram::<NoLabelSet>(
                totals.seconds,
                count,
                &buckets,
                None,
            )?;
        }
        Ok(())
    }
}
