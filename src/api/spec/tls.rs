//! TLS: on the clients' side, and towards backends.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{ObjectName, ServerName, rules};

/// TLS on the clients' side.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ListenerTls {
    /// `Terminate`: TLS ends here, with a certificate from a Secret or from files. `Passthrough`: it ends at the backend,
    /// which has the certificate, and only the server name that the client asks for is read. A route may say otherwise.
    /// Default: Terminate.
    #[serde(default)]
    pub mode: TlsMode,
    /// The certificates to present, chosen by the client's server name; the first one when none matches. Required where
    /// TLS ends here. At most 32, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(
        merge_strategy = ListMerge::Atomic,
        validation = rules::unique("name", "a Secret is listed twice: remove one")
    )]
    pub certificate_refs: Vec<CertificateRef>,
    /// The oldest TLS version accepted: `TLS1.2` or `TLS1.3`. Default: TLS1.2.
    #[serde(default)]
    pub min_version: TlsVersion,
    /// The application protocols offered (ALPN), preferred first, each of at most 63 characters. Default: none, or
    /// `postgresql` with startTls. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub alpn: Vec<String>,
    /// What clients say in the clear before TLS begins. `Postgres`: PostgreSQL's SSLRequest, which is answered here (and
    /// said to the backend where TLS is passed through); clients that begin with TLS at once are taken too, those without
    /// TLS are refused. Absent: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_tls: Option<StartTls>,
    /// Whether clients have to show certificates (mutual TLS), where TLS ends here. Absent: they are not asked for any.
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

/// TLS on the clients' side, for one route.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RouteTls {
    /// `Terminate`: TLS ends here, with one of the listener's certificates. `Passthrough`: it ends at the backend.
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

/// A certificate chain and its key: exactly one of `name` and `files`.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.name) || has(self.files)")
        .message("the reference has no name: write the name of a Secret of type kubernetes.io/tls"),
    validation = Rule::new("!has(self.files)")
        .message("files are for standalone: write the `name` of a Secret of type kubernetes.io/tls")
        .field_path(".files")
)]
pub struct CertificateRef {
    /// A Secret of type kubernetes.io/tls (keys tls.crt and tls.key) in the same namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<ObjectName>,
    /// Two PEM files (standalone only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<CertificateFiles>,
}

impl CertificateRef {
    /// The Secret that it names.
    pub fn reference(&self) -> Option<Reference<'_>> {
        self.name.as_ref().map(|name| Reference { kind: RefKind::Secret, name: &name.0 })
    }

    fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().flat_map(|files| [files.certificate.as_str(), &files.key])
    }
}

impl ListenerTls {
    /// The objects that it refers to.
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

/// PEM files. A relative path is relative to the manifest's folder.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CertificateFiles {
    /// The certificate, followed by its intermediates.
    #[schemars(length(min = 1, max = 4096))]
    pub certificate: String,
    /// The private key (PKCS#8, PKCS#1 or SEC1).
    #[schemars(length(min = 1, max = 4096))]
    pub key: String,
}

/// Whose certificates clients have to show.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClientValidation {
    /// Who may issue clients' certificates. At most 8.
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub ca_refs: Vec<CaRef>,
    /// `Required`: clients without a certificate are refused. `Optional`: they may have none, but one that they show has
    /// to be right. Default: Required.
    #[serde(default)]
    pub mode: ClientValidationMode,
}

#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum ClientValidationMode {
    #[default]
    Required,
    Optional,
}

/// Certificates of authorities, and what they have revoked: exactly one of `name` and `files`.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.name) || has(self.files)")
        .message("the reference has no name: write the name of a ConfigMap or Secret with the key ca.crt"),
    validation = Rule::new("!has(self.files)")
        .message("files are for standalone: write the `name` of a ConfigMap or Secret with the key ca.crt")
        .field_path(".files")
)]
pub struct CaRef {
    /// `ConfigMap` or `Secret`, in the same namespace. Its key ca.crt has the authorities' certificates as PEM; ca.crl,
    /// if there is one, the lists of the certificates that they have revoked. Default: ConfigMap.
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
    /// The object that it names.
    pub fn reference(&self) -> Option<Reference<'_>> {
        self.name.as_ref().map(|name| Reference { kind: self.kind, name: &name.0 })
    }

    fn files(&self) -> impl Iterator<Item = &str> {
        let files = self.files.iter();
        files.flat_map(|files| [Some(files.ca.as_str()), files.crl.as_deref()].into_iter().flatten())
    }
}

/// PEM files. A relative path is relative to the manifest's folder.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CaFiles {
    /// The authorities' certificates.
    #[schemars(length(min = 1, max = 4096))]
    pub ca: String,
    /// The lists of the certificates that they have revoked. Absent: none is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub crl: Option<String>,
}

/// Of what kind an object is that is referred to.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
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

/// TLS towards a backend. Connections whose TLS is passed through have their client's, and this does nothing for them.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.insecureSkipVerify) && self.insecureSkipVerify) || has(self.serverName)")
        .message("serverName is missing: write the name that the backend's certificate is for")
        .field_path(".serverName"),
    validation = Rule::new("!has(self.serverName) || !self.serverName.startsWith('*.')")
        .message("a wildcard is not the name of one server: write one name that the backend's certificate is for")
        .field_path(".serverName"),
    validation = Rule::new(
        "(has(self.insecureSkipVerify) && self.insecureSkipVerify) ? !has(self.caRefs) || size(self.caRefs) == 0 : \
         has(self.caRefs) && size(self.caRefs) > 0",
    )
        .message("write either who issues the backend's certificate, for example `caRefs: [{name: db-ca}]`, or \
                  `insecureSkipVerify: true`, which verifies nothing, so that anyone on the path can \
                  read and change the traffic")
        .field_path(".caRefs")
)]
pub struct BackendTls {
    /// The name that the backend's certificate is for, which is also asked for (SNI). Required, unless
    /// insecureSkipVerify.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<ServerName>,
    /// Who may issue the backend's certificate. Required, unless insecureSkipVerify. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub ca_refs: Vec<CaRef>,
    /// The certificate that is shown to the backend. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_ref: Option<CertificateRef>,
    /// Takes any certificate, so that anybody in between can read and change everything. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure_skip_verify: bool,
    /// What is said to the backend in the clear before TLS begins. `Postgres`: PostgreSQL's SSLRequest. Absent: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_tls: Option<StartTls>,
}

impl BackendTls {
    /// The objects that it refers to.
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
