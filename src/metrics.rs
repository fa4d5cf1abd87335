//! Metrics in Prometheus' text formats, read from the live counters on each request.

mod classic;
mod control_plane;
mod encoder;
mod endpoints;
mod family;
mod listeners;
mod process;
mod process_usage;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

pub use family::table;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    registry::Registry,
};

use self::{
    classic::ClassicWriter, encoder::Encoder, endpoints::EndpointSample, family::BUILD, listeners::ListenerSample,
};
use crate::{proxy::Monitor, state::ReadinessState};

/// All metrics of this process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// The size of the previous page, in bytes.
    size: AtomicUsize,
}

/// The exported series of endpoints. Each endpoint has at least ten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointSeries {
    All,
    None,
}

impl Metrics {
    pub fn new(monitor: Monitor, state: Arc<ReadinessState>, endpoint_series: EndpointSeries) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Live {
            monitor,
            state,
            endpoint_series,
            started: process_usage::start_time(),
        }));
        Self { registry, size: AtomicUsize::new(0) }
    }

    pub fn text(&self, format: ExpositionFormat) -> String {
        // A page that grows while it is written is copied again and again.
        let size = self.size.load(Relaxed);
        let mut text = String::with_capacity(size + size / 16);
        // Writing to memory does not fail.
        let _ = match format {
            ExpositionFormat::OpenMetrics => text::encode(&mut text, &self.registry),
            ExpositionFormat::Classic => text::encode(&mut ClassicWriter::new(&mut text), &self.registry),
        };
        self.size.store(text.len(), Relaxed);
        text
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

#[derive(Debug)]
struct Live {
    monitor: Monitor,
    state: Arc<ReadinessState>,
    endpoint_series: EndpointSeries,
    /// The start of the process, in Unix time.
    started: Option<u64>,
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
        listeners::encode(encoder, &listeners, &self.monitor, &view.snapshot)?;
        endpoints::encode(encoder, &endpoints)?;
        endpoints::encode_upstreams(encoder, &view)?;
        process::encode_configuration(encoder, &view, &self.state, &self.monitor)?;
        process::encode_process(encoder, &self.monitor)?;
        control_plane::encode(encoder, self.state.instruments())?;
        process_usage::encode(encoder, self.started)
    }
}
