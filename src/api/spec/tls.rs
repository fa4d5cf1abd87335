//! TLS of client connections, and TLS to backends.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{ObjectName, ServerName, rules};

/// TLS of client connections.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ListenerTls {
    /// `Terminate`: the proxy terminates TLS with a certificate from a Secret or from files. `Passthrough`: the backend
    /// terminates TLS, and the proxy reads only the server name in the ClientHello. A route may override the mode.
    /// Default: Terminate.
    #[serde(default)]
    pub mode: TlsMode,
    /// The certificates for clients, selected by the server name that the client requests (SNI): the first one if none
    /// matches. Required if the listener or a route terminates TLS. Each Secret may be listed once. At most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(
        merge_strategy = ListMerge::Atomic,
        validation = rules::unique("name", "a Secret is listed twice: remove one")
    )]
    pub certificate_refs: Vec<CertificateRef>,
    /// The minimum TLS version: `TLS1.2` or `TLS1.3`. Default: TLS1.2.
    #[serde(default)]
    pub min_version: TlsVersion,
    /// The application protocols offered (ALPN), in order of preference. At most 8, each of 1 to 63 characters.
    /// Default: none, or `postgresql` with startTls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub alpn: Vec<String>,
    /// The protocol that starts TLS within a plaintext connection. `Postgres`: SSLRequest of PostgreSQL, which the
    /// proxy answers (and sends to the backend with passthrough). Clients that start with TLS directly are accepted,
    /// clients without TLS are refused. Absent: TLS starts with the first byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_tls: Option<StartTls>,
    /// Verification of client certificates (mutual TLS, mode Terminate only). Absent: no certificate is requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_validation: Option<ClientValidation>,
}

#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum StartTls {
    Postgres,
}

#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum TlsMode {
    #[default]
    Terminate,
    Passthrough,
}

/// TLS handling for one route.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RouteTls {
    /// `Terminate`: the proxy terminates TLS with one of the listener's certificates. `Passthrough`: the backend
    /// terminates TLS.
    pub mode: TlsMode,
}

#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum TlsVersion {
    #[default]
    #[serde(rename = "TLS1.2")]
    V1_2,
    #[serde(rename = "TLS1.3")]
    V1_3,
}

/// A certificate chain and its private key: exactly one of `name` and `files`.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.name) || has(self.files)")
        .message("the reference has no name: write the name of a Secret of type kubernetes.io/tls"),
    validation = Rule::new("!has(self.files)")
        .message("files are for standalone mode: write the `name` of a Secret of type kubernetes.io/tls")
        .field_path(".files")
)]
pub struct CertificateRef {
    /// The name of a Secret of type kubernetes.io/tls (keys tls.crt and tls.key) in the same namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<ObjectName>,
    /// Two PEM files (standalone only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<CertificateFiles>,
}

impl CertificateRef {
    /// The referenced Secret.
    pub fn reference(&self) -> Option<Reference<'_>> {
        self.name.as_ref().map(|name| Reference { kind: RefKind::Secret, name: &name.0 })
    }

    fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().flat_map(|files| [files.certificate.as_str(), &files.key])
    }
}

impl ListenerTls {
    /// The referenced objects.
    pub fn references(&self) -> impl Iterator<Item = Reference<'_>> {
        let certificates = self.certificate_refs.iter().filter_map(CertificateRef::reference);
        certificates.chain(self.authorities().filter_map(CaRef::reference))
    }

    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let certificates = self.certificate_refs.iter().flat_map(CertificateRef::files);
        certificates.chain(self.authorities().flat_map(CaRef::files))
    }

    fn authorities(&self) -> impl Iterator<Item = &CaRef> {
        self.client_validation.iter().flat_map(|validation| &validation.ca_refs)
    }
}

/// PEM files. A relative path is relative to the folder of the manifest.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CertificateFiles {
    /// The certificate, followed by its intermediates. A path of 1 to 4096 characters.
    #[schemars(length(min = 1, max = 4096))]
    pub certificate: String,
    /// The private key (PKCS#8, PKCS#1 or SEC1). A path of 1 to 4096 characters.
    #[schemars(length(min = 1, max = 4096))]
    pub key: String,
}

