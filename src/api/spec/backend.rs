//! Where connections go.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    check::PasswordRef,
    health::{ActiveCheck, BackendHealthCheck},
    tls::{BackendTls, Reference},
};
use crate::api::{AddressPort, Duration, Name, PortRef, rules};

/// A group of endpoints: exactly one of `service` and `addresses`.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.service) || has(self.addresses)")
        .message("it has neither service nor addresses: write where its connections go"),
    validation = Rule::new("!has(self.service) || !has(self.addresses)")
        .message("it has both service and addresses: write one of them, or two backends"),
    validation = Rule::new(
        "has(self.tls) || !has(self.healthCheck) || !has(self.healthCheck.active) || \
         !has(self.healthCheck.active.transport) || self.healthCheck.active.transport != 'TLS'",
    )
        .message("transport TLS requires the backend's `tls`: set `tls`, or remove `transport`")
        .field_path(".healthCheck.active.transport")
)]
pub struct Backend {
    /// A name for logs, metrics and status. Required when there are several backends. Default: the Service's name, or
    /// `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// A Service of the same namespace, followed through its EndpointSlices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<BackendService>,
    /// host:port pairs; a host is an IP address or a DNS name, all of whose addresses are used. At most 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub addresses: Option<Vec<AddressPort>>,
    /// How often DNS names in `addresses` are looked up, from 1s to 24h. Default: 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::within("1s", "24h"))]
    pub resolve_interval: Option<Duration>,
    /// The share of new connections, relative to the other backends. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: u16,
    /// Backends of the same number are a group, and one group serves at a time: that of the lowest number that can, see
    /// loadBalancing.failover. Default: 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0, max = 15), extend("default" = 0))]
    pub priority: u8,
    /// The PROXY protocol header sent to the backend: `V1` or `V2`. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocolVersion>,
    /// How unhealthy endpoints of this backend are found, where it is not as for the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<BackendHealthCheck>,
    /// TLS towards the backend, after the PROXY header. Absent: what clients send is passed on as it is, or as it is
    /// after their TLS has ended here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<BackendTls>,
}

impl Backend {
    /// The declared name, else the Service's, else `default`.
    pub fn name(&self) -> &str {
        let service = || self.service.as_ref().map(|service| service.name.0.as_str());
        self.name.as_ref().map(|name| name.0.as_str()).or_else(service).unwrap_or("default")
    }

    /// The objects that it refers to.
    pub fn references(&self) -> impl Iterator<Item = Reference<'_>> {
        let of_check = self.check().and_then(ActiveCheck::password_ref).and_then(PasswordRef::reference);
        self.tls.iter().flat_map(BackendTls::references).chain(of_check)
    }

    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let of_check = self.check().and_then(ActiveCheck::password_ref).and_then(|password| password.file.as_deref());
        self.tls.iter().flat_map(BackendTls::files).chain(of_check)
    }

    fn check(&self) -> Option<&ActiveCheck> {
        self.health_check.as_ref()?.active.as_ref()
    }
}

fn one() -> u16 {
    1
}

fn is_zero(priority: &u8) -> bool {
    *priority == 0
}

impl Default for Backend {
    fn default() -> Self {
        Self {
            name: None,
            service: None,
            addresses: None,
            resolve_interval: None,
            weight: one(),
            priority: 0,
            proxy_protocol: None,
            health_check: None,
            tls: None,
        }
    }
}

/// A Service's port.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BackendService {
    /// The Service, in the same namespace.
    pub name: Name,
    /// The Service's port, by number or name.
    pub port: PortRef,
}

#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum ProxyProtocolVersion {
    V1,
    V2,
}
