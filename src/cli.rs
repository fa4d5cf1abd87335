//! The commands and their arguments.

mod check;
mod cluster;
mod completion;
mod kubectl;
mod run;
mod simple;
mod top;
mod values;

use std::path::PathBuf;

pub use check::{CheckArgs, CheckMode, CheckOutput};
use clap::{Args, Parser, Subcommand};
pub use clap_complete::Shell;
pub use cluster::{Controller, PlacementName, Sidecar};
pub use completion::kubectl_completion;
pub use kubectl::{
    BundleFlags, ClusterFlags, ClusterTop, ConnectionsFlags, DoctorFlags, DoctorOutput, DrainFlags, ExplainFlags,
    FailbackFlags, Kubectl, KubectlCli, KubectlCommand, StatusFlags, StatusOutput, UndrainFlags,
};
pub use run::{LogFormat, RunArgs};
pub use simple::Simple;
pub use top::{TopFlags, TopOutput, TopSort, TopUrl};
pub use values::{AdminAddress, ClusterAuthorization, ListenAddress, LocalAuthorization, WorkloadName, port_range};
use values::{admin_address, listen_ip};

use crate::api;

/// A TCP load balancer, configured by TcpLoadBalancer manifests.
#[derive(Debug, Parser)]
#[command(name = "tcplb", version, max_term_width = 120)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve load balancers from files, flags or the environment, and reload them on changes.
    ///
    /// Without paths, missing flags are read from the environment: LISTEN, BACKENDS (comma-separated), LB_MODE (rr or
    /// sticky) and POOL_SIZE. RUST_LOG sets the log filter (default: info).
    Standalone(Standalone),
    /// Serve the TcpLoadBalancers of a cluster, as one of several replicas.
    ///
    /// Requires a service account token or KUBECONFIG. RUST_LOG sets the log filter (default: info).
    Controller(Box<Controller>),
    /// Serve one TcpLoadBalancer of a cluster from the pod of an application.
    ///
    /// Requires a service account token or KUBECONFIG. RUST_LOG sets the log filter (default: info).
    Sidecar(Sidecar),
    /// Run a load balancer with three test backends in this process.
    Demo(Demo),
    /// Validate manifests without serving them, and print a verdict for each load balancer.
    ///
    /// Exit code 0: nothing is refused. 1: something is refused or cannot be read; with --strict also any warning or
    /// unknown reference. 2: the check could not run, because of wrong arguments, an invalid values file or an
    /// unreachable cluster.
    Check(CheckArgs),
    /// Inspect the load balancers of a cluster and their replicas. Installed as kubectl-tcplb, this is `kubectl tcplb`.
    Kubectl(Box<Kubectl>),
    /// Show the rates of the load balancers and endpoints of one process in a live table.
    ///
    /// Exit code 0: it was shown. 1: the process cannot be read.
    Top(TopUrl),
    /// Print a completion script for a shell.
    ///
    /// For bash: source <(tcplb completion bash). `kubectl tcplb` is completed by kubectl, if this program is also
    /// installed as kubectl_complete-tcplb.
    Completion {
        /// The shell.
        shell: Shell,
    },
    /// Write man pages of all commands.
    Man {
        /// The folder for the files. It must exist.
        #[arg(long, value_name = "FOLDER", default_value = ".")]
        out: PathBuf,
    },
    /// Print the CustomResourceDefinition.
    Crd,
    /// Convert the configuration of another load balancer to a manifest.
    #[command(subcommand)]
    Convert(Convert),
    /// Create a self-signed certificate and its key, for tests.
    Cert(Cert),
    /// Run a test backend that echoes what it receives.
    Backend(TestBackend),
    /// Request a URL, such as /readyz of the admin pages. Exit code 0 if the status is 200, otherwise 1.
    Probe(ProbeArgs),
}

#[derive(Debug, Subcommand)]
pub enum Convert {
    /// Convert a GoLB config.json: print the manifest, and a warning for each setting that is not converted.
    Golb {
        /// The path of the config.json.
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct Standalone {
    /// Files, or folders of .yaml, .yml and .json files, with TcpLoadBalancer, Secret, ConfigMap, Service and
    /// EndpointSlice documents.
    pub paths: Vec<PathBuf>,
    #[command(flatten)]
    pub simple: Simple,
    /// The address of the metrics, health and admin pages; `off` disables them.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9900", value_parser = admin_address)]
    pub admin: AdminAddress,
    /// The clients that may read the configuration and connections on the admin pages: /, /snapshot and /connections.
    #[arg(long, value_name = "MODE", value_enum, default_value_t = LocalAuthorization::None)]
    pub admin_authorization: LocalAuthorization,
    /// Share the listening addresses with other processes that also set this flag (SO_REUSEPORT).
    #[arg(long)]
    pub reuse_port: bool,
    /// A Unix socket for taking over the listening sockets of a running process, and for passing them on to the next
    /// one.
    #[arg(long, value_name = "PATH")]
    pub takeover: Option<PathBuf>,
    #[command(flatten)]
    pub run: RunArgs,
}

#[derive(Debug, Args)]
pub struct Demo {
    /// The listening address for clients; 0.0.0.0 and :: are all addresses.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", value_parser = listen_ip)]
    pub address: std::net::IpAddr,
    /// The listening port for clients.
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// The address of the metrics, health and admin pages.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9900")]
    pub admin: ListenAddress,
}

#[derive(Debug, Args)]
pub struct Cert {
    /// DNS names, wildcards or IP addresses for which the certificate is valid. The first is also its common name.
    #[arg(required = true)]
    pub names: Vec<String>,
    /// The folder for the files.
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub out: PathBuf,
    /// Overwrite existing files.
    #[arg(long)]
    pub force: bool,
    /// Print a Secret manifest with this name instead of writing files.
    #[arg(long, value_name = "NAME")]
    pub secret: Option<String>,
}

#[derive(Debug, Args)]
pub struct TestBackend {
    /// The listening address: :5001, 127.0.0.1:5001 or `[::1]:5001`.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: ListenAddress,
    /// A name: each connection starts with the line `hello from NAME`.
    #[arg(long)]
    pub name: Option<String>,
    /// The delay before each answer.
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub delay: api::Duration,
    /// A line to send at the start of each connection, after the name.
    #[arg(long, value_name = "TEXT")]
    pub greeting: Option<String>,
}

#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// The URL to request: http://HOST:PORT/PATH.
    pub url: String,
    /// The time for which to retry until the status is 200.
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub within: api::Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
