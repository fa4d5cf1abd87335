//! The commands that read their manifests from a cluster.

use std::{net::IpAddr, ops::RangeInclusive, path::PathBuf};

use clap::{Args, ValueEnum};

use super::{
    run::RunArgs,
    values::{
        AdminAddress, ClusterAuthorization, ListenAddress, LocalAuthorization, Quota, WorkloadName, admin_address,
        label, listen_ip, object_key, port_range, workload,
    },
};
use crate::{
    api::{self, Placement, ServiceType},
    model::ObjectKey,
};

#[derive(Debug, Args)]
pub struct Controller {
    /// Serve objects with this className.
    #[arg(long, value_name = "NAME", default_value = api::DEFAULT_CLASS)]
    pub class: String,
    /// Serve objects with this placement.
    #[arg(long, value_name = "PLACEMENT", value_enum, default_value_t = PlacementName::Gateway)]
    pub placement: PlacementName,
    /// The namespace of this pod.
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE")]
    pub namespace: String,
    /// The name of this pod.
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub pod: String,
    /// The IP addresses of this pod. They are refused as addresses of backends.
    #[arg(long, value_name = "ADDRESS", env = "POD_IPS", value_delimiter = ',')]
    pub pod_addresses: Vec<IpAddr>,
    /// The namespaces whose objects are served. Default: all.
    #[arg(long = "watch-namespace", value_name = "NAME", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,
    /// The headless Service of the replica pods, with a port named `admin`.
    #[arg(long, value_name = "NAME", default_value = "tcplb-replicas")]
    pub replicas_service: String,
    /// The Lease for leader election.
    #[arg(long, value_name = "NAME", default_value = "tcplb")]
    pub lease: String,
    /// The ConfigMap with the allocated ports.
    #[arg(long, value_name = "NAME", default_value = "tcplb-ports")]
    pub allocations: String,
    /// A ConfigMap that owns the managed Services, together with the replicas Service and the workload: the Services
    /// are deleted when all owners are deleted. If only the ConfigMap is deleted, it is created again.
    #[arg(long, value_name = "NAME")]
    pub anchor: Option<String>,
    /// The Deployment or DaemonSet of the replicas, which also owns the managed Services.
    #[arg(long, value_name = "KIND/NAME", value_parser = workload)]
    pub workload: Option<WorkloadName>,
    /// The labels of the replica pods, for the selector of the managed Services.
    #[arg(long, value_name = "KEY=VALUE", default_value = "app.kubernetes.io/name=tcplb", value_delimiter = ',', value_parser = label)]
    pub service_selector: Vec<(String, String)>,
    /// The range of proxy ports, which are allocated to listeners. At most 5000 ports. It must not overlap
    /// net.ipv4.ip_local_port_range or the node ports of the cluster.
    #[arg(long, value_name = "FIRST-LAST", default_value = "20000-24999", value_parser = port_range)]
    pub ports: RangeInclusive<u16>,
    /// The DNS domain of the cluster.
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    pub cluster_domain: String,
    #[command(flatten)]
    pub tenants: Tenants,
    /// The address of the metrics, health, report and admin pages.
    #[arg(long, value_name = "ADDRESS", default_value = ":9900")]
    pub admin: ListenAddress,
    /// The clients that may read tenant data on the admin pages: /, /snapshot, /report, /report/traffic and /connections.
    /// `kubernetes`: those with a bearer token of audience tcplb and the permission to `get` replicas/page, /snapshot, /report
    /// (both reports) or /connections of tcplb.io in the namespace of this pod. Loopback addresses are always accepted.
    #[arg(long, value_name = "MODE", value_enum, default_value_t = ClusterAuthorization::Kubernetes)]
    pub admin_authorization: ClusterAuthorization,
    /// A file with the token that this replica sends to the admin pages of other replicas, when it is the leader. It is
    /// read again for each request.
    #[arg(long, value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,
    #[command(flatten)]
    pub run: RunArgs,
}

