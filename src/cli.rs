//! The commands and what the simplest load balancer is made of on the command line.

use std::{fmt, net::IpAddr, ops::RangeInclusive, path::PathBuf, str::FromStr};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    api::{
        self, AddressPort, Algorithm, Backend, CertificateFiles, CertificateRef, Connect, Listener, ListenerTls,
        LoadBalancing, Placement, Preconnect, ServiceType, TcpLoadBalancerSpec,
    },
    model::ObjectKey,
    proxy::access_log,
};

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
    /// Compile manifests without running them: a verdict for each load balancer, exit code 1 if anything is refused.
    Check {
        /// Files, or folders of .yaml, .yml and .json files.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
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
    /// Files, or folders of .yaml, .yml and .json files, with TcpLoadBalancer, Secret, Service and EndpointSlice documents.
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
pub struct Controller {
    /// Which objects to serve: those whose className is this.
    #[arg(long, value_name = "NAME", default_value = api::DEFAULT_CLASS)]
    pub class: String,
    /// Which objects to serve: those whose placement is this.
    #[arg(long, value_name = "PLACEMENT", value_enum, default_value_t = PlacementName::Gateway)]
    pub placement: PlacementName,
    /// The namespace that this pod runs in.
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE")]
    pub namespace: String,
    /// The name of this pod.
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub pod: String,
    /// The addresses of this pod, which no backend may have.
    #[arg(long, value_name = "ADDRESS", env = "POD_IPS", value_delimiter = ',')]
    pub pod_addresses: Vec<IpAddr>,
    /// The namespaces whose objects are served. Default: all.
    #[arg(long = "watch-namespace", value_name = "NAME", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,
    /// The headless Service of the replicas' pods, with a port named `admin`.
    #[arg(long, value_name = "NAME", default_value = "tcplb-replicas")]
    pub replicas_service: String,
    /// The Lease that the leader holds.
    #[arg(long, value_name = "NAME", default_value = "tcplb")]
    pub lease: String,
    /// The ConfigMap with the ports that are allocated.
    #[arg(long, value_name = "NAME", default_value = "tcplb-ports")]
    pub allocations: String,
    /// A ConfigMap that owns the Services that are kept: they go when it goes.
    #[arg(long, value_name = "NAME")]
    pub anchor: Option<String>,
    /// The labels of the replicas' pods, which the Services that are kept select.
    #[arg(long, value_name = "KEY=VALUE", default_value = "app.kubernetes.io/name=tcplb", value_delimiter = ',', value_parser = label)]
    pub service_selector: Vec<(String, String)>,
    /// The ports that are allocated: outside of net.ipv4.ip_local_port_range and of the cluster's node ports.
    #[arg(long, value_name = "FIRST-LAST", default_value = "20000-24999", value_parser = port_range)]
    pub ports: RangeInclusive<u16>,
    /// The cluster's DNS domain.
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    pub cluster_domain: String,
    #[command(flatten)]
    pub tenants: Tenants,
    /// Where metrics, health, reports and the admin page are served.
    #[arg(long, value_name = "ADDRESS", default_value = ":9900")]
    pub admin: ListenAddress,
    #[command(flatten)]
    pub run: Run,
}

/// What load balancers may do.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "What load balancers may do")]
pub struct Tenants {
    /// The types that spec.service.type may have.
    #[arg(
        long = "allow-service-type",
        value_name = "TYPE",
        value_enum,
        value_delimiter = ',',
        default_value = "ClusterIP"
    )]
    pub service_types: Vec<ServiceTypeName>,
    /// The annotations that spec.service may have; a key that ends in `*` stands for all that begin so. Default: none.
    #[arg(long = "allow-annotation", value_name = "KEY", value_delimiter = ',')]
    pub annotations: Vec<String>,
    /// The labels that spec.service may have, in the same way. Default: none.
    #[arg(long = "allow-label", value_name = "KEY", value_delimiter = ',')]
    pub labels: Vec<String>,
    /// The classes that spec.service.loadBalancerClass may name, in the same way. Default: none.
    #[arg(long = "allow-load-balancer-class", value_name = "CLASS", value_delimiter = ',')]
    pub load_balancer_classes: Vec<String>,
    /// Let listeners name their nodePort.
    #[arg(long = "allow-node-ports")]
    pub node_ports: bool,
    /// Where backends may be that are no pods of the load balancer's own namespace. Default: nowhere.
    #[arg(long = "allow-backend-network", value_name = "NETWORK", value_delimiter = ',')]
    pub backend_networks: Vec<api::Network>,
    /// Where no backend may be.
    #[arg(long = "deny-backend-network", value_name = "NETWORK", value_delimiter = ',')]
    pub denied_networks: Vec<api::Network>,
    /// How many load balancers a namespace may have. Default: any number.
    #[arg(long, value_name = "NUMBER")]
    pub max_load_balancers_per_namespace: Option<u32>,
    /// How many listeners the load balancers of a namespace may have together. Default: any number.
    #[arg(long, value_name = "NUMBER")]
    pub max_listeners_per_namespace: Option<u32>,
    /// The ports that placement Host may open. Default: none.
    #[arg(long, value_name = "FIRST-LAST", value_delimiter = ',', value_parser = port_range)]
    pub host_ports: Vec<RangeInclusive<u16>>,
    /// The namespaces that may use placement Host. Default: all.
    #[arg(long = "host-namespace", value_name = "NAME", value_delimiter = ',')]
    pub host_namespaces: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PlacementName {
    /// In these pods, behind a Service for each load balancer.
    Gateway,
    /// On the nodes' own ports.
    Host,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum ServiceTypeName {
    #[value(name = "ClusterIP")]
    ClusterIp,
    NodePort,
    LoadBalancer,
}

#[derive(Debug, Args)]
pub struct Sidecar {
    /// The load balancer to serve; its placement is Sidecar.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = object_key)]
    pub load_balancer: ObjectKey,
    /// Where its ports are opened.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub address: IpAddr,
    /// Where metrics, health and the admin page are served; `off`: nowhere.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9900", value_parser = admin_address)]
    pub admin: AdminAddress,
    #[command(flatten)]
    pub run: Run,
}

/// The simplest load balancer: one port, some backends.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct Simple {
    /// Where clients connect: :4000, 127.0.0.1:4000 or [::1]:4000.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<ListenAddress>,
    /// A backend, host:port; may be given several times, or with commas.
    #[arg(long = "backend", value_name = "ADDRESS", value_delimiter = ',')]
    pub backends: Vec<AddressPort>,
    /// How a backend is chosen. Default: round-robin.
    #[arg(long, value_name = "NAME", value_enum)]
    pub algorithm: Option<AlgorithmName>,
    /// How many connections to each backend are opened ahead.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub preconnect: Option<u16>,
    /// A PEM file with the certificate and its intermediates: clients then speak TLS.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_certificate: Option<PathBuf>,
    /// A PEM file with the certificate's private key.
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    pub tls_key: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AlgorithmName {
    /// One after the other.
    RoundRobin,
    /// The one with the fewest open connections.
    LeastConnections,
    /// Of two taken at random, the one with fewer open connections.
    PowerOfTwo,
    Random,
    /// Sticky: the same client always gets the same backend.
    Maglev,
}

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
    /// How long to go on accepting after SIGTERM, so that whatever sends connections here learns of it.
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub shutdown_delay: api::Duration,
    /// The longest time that open connections may go on after that, whatever drain.shutdown.after says.
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    pub max_drain: api::Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    Off,
    At(std::net::SocketAddr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AccessLogEvents {
    Ends,
    All,
    Off,
}

#[derive(Debug, Args)]
pub struct Demo {
    /// Where clients connect, on 127.0.0.1.
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
    /// Where to listen: :5001, 127.0.0.1:5001 or [::1]:5001.
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

/// An address to listen on; without a host: all addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    pub host: Option<IpAddr>,
    pub port: u16,
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not an address to listen on: write :4000, 127.0.0.1:4000 or [::1]:4000, with a port from 1 \
                 to 65535"
            )
        };
        if let Ok(address) = text.parse::<std::net::SocketAddr>() {
            return match address.port() {
                0 => Err(wrong()),
                port => Ok(Self { host: Some(address.ip()), port }),
            };
        }
        let port = text.strip_prefix(':').unwrap_or(text);
        port.parse().ok().filter(|port| *port > 0).map(|port| Self { host: None, port }).ok_or_else(wrong)
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            Some(host) => std::net::SocketAddr::new(host, self.port).fmt(f),
            None => write!(f, ":{}", self.port),
        }
    }
}

