use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::values::host_name;
use crate::{api, metrics::EndpointSeries, proxy::access_log};

/// Options of a serving process.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// The number of worker threads, which serve connections. Default: the number of available cores.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub workers: Option<u16>,
    /// The format of the log (standard error) and, unless --access-log-format is given, of the access log (standard
    /// output).
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// A file with the log level or the directives of RUST_LOG, for example `info` or `info,tcplb::upstream=debug`. It
    /// takes precedence over RUST_LOG. Changes apply within seconds, without a restart.
    #[arg(long, value_name = "FILE")]
    pub log_filter_file: Option<PathBuf>,
    /// The format of the access log: text, JSON, Elastic Common Schema, or OpenTelemetry (OTLP JSON). Default:
    /// --log-format.
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub access_log_format: Option<AccessLogFormat>,
    /// The connection events in the access log: ends, starts and ends, or none.
    #[arg(long, value_name = "EVENTS", value_enum, default_value_t = AccessLogEvents::Ends)]
    pub access_log: AccessLogEvents,
    /// The name of this process in the access log. Default: the host name.
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub replica_name: Option<String>,
    /// The metrics of single endpoints: all, or none. Each endpoint has at least ten series.
    #[arg(long, value_name = "METRICS", value_enum, default_value_t = EndpointMetrics::All)]
    pub endpoint_metrics: EndpointMetrics,
    /// An additional host name for the admin pages. IP addresses, localhost and the name of this host are always
    /// accepted. May be repeated or comma-separated.
    #[arg(long = "admin-host", value_name = "NAME", value_delimiter = ',', value_parser = host_name)]
    pub admin_hosts: Vec<String>,
    /// The time to keep accepting connections after SIGTERM, until clients and load balancers in front have noticed the
    /// shutdown.
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub shutdown_delay: api::Duration,
    /// The node of this process, for locality-aware load balancing.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node: Option<String>,
    /// The zone of this process. Default: in a cluster, the zone of its node in EndpointSlices.
    #[arg(long, value_name = "NAME", env = "NODE_ZONE")]
    pub zone: Option<String>,
    /// The maximum drain time after a shutdown or a takeover. It caps drain.shutdown.after. Connections still open this
    /// long after the listeners closed are reset.
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    pub max_drain: api::Duration,
}

impl RunArgs {
    /// The number of workers: the flag, or the number of available cores.
    pub fn worker_count(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.workers.map_or_else(cores, usize::from)
    }

    /// The format of the access log: its flag, or that of the log.
    pub fn access_log_format(&self) -> access_log::Format {
        match (self.access_log_format, self.log_format) {
            (Some(AccessLogFormat::Text), _) | (None, LogFormat::Text) => access_log::Format::Text,
            (Some(AccessLogFormat::Json), _) | (None, LogFormat::Json) => access_log::Format::Json,
            (Some(AccessLogFormat::Ecs), _) => access_log::Format::Ecs,
            (Some(AccessLogFormat::Otel), _) => access_log::Format::Otel,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AccessLogFormat {
    Text,
    Json,
    Ecs,
    Otel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AccessLogEvents {
    Ends,
    All,
    Off,
}

impl From<AccessLogEvents> for access_log::Events {
    fn from(events: AccessLogEvents) -> Self {
        match events {
            AccessLogEvents::Ends => Self::Ends,
            AccessLogEvents::All => Self::StartsAndEnds,
            AccessLogEvents::Off => Self::None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EndpointMetrics {
    All,
    Off,
}

impl From<EndpointMetrics> for EndpointSeries {
    fn from(endpoints: EndpointMetrics) -> Self {
        match endpoints {
            EndpointMetrics::All => Self::All,
            EndpointMetrics::Off => Self::None,
        }
    }
}
