//! The arguments of `kubectl tcplb`, which is also `tcplb kubectl`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::top::{TopFlags, interval};
use crate::{api, model::ConnectionOrder};

/// Inspect the TcpLoadBalancers of a cluster and their replicas, and drain endpoints.
///
/// Reads the admin pages of replicas by port forwarding through the API server. Only drain, undrain and failback change
/// anything: the spec of one load balancer. Install the program as kubectl-tcplb in a folder of PATH to run it as
/// `kubectl tcplb`.
#[derive(Debug, Parser)]
#[command(name = "kubectl-tcplb", bin_name = "kubectl tcplb", version, max_term_width = 120)]
pub struct KubectlCli {
    #[command(flatten)]
    pub kubectl: Kubectl,
}

#[derive(Args, Debug)]
pub struct Kubectl {
    #[command(flatten)]
    pub cluster: ClusterFlags,
    #[command(subcommand)]
    pub command: KubectlCommand,
}

#[derive(Debug, Subcommand)]
pub enum KubectlCommand {
    /// Show the state of load balancers: conditions, addresses, and endpoints and certificates as each replica sees
    /// them.
    ///
    /// Exit code 0: the state is shown, whatever it is. 1: it cannot be read, or there is no such load balancer.
    Status(StatusFlags),
    /// Check the cluster, the installation and its load balancers, and print what to do about each problem.
    ///
    /// Exit code 0: no errors. 1: errors; with --strict also warnings. 2: the checks could not run, because of wrong
    /// arguments or an unusable kubeconfig.
    Doctor(DoctorFlags),
    /// Show the open connections of load balancers in all replicas, or with --follow those that end.
    ///
    /// Exit code 0: they are shown. 1: they cannot be read, or there is no such load balancer.
    Connections(ConnectionsFlags),
    /// Write an archive for the analysis of a problem: objects, and the report, snapshot, metrics and log of each
    /// replica.
    ///
    /// It contains no Secrets, private keys or passwords; values that may be secret are removed. Parts that cannot be
    /// read are named. Exit code 0: the archive is written. 1: it is not.
    Bundle(BundleFlags),
    /// Show the rates of load balancers, their endpoints and replicas in a live table.
    ///
    /// Exit code 0: it was shown. 1: no replica can be read.
    Top(ClusterTop),
    /// Print the section of the documentation about an alert, a reason, a check of doctor or a symptom. Needs no cluster.
    ///
    /// Exit code 0: it is printed. 1: there is no such section.
    Explain(ExplainFlags),
    /// Stop new connections to endpoints of a load balancer, for example before maintenance.
    ///
    /// Adds them to spec.drainedEndpoints. spec.drain.endpointDrained determines when their open connections are closed.
    /// Exit code 0: they are in the list. 1: the list cannot be changed.
    Drain(DrainFlags),
    /// Give drained endpoints of a load balancer new connections again.
    ///
    /// Removes them from spec.drainedEndpoints. Exit code 0: they are removed. 1: one of them is not in the list, or the
    /// list cannot be changed.
    Undrain(UndrainFlags),
    /// Use the lowest priority number that can serve now, with any failback policy.
    ///
    /// Writes the current time to spec.loadBalancing.failover.failback.requestedAt. Exit code 0: it is written. 1: it
    /// cannot be written, or the load balancer has no failback settings.
    Failback(FailbackFlags),
}

impl KubectlCommand {
    /// The name of a load balancer or a section.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Status(flags) => flags.name.as_deref(),
            Self::Connections(flags) => flags.name.as_deref(),
            Self::Explain(flags) => flags.name.as_deref(),
            Self::Drain(flags) => Some(&flags.name),
            Self::Undrain(flags) => Some(&flags.name),
            Self::Failback(flags) => Some(&flags.name),
            Self::Doctor(_) | Self::Bundle(_) | Self::Top(_) => None,
        }
    }
}