impl ListenAddress {
    pub fn socket_address(&self) -> std::net::SocketAddr {
        (self.host.unwrap_or(std::net::Ipv6Addr::UNSPECIFIED.into()), self.port).into()
    }
}

fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let wrong = || format!("`{text}` is not a range of ports: write for example 20000-24999, or 443");
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong);
    let (first, last) = (port(first)?, port(last)?);
    if first <= last { Ok(first..=last) } else { Err(wrong()) }
}

fn label(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    pair.map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| format!("`{text}` is not a label: write for example app.kubernetes.io/name=tcplb"))
}

fn object_key(text: &str) -> Result<ObjectKey, String> {
    let pair = text.split_once('/').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty());
    pair.map(|(namespace, name)| ObjectKey::new(namespace, name))
        .ok_or_else(|| format!("`{text}` does not name an object: write NAMESPACE/NAME, for example shop/postgres"))
}

fn admin_address(text: &str) -> Result<AdminAddress, String> {
    if text == "off" {
        return Ok(AdminAddress::Off);
    }
    text.parse::<ListenAddress>()
        .map(|address| AdminAddress::At(address.socket_address()))
        .map_err(|_| format!("`{text}` is not an address: write for example 127.0.0.1:9900 or :9900, or off"))
}

impl Simple {
    /// What LISTEN, BACKENDS, LB_MODE and POOL_SIZE say.
    ///
    /// # Errors
    /// A sentence that names the variable.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let listen = variable("LISTEN").map(|text| text.trim().parse()).transpose();
        let backends = variable("BACKENDS").map(|text| {
            let addresses = text.split(',').map(str::trim).filter(|address| !address.is_empty());
            addresses.map(str::parse).collect::<Result<Vec<_>, String>>()
        });
        let algorithm = match variable("LB_MODE").as_deref().map(str::trim) {
            None => None,
            Some("rr") => Some(AlgorithmName::RoundRobin),
            Some("sticky") => Some(AlgorithmName::Maglev),
            Some(other) => return Err(format!("LB_MODE: `{other}` is not known: write rr or sticky")),
        };
        let preconnect = match variable("POOL_SIZE") {
            None => None,
            Some(text) => match text.trim().parse() {
                Ok(size @ 0..=1000) => Some(size),
                _ => return Err(format!("POOL_SIZE: `{text}` is not a number from 0 to 1000")),
            },
        };
        Ok(Self {
            listen: listen.map_err(|error| format!("LISTEN: {error}"))?,
            backends: backends.transpose().map_err(|error| format!("BACKENDS: {error}"))?.unwrap_or_default(),
            algorithm,
            preconnect,
            ..Self::default()
        })
    }

    /// What is given here, and what is not as it is given there.
    pub fn or(self, there: Self) -> Self {
        Self {
            listen: self.listen.or(there.listen),
            backends: if self.backends.is_empty() { there.backends } else { self.backends },
            algorithm: self.algorithm.or(there.algorithm),
            preconnect: self.preconnect.or(there.preconnect),
            tls_certificate: self.tls_certificate.or(there.tls_certificate),
            tls_key: self.tls_key.or(there.tls_key),
        }
    }

    /// The load balancer that is meant; `None`: none is.
    ///
    /// # Errors
    /// A sentence that says which flag or variable is missing.
    pub fn spec(&self) -> Result<Option<TcpLoadBalancerSpec>, String> {
        if *self == Self::default() {
            return Ok(None);
        }
        let Some(listen) = self.listen else {
            return Err("where are clients to connect? Add --listen :4000 (or LISTEN)".into());
        };
        if self.backends.is_empty() {
            return Err("where are connections to go? Add --backend 127.0.0.1:5001 (or BACKENDS)".into());
        }
        let certificate = self.tls_certificate.as_ref().zip(self.tls_key.as_ref());
        let tls = certificate.map(|(certificate, key)| ListenerTls {
            mode: api::TlsMode::default(),
            certificate_refs: vec![CertificateRef {
                name: None,
                files: Some(CertificateFiles {
                    certificate: certificate.to_string_lossy().into_owned(),
                    key: key.to_string_lossy().into_owned(),
                }),
            }],
            min_version: api::TlsVersion::default(),
            alpn: Vec::new(),
        });
        let preconnect = self.preconnect.filter(|size| *size > 0);
        Ok(Some(TcpLoadBalancerSpec {
            listeners: vec![Listener { port: listen.port, address: listen.host, tls, ..Listener::default() }],
            backends: vec![Backend { addresses: Some(self.backends.clone()), ..Backend::default() }],
            load_balancing: self.algorithm.map(|name| LoadBalancing { algorithm: name.into(), hash: None }),
            connect: preconnect.map(|per_endpoint| Connect {
                preconnect: Some(Preconnect { per_endpoint, idle_timeout: None }),
                ..Connect::default()
            }),
            ..TcpLoadBalancerSpec::default()
        }))
    }
}