#[derive(Debug, Args)]
pub struct Sidecar {
    /// The load balancer to serve. Its placement must be Sidecar.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = object_key)]
    pub load_balancer: ObjectKey,
    /// The listening address of its ports.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", value_parser = listen_ip)]
    pub address: IpAddr,
    /// The address of the metrics, health and admin pages; `off` disables them.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9900", value_parser = admin_address)]
    pub admin: AdminAddress,
    /// The clients that may read tenant data on the admin pages: /, /snapshot and /connections.
    #[arg(long, value_name = "MODE", value_enum, default_value_t = LocalAuthorization::Loopback)]
    pub admin_authorization: LocalAuthorization,
    #[command(flatten)]
    pub run: RunArgs,
}

/// Tenancy limits.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Tenancy limits")]
pub struct Tenants {
    /// The permitted values of spec.service.type.
    #[arg(
        long = "allow-service-type",
        value_name = "TYPE",
        value_enum,
        value_delimiter = ',',
        default_value = "ClusterIP"
    )]
    pub service_types: Vec<ServiceTypeName>,
    /// The permitted annotation keys in spec.service; a trailing `*` matches any suffix. Default: none.
    #[arg(long = "allow-annotation", value_name = "KEY", value_delimiter = ',')]
    pub annotations: Vec<String>,
    /// The permitted label keys in spec.service; a trailing `*` matches any suffix. Default: none.
    #[arg(long = "allow-label", value_name = "KEY", value_delimiter = ',')]
    pub labels: Vec<String>,
    /// The permitted values of spec.service.loadBalancerClass; a trailing `*` matches any suffix. Default: none.
    #[arg(long = "allow-load-balancer-class", value_name = "CLASS", value_delimiter = ',')]
    pub load_balancer_classes: Vec<String>,
    /// Permit nodePort in listeners.
    #[arg(long = "allow-node-ports")]
    pub node_ports: bool,
    /// Networks that backends may use in addition to the pods of their own namespace. Default: none.
    #[arg(long = "allow-backend-network", value_name = "NETWORK", value_delimiter = ',')]
    pub backend_networks: Vec<api::Network>,
    /// Networks that are denied to all backends, including pods. Default: none.
    #[arg(long = "deny-backend-network", value_name = "NETWORK", value_delimiter = ',')]
    pub denied_networks: Vec<api::Network>,
    /// The maximum number of load balancers per namespace. Default: unlimited.
    #[arg(long, value_name = "NUMBER")]
    pub max_load_balancers_per_namespace: Option<u32>,
    /// The maximum number of listeners of all load balancers per namespace. Default: unlimited.
    #[arg(long, value_name = "NUMBER")]
    pub max_listeners_per_namespace: Option<u32>,
    /// The maximum number of referenced Secrets and ConfigMaps with certificates or passwords per namespace, or
    /// `unlimited`. Each requires a connection to the API server.
    #[arg(long, value_name = "NUMBER", default_value_t = Quota(Some(100)))]
    pub max_secrets_per_namespace: Quota,
    /// The port ranges permitted for placement Host. Default: none.
    #[arg(long, value_name = "FIRST-LAST", value_delimiter = ',', value_parser = port_range)]
    pub host_ports: Vec<RangeInclusive<u16>>,
    /// The namespaces that may use placement Host. Default: all.
    #[arg(long = "host-namespace", value_name = "NAME", value_delimiter = ',')]
    pub host_namespaces: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PlacementName {
    /// In the pods of the controller, behind a Service for each load balancer.
    Gateway,
    /// On the ports of the nodes.
    Host,
}

impl From<PlacementName> for Placement {
    fn from(name: PlacementName) -> Self {
        match name {
            PlacementName::Gateway => Self::Gateway,
            PlacementName::Host => Self::Host,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum ServiceTypeName {
    #[value(name = "ClusterIP")]
    ClusterIp,
    NodePort,
    LoadBalancer,
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
