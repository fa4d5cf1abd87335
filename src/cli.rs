//! The commands and their arguments.

mod check;
mod cluster;
mod run;
mod simple;
mod values;

use std::path::PathBuf;

pub use check::{Check, CheckMode, CheckOutput};
use clap::{Args, Parser, Subcommand};
pub use cluster::{Controller, PlacementName, ServiceTypeName, Sidecar, Tenants};
pub use run::{AccessLogEvents, LogFormat, Run};
pub use simple::{AlgorithmName, Simple};
use values::admin_address;
pub use values::{AdminAddress, ListenAddress, Quota, Workload, port_range};

use crate::api;

/// A TCP load balancer: one configuration language, the TcpLoadBalancer manifest.
#[derive(Debug, Parser)]
#[command(name = "tcplb", version, max_term_width = 120)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Balance connections as files, flags or the environment say, and follow their changes.
    ///
    /// Without paths, what flags leave out is read from the environment: LISTEN, BACKENDS (comma-separated), LB_MODE
    /// (rr or sticky) and POOL_SIZE. RUST_LOG chooses what is logged (default: info).
    Standalone(Standalone),
    /// Serve the TcpLoadBalancers of a cluster, as one of several replicas.
    ///
    /// Needs a service account's token, or KUBECONFIG. RUST_LOG chooses what is logged (default: info).
    Controller(Box<Controller>),
    /// Serve one TcpLoadBalancer of a cluster within an application's pod.
    ///
    /// Needs a service account's token, or KUBECONFIG. RUST_LOG chooses what is logged (default: info).
    Sidecar(Sidecar),
    /// Show a load balancer at work, with three test backends in this process.
    Demo(Demo),
    /// Compile manifests without running them: a verdict for each load balancer.
    ///
    /// Exit code 0: nothing is refused. 1: something is refused or cannot be read; with --strict also if there is a warning
    /// or an unknown reference. 2: nothing could be checked, because of wrong arguments, a wrong values file or a cluster
    /// that does not answer.
    Check(Check),
    /// Print the CustomResourceDefinition.
    Crd,
    /// Turn another load balancer's configuration into a manifest.
    #[command(subcommand)]
    Convert(Convert),
    /// Write a self-signed certificate and its key, for tests.
    Cert(Cert),
    /// Run a test backend that sends back what it gets.
    Backend(TestBackend),
    /// Ask an HTTP address, such as /readyz of the admin pages: exit code 0 if it answers 200, otherwise 1.
    Probe(Probe),
}

#[derive(Debug, Subcommand)]
pub enum Convert {
    /// A GoLB config.json: prints the manifest, and what does not come over as warnings.
    Golb {
        /// The config.json.
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct Standalone {
    /// Files, or folders of .yaml, .yml and .json files, with TcpLoadBalancer, Secret, ConfigMap, Service and EndpointSlice
    /// documents.
    pub paths: Vec<PathBuf>,
    #[command(flatten)]
    pub simple: Simple,
    /// Where metrics, health and the admin page are served; `off`: nowhere.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9900", value_parser = admin_address)]
    pub admin: AdminAddress,
    /// Share the addresses with other processes that do so too.
    #[arg(long)]
    pub reuse_port: bool,
    /// Take over from the process that offers its sockets at this Unix socket, and offer them there to the next one.
    #[arg(long, value_name = "PATH")]
    pub takeover: Option<PathBuf>,
    #[command(flatten)]
    pub run: Run,
}

#[derive(Debug, Args)]
pub struct Demo {
    /// The address on which clients connect; 0.0.0.0 and :: are all addresses.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub address: std::net::IpAddr,
    /// The port on which clients connect.
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// Where metrics, health and the admin page are served.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9900")]
    pub admin: std::net::SocketAddr,
}

#[derive(Debug, Args)]
pub struct Cert {
    /// DNS names, wildcards or IP addresses that the certificate is for.
    #[arg(required = true)]
    pub names: Vec<String>,
    /// The folder to write to.
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub out: PathBuf,
    /// Overwrite files that exist.
    #[arg(long)]
    pub force: bool,
    /// Print a Secret manifest of this name instead of writing files.
    #[arg(long, value_name = "NAME")]
    pub secret: Option<String>,
}

#[derive(Debug, Args)]
pub struct TestBackend {
    /// Where to listen: :5001, 127.0.0.1:5001 or `[::1]:5001`.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: ListenAddress,
    /// A name, said first on each connection.
    #[arg(long)]
    pub name: Option<String>,
    /// A pause before each answer.
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub delay: api::Duration,
    /// A text sent first on each connection.
    #[arg(long, value_name = "TEXT")]
    pub greeting: Option<String>,
}

#[derive(Debug, Args)]
pub struct Probe {
    /// What is asked: http://HOST:PORT/PATH.
    pub url: String,
    /// How long to ask again while the answer is another one.
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