/// Verification of client certificates (mutual TLS).
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClientValidation {
    /// The authorities that may issue client certificates. 1 to 8.
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub ca_refs: Vec<CaRef>,
    /// `Required`: clients without a certificate are refused. `Optional`: clients may omit the certificate, but a
    /// presented one must be valid. Default: Required.
    #[serde(default)]
    pub mode: ClientValidationMode,
}

#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum ClientValidationMode {
    #[default]
    Required,
    Optional,
}

/// Certificates and revocation lists of authorities: exactly one of `name` and `files`.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.name) || has(self.files)")
        .message("the reference has no name: write the name of a ConfigMap or Secret with the key ca.crt"),
    validation = Rule::new("!has(self.files)")
        .message("files are for standalone mode: write the `name` of a ConfigMap or Secret with the key ca.crt")
        .field_path(".files")
)]
pub struct CaRef {
    /// The kind of the object, in the same namespace: `ConfigMap` or `Secret`. Its key ca.crt holds the CA certificates
    /// as PEM, and the optional key ca.crl their certificate revocation lists. Default: ConfigMap.
    #[serde(default)]
    pub kind: RefKind,
    /// The name of the ConfigMap or Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<ObjectName>,
    /// PEM files (standalone only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<CaFiles>,
}

impl CaRef {
    /// The referenced object.
    pub fn reference(&self) -> Option<Reference<'_>> {
        self.name.as_ref().map(|name| Reference { kind: self.kind, name: &name.0 })
    }

    fn files(&self) -> impl Iterator<Item = &str> {
        let files = self.files.iter();
        files.flat_map(|files| [Some(files.ca.as_str()), files.crl.as_deref()].into_iter().flatten())
    }
}

/// PEM files. A relative path is relative to the folder of the manifest.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CaFiles {
    /// The CA certificates. A path of 1 to 4096 characters.
    #[schemars(length(min = 1, max = 4096))]
    pub ca: String,
    /// The certificate revocation lists. A path of 1 to 4096 characters. Absent: no certificate is revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub crl: Option<String>,
}

/// The kind of a referenced object.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefKind {
    #[default]
    ConfigMap,
    Secret,
}

impl RefKind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }
}

/// An object of the same namespace that a load balancer refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference<'a> {
    pub kind: RefKind,
    pub name: &'a str,
}

/// TLS origination to the backend. Ignored for TLS passthrough.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.insecureSkipVerify) && self.insecureSkipVerify) || has(self.serverName)")
        .message("serverName is missing: write a name in the backend's certificate")
        .field_path(".serverName"),
    validation = Rule::new("!has(self.serverName) || !self.serverName.startsWith('*.')")
        .message("a wildcard is not the name of one server: write one name in the backend's certificate")
        .field_path(".serverName"),
    validation = Rule::new(
        "(has(self.insecureSkipVerify) && self.insecureSkipVerify) ? !has(self.caRefs) || size(self.caRefs) == 0 : \
         has(self.caRefs) && size(self.caRefs) > 0",
    )
        .message("set either `caRefs` with the issuer of the backend's certificate, for example \
                  `caRefs: [{name: db-ca}]`, or `insecureSkipVerify: true`, which verifies nothing and lets anyone \
                  on the path read and change the traffic")
        .field_path(".caRefs")
)]
pub struct BackendTls {
    /// The server name to request (SNI) and to verify in the backend's certificate. Required unless insecureSkipVerify
    /// is true.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::requestable_server_name())]
    pub server_name: Option<ServerName>,
    /// The authorities that may issue the backend's certificate. At most 8. Required unless insecureSkipVerify is true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub ca_refs: Vec<CaRef>,
    /// The client certificate for the backend. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_ref: Option<CertificateRef>,
    /// Accepts any certificate, so that anyone on the path can read and change the traffic. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure_skip_verify: bool,
    /// The protocol that starts TLS within a plaintext connection. `Postgres`: SSLRequest of PostgreSQL. Absent: TLS
    /// starts with the first byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_tls: Option<StartTls>,
}

impl BackendTls {
    /// The referenced objects.
    pub fn references(&self) -> impl Iterator<Item = Reference<'_>> {
        let certificate = self.certificate_ref.iter().filter_map(CertificateRef::reference);
        certificate.chain(self.ca_refs.iter().filter_map(CaRef::reference))
    }

    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let certificate = self.certificate_ref.iter().flat_map(CertificateRef::files);
        certificate.chain(self.ca_refs.iter().flat_map(CaRef::files))
    }
}
