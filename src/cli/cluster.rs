//! The commands that take their manifests from a cluster.

use std::{net::IpAddr, ops::RangeInclusive};

use clap::{Args, ValueEnum};

use super::{
    run::Run,
    values::{AdminAddress, ListenAddress, Quota, Workload, admin_address, label, object_key, port_range, workload},
};
use crate::{
    api::{self, Placement, ServiceType},
    model::ObjectKey,
};

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
    /// A ConfigMap that owns the Services that are kept, together with the Service of the replicas and the workload: they
    /// go when all of these have gone. One that is deleted alone is created again.
    #[arg(long, value_name = "NAME")]
    pub anchor: Option<String>,
    /// What runs the replicas.
    #[arg(long, value_name = "KIND/NAME", value_parser = workload)]
    pub workload: Option<Workload>,
    /// The labels of the replicas' pods, which the Services that are kept select.
    #[arg(long, value_name = "KEY=VALUE", default_value = "app.kubernetes.io/name=tcplb", value_delimiter = ',', value_parser = label)]
    pub service_selector: Vec<(String, String)>,
    /// The ports that are allocated, at most 5000: outside of net.ipv4.ip_local_port_range and of the cluster's node ports.
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
    /// How many Secrets and ConfigMaps with certificates or passwords the load balancers of a namespace may have read; or
    /// `unlimited`. Each costs a connection to the API server.
    #[arg(long, value_name = "NUMBER", default_value_t = Quota(Some(100)))]
    pub max_secrets_per_namespace: Quota,
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