/// The flags of kubectl that select a cluster.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterFlags {
    /// The kubeconfig file. Default: the files in KUBECONFIG, then ~/.kube/config, then the pod's service account.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig. Default: its current context.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The cluster of the kubeconfig. Default: that of the context.
    #[arg(long, global = true, value_name = "NAME")]
    pub cluster: Option<String>,
    /// The user of the kubeconfig. Default: that of the context.
    #[arg(long, global = true, value_name = "NAME")]
    pub user: Option<String>,
    /// The user name to impersonate.
    #[arg(long = "as", global = true, value_name = "NAME")]
    pub as_user: Option<String>,
    /// A group to impersonate. May be repeated.
    #[arg(long = "as-group", global = true, value_name = "NAME", requires = "as_user")]
    pub as_groups: Vec<String>,
    /// The namespace of the load balancers. Default: that of the context; for doctor and bundle, all namespaces.
    #[arg(short, long, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
    /// The time limit of each request; 0: none.
    #[arg(long, global = true, value_name = "DURATION", default_value = "30s", value_parser = request_timeout)]
    pub request_timeout: api::Duration,
    /// The namespace of the replicas. Default: the namespaces of all installations.
    #[arg(long, global = true, value_name = "NAME")]
    pub install_namespace: Option<String>,
    /// The label selector of the replica pods. They have a container port named `admin`.
    #[arg(short = 'l', long, global = true, value_name = "SELECTOR", default_value = "app.kubernetes.io/name=tcplb")]
    pub selector: String,
}

#[derive(Args, Clone, Debug)]
pub struct StatusFlags {
    /// The load balancer. Default: a list of all in the namespace.
    pub name: Option<String>,
    /// List the load balancers of all namespaces.
    #[arg(short = 'A', long, conflicts_with_all = ["name", "namespace"])]
    pub all_namespaces: bool,
    /// The output format. Default: text.
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = StatusOutput::Text)]
    pub output: StatusOutput,
    /// Read the state again, and print it whenever it has changed.
    #[arg(short, long)]
    pub watch: bool,
    /// The time between two readings with --watch.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = interval, requires = "watch")]
    pub interval: api::Duration,
}

#[derive(Args, Clone, Debug)]
pub struct ClusterTop {
    /// Show the load balancers of all namespaces.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    #[command(flatten)]
    pub top: TopFlags,
}

#[derive(Args, Clone, Debug)]
pub struct ConnectionsFlags {
    /// The load balancer. Default: all in the namespace.
    pub name: Option<String>,
    /// The connections of all namespaces.
    #[arg(short = 'A', long, conflicts_with_all = ["name", "namespace"])]
    pub all_namespaces: bool,
    /// The order.
    #[arg(long, value_name = "ORDER", value_enum, default_value_t = ConnectionSort::Age)]
    pub sort: ConnectionSort,
    /// The maximum number of connections.
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub limit: u16,
    /// Only connections to this port of a listener.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub listener: Option<u16>,
    /// Only connections to this endpoint: an address, with or without a port.
    #[arg(long, value_name = "ADDRESS", value_parser = endpoint_address)]
    pub endpoint: Option<String>,
    /// Only connections of clients with this address, or in this network.
    #[arg(long, value_name = "NETWORK")]
    pub client: Option<api::Network>,
    /// Print connections when they end. The format is text, wide or json.
    #[arg(short, long, conflicts_with_all = ["sort", "limit"])]
    pub follow: bool,
    /// The output format. Default: text.
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = StatusOutput::Text)]
    pub output: StatusOutput,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConnectionSort {
    /// The oldest first.
    Age,
    /// The newest first.
    Newest,
    /// The longest without a byte first.
    Idle,
    /// The most bytes in both directions first.
    Bytes,
}

impl ConnectionsFlags {
    pub fn order(&self) -> ConnectionOrder {
        match self.sort {
            ConnectionSort::Age => ConnectionOrder::Age,
            ConnectionSort::Newest => ConnectionOrder::Newest,
            ConnectionSort::Idle => ConnectionOrder::Idle,
            ConnectionSort::Bytes => ConnectionOrder::Bytes,
        }
    }
}

/// An address, with or without a port.
fn endpoint_address(text: &str) -> Result<String, String> {
    let valid = text.parse::<IpAddr>().is_ok() || text.parse::<SocketAddr>().is_ok();
    valid.then(|| text.to_owned()).ok_or_else(|| {
        format!("`{text}` is not an address of an endpoint: write for example 10.0.0.1 or 10.0.0.1:5432")
    })
}

