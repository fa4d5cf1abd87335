use clap::{Args, ValueEnum};

use super::values::host_name;
use crate::{api, proxy::access_log};

/// How the process runs.
#[derive(Args, Clone, Debug)]
pub struct Run {
    /// How many threads serve connections. Default: the cores this process may use.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub workers: Option<u16>,
    /// How a line is written, of the log (standard error) and of the access log (standard output).
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Which connections are logged: at their ends, also at their starts, or not at all.
    #[arg(long, value_name = "EVENTS", value_enum, default_value_t = AccessLogEvents::Ends)]
    pub access_log: AccessLogEvents,
    /// A host name under which the admin pages may be asked, besides IP addresses, localhost and this host's own name; may be
    /// given several times, or with commas.
    #[arg(long = "admin-host", value_name = "NAME", value_delimiter = ',', value_parser = host_name)]
    pub admin_hosts: Vec<String>,
    /// How long to go on accepting after SIGTERM, so that whatever sends connections here learns of it.
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub shutdown_delay: api::Duration,
    /// The node that this process runs on, for load balancers that prefer what is near.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node: Option<String>,
    /// The zone that this process runs in. Default: in a cluster, that of its node as EndpointSlices tell it.
    #[arg(long, value_name = "NAME", env = "NODE_ZONE")]
    pub zone: Option<String>,
    /// Upper limit of the drain at a shutdown, whatever drain.shutdown.after says, and of that after a takeover: connections
    /// that are still open this long after the listeners closed are reset.
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    pub max_drain: api::Duration,
}

impl Run {
    /// How many workers there are to be: as asked, else as many as this process has cores.
    pub fn worker_count(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.workers.map_or_else(cores, usize::from)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

impl From<LogFormat> for access_log::Format {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
        }
    }
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
