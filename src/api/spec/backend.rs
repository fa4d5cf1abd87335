//! Backends: the endpoints that connections are forwarded to.

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
        .message("the backend has neither service nor addresses: set one of them"),
    validation = Rule::new("!has(self.service) || !has(self.addresses)")
        .message("the backend has both service and addresses: keep one of them, or split it into two backends"),
    validation = Rule::new(
        "has(self.tls) || !has(self.healthCheck) || !has(self.healthCheck.active) || \
         !has(self.healthCheck.active.transport) || self.healthCheck.active.transport != 'TLS'",
    )
        .message("transport TLS requires the backend's `tls`: set `tls`, or remove `transport`")
        .field_path(".healthCheck.active.transport")
)]
pub struct Backend {
    /// The name in logs, metrics and status. Required with several backends. Default: the name of the Service, or
    /// `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// A Service in the same namespace. Its EndpointSlices are watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<BackendService>,
    /// host:port pairs. A host is an IP address or a DNS name, of which up to 256 addresses are used. 1 to 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub addresses: Option<Vec<AddressPort>>,
    /// The interval between lookups of the DNS names in `addresses`. 1s to 24h. Default: 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::within("1s", "24h"))]
    pub resolve_interval: Option<Duration>,
    /// The share of new connections, relative to the other backends, regardless of the number of endpoints. 1 to 1000.
    /// Default: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: u16,
    /// The priority level. One level is active at a time: the lowest number that can serve, see loadBalancing.failover.
    /// Endpoints of the other levels are on standby. 0 to 15. Default: 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0, max = 15), extend("default" = 0))]
    pub priority: u8,
    /// The version of the PROXY protocol header that is sent to the backend: `V1` or `V2`. Absent: no header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocolVersion>,
    /// The probes of this backend. Absent: the probes of the load balancer (spec.healthCheck.active).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<BackendHealthCheck>,
    /// TLS to the backend, after the PROXY header. Absent: the bytes of the client are forwarded unchanged, or
    /// decrypted if the listener terminates TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<BackendTls>,
}

impl Backend {
    /// The declared name, otherwise the name of the Service, otherwise `default`.
    pub fn name(&self) -> &str {
        let service = || self.service.as_ref().map(|service| service.name.0.as_str());
        self.name.as_ref().map(|name| name.0.as_str()).or_else(service).unwrap_or("default")
    }

    /// The referenced objects.
    pub fn references(&self) -> impl Iterator<Item = Reference<'_>> {
        let of_check = self.check().and_then(ActiveCheck::password_ref).and_then(PasswordRef::reference);
        self.tls.iter().flat_map(BackendTls::references).chain(of_check)
    }

    /// The files that the backend names.
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
    /// The name of the Service, in the same namespace.
    pub name: Name,
    /// The port of the Service, by number or name.
    pub port: PortRef,
}

#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum ProxyProtocolVersion {
    V1,
    V2,
}
