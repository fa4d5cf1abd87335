//! The Service in front of a load balancer.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{rules, scalar::QualifiedName};

/// The Service that the controller manages for a load balancer.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.externalTrafficPolicy) || self.type != 'ClusterIP'")
        .message("externalTrafficPolicy has no effect with type ClusterIP: remove it, or write `type: NodePort` or \
                  `LoadBalancer`")
        .field_path(".externalTrafficPolicy"),
    validation = Rule::new("!has(self.loadBalancerClass) || self.type == 'LoadBalancer'")
        .message("loadBalancerClass requires type LoadBalancer: remove it, or write `type: LoadBalancer`")
        .field_path(".loadBalancerClass"),
    // Kubernetes has the same rule for Services and would refuse the change later.
    validation = Rule::new(
        "self.type != 'LoadBalancer' || oldSelf.type != 'LoadBalancer' || \
         (has(self.loadBalancerClass) ? self.loadBalancerClass : '') == \
         (has(oldSelf.loadBalancerClass) ? oldSelf.loadBalancerClass : '')",
    )
        .message("loadBalancerClass cannot be changed, added or removed while the type is LoadBalancer: restore the \
                  previous value, or create a new object")
        .field_path(".loadBalancerClass")
)]
pub struct ServiceTemplate {
    /// `ClusterIP`: reachable within the cluster. `NodePort`: also on a port of every node. `LoadBalancer`: also at an
    /// address that the cloud assigns. Default: ClusterIP.
    #[serde(rename = "type", default)]
    pub type_: ServiceType,
    /// Additional annotations of the Service, for example for the load balancer of the cloud. At most 32, each of at
    /// most 4096 characters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 4096}))]
    #[x_kube(
        validation = rules::qualified_keys("annotations"),
        validation = rules::foreign_keys()
    )]
    pub annotations: BTreeMap<String, String>,
    /// Additional labels of the Service. At most 32.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 63}))]
    #[x_kube(
        validation = rules::qualified_keys("labels"),
        validation = rules::foreign_keys(),
        validation = rules::label_values()
    )]
    pub labels: BTreeMap<String, String>,
    /// `Local`: only nodes with a proxy accept connections, and the proxy sees the addresses of clients. `Cluster`: all
    /// nodes accept connections, and the proxy sees the addresses of nodes. Not with type ClusterIP. Default: Local for
    /// LoadBalancer, Cluster for NodePort.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<ExternalTrafficPolicy>,
    /// The load balancer implementation that assigns the address (type LoadBalancer only). It cannot be changed, added
    /// or removed while the type is LoadBalancer. Default: the default of the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<QualifiedName>")]
    pub load_balancer_class: Option<String>,
    /// The IP families of the Service: `SingleStack`, `PreferDualStack` or `RequireDualStack`. Default: SingleStack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_family_policy: Option<IpFamilyPolicy>,
}

#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServiceType {
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    NodePort,
    LoadBalancer,
}

impl ServiceType {
    /// The value in the notation of Kubernetes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum ExternalTrafficPolicy {
    Cluster,
    Local,
}

#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum IpFamilyPolicy {
    SingleStack,
    PreferDualStack,
    RequireDualStack,
}