#[derive(Args, Clone, Debug)]
pub struct DoctorFlags {
    /// Check whether the chart can be installed, instead of an installation.
    #[arg(long)]
    pub pre: bool,
    /// The time for which to repeat the checks until there are no errors.
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub wait: api::Duration,
    /// Exit with code 1 also for warnings.
    #[arg(long)]
    pub strict: bool,
    /// Do not connect to load balancers.
    #[arg(long)]
    pub skip_connections: bool,
    /// The output format.
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = DoctorOutput::Text)]
    pub output: DoctorOutput,
}

#[derive(Args, Clone, Debug)]
pub struct BundleFlags {
    /// The file to create; `-`: standard output. Default: tcplb-bundle-TIME.tar.gz in the current folder.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace the names of namespaces, load balancers, listeners, backends, Services and their ports, EndpointSlices,
    /// Secrets, ConfigMaps, pods, nodes, zones and hosts by hashes. Replicas keep their names. Names that occur only in
    /// the pods, workloads, Lease and ConfigMap of an installation stay, and IP addresses are not replaced.
    #[arg(long)]
    pub hash_names: bool,
    /// The number of lines at the end of each log.
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000, value_parser = clap::value_parser!(i64).range(0..))]
    pub log_lines: i64,
}

#[derive(Args, Clone, Debug)]
pub struct ExplainFlags {
    /// The alert, reason of a condition, close reason, check of doctor, or symptom. Default: a list of all names.
    pub name: Option<String>,
}

#[derive(Args, Clone, Debug)]
pub struct DrainFlags {
    /// The load balancer.
    pub name: String,
    /// The endpoints: names of pods, addresses with a port, or addresses with any port.
    #[arg(required = true, value_name = "ENDPOINT")]
    pub endpoints: Vec<api::EndpointRef>,
}

#[derive(Args, Clone, Debug)]
pub struct UndrainFlags {
    /// The load balancer.
    pub name: String,
    /// The endpoints, as in spec.drainedEndpoints.
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "ENDPOINT")]
    pub endpoints: Vec<api::EndpointRef>,
    /// All drained endpoints.
    #[arg(long)]
    pub all: bool,
}

#[derive(Args, Clone, Debug)]
pub struct FailbackFlags {
    /// The load balancer.
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DoctorOutput {
    /// A line for each result.
    Text,
    Json,
    Yaml,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StatusOutput {
    /// Tables for people.
    Text,
    /// Tables with more columns.
    Wide,
    Json,
    Yaml,
}

/// A duration as in kubectl: `0` and plain seconds are allowed.
fn request_timeout(text: &str) -> Result<api::Duration, String> {
    match text.parse::<u64>() {
        Ok(seconds) => Ok(api::Duration(std::time::Duration::from_secs(seconds))),
        Err(_) => text.parse(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_of_kubectl_is_consistent() {
        KubectlCli::command().debug_assert();
    }

    #[test]
    fn flags_of_kubectl_may_follow_the_command() {
        let line = "kubectl-tcplb status pg -n shop --context prod --request-timeout 5 -o wide";
        let parsed = KubectlCli::try_parse_from(line.split(' ')).unwrap().kubectl;
        assert_eq!(parsed.cluster.namespace.as_deref(), Some("shop"));
        assert_eq!(parsed.cluster.context.as_deref(), Some("prod"));
        assert_eq!(parsed.cluster.request_timeout.0, Duration::from_secs(5));
        let KubectlCommand::Status(flags) = parsed.command else { panic!("{parsed:?}") };
        assert_eq!((flags.name.as_deref(), flags.output), (Some("pg"), StatusOutput::Wide));
        for wrong in ["status pg -A", "status -A -n shop", "status --interval 1", "status --as-group ops"] {
            let line = format!("kubectl-tcplb {wrong}");
            assert!(KubectlCli::try_parse_from(line.split(' ')).is_err(), "{wrong}");
        }
    }
}