impl From<AlgorithmName> for Algorithm {
    fn from(name: AlgorithmName) -> Self {
        match name {
            AlgorithmName::RoundRobin => Self::RoundRobin,
            AlgorithmName::LeastConnections => Self::LeastConnections,
            AlgorithmName::PowerOfTwo => Self::PowerOfTwo,
            AlgorithmName::Random => Self::Random,
            AlgorithmName::Maglev => Self::Maglev,
        }
    }
}

impl From<PlacementName> for Placement {
    fn from(name: PlacementName) -> Self {
        match name {
            PlacementName::Gateway => Self::Gateway,
            PlacementName::Host => Self::Host,
        }
    }
}

impl From<ServiceTypeName> for ServiceType {
    fn from(name: ServiceTypeName) -> Self {
        match name {
            ServiceTypeName::ClusterIp => Self::ClusterIp,
            ServiceTypeName::NodePort => Self::NodePort,
            ServiceTypeName::LoadBalancer => Self::LoadBalancer,
        }
    }
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

impl From<LogFormat> for access_log::Format {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
        }
    }
}

impl Run {
    /// How many workers there are to be: as asked, else as many as this process has cores.
    pub fn worker_count(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.workers.map_or_else(cores, usize::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Result<Option<TcpLoadBalancerSpec>, String> {
        let pairs: Vec<(String, String)> = pairs.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        let variable = |name: &str| pairs.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
        Simple::from_environment(variable)?.spec()
    }

    #[test]
    fn the_environment_makes_a_load_balancer() {
        let spec = environment(&[
            ("LISTEN", "127.0.0.1:4000"),
            ("BACKENDS", "127.0.0.1:5001, db.example.com:5432"),
            ("LB_MODE", "sticky"),
            ("POOL_SIZE", "4"),
        ]);
        let spec = spec.unwrap().unwrap();
        assert_eq!((spec.listeners[0].port, spec.listeners[0].address), (4000, Some([127, 0, 0, 1].into())));
        let addresses: Vec<_> = spec.backends[0].addresses.iter().flatten().map(ToString::to_string).collect();
        assert_eq!(addresses, ["127.0.0.1:5001", "db.example.com:5432"]);
        assert_eq!(spec.load_balancing.unwrap().algorithm, Algorithm::Maglev);
        assert_eq!(spec.connect.unwrap().preconnect.unwrap().per_endpoint, 4);
        assert_eq!(environment(&[]), Ok(None));
    }

    #[test]
    fn what_is_wrong_or_missing_is_named() {
        for (pairs, named) in [
            (&[("LISTEN", "4000"), ("BACKENDS", "db")][..], "BACKENDS: `db` is not an address"),
            (&[("LISTEN", "all:4000")], "LISTEN: `all:4000` is not an address to listen on"),
            (&[("LB_MODE", "fair")], "LB_MODE: `fair`"),
            (&[("POOL_SIZE", "-1")], "POOL_SIZE: `-1`"),
            (&[("LISTEN", ":4000")], "--backend"),
            (&[("BACKENDS", "127.0.0.1:1")], "--listen"),
        ] {
            let error = environment(pairs).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
