//! Whose certificates are believed.

use std::{fmt, sync::Arc};

use jiff::Timestamp;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, CertificateRevocationListDer, ServerName},
    server::danger::ClientCertVerifier,
};
use serde::{Serialize, Serializer};

use super::{Certificate, Fingerprint, StartTls};

/// Authorities that issue certificates, from one source, and what they have revoked.
#[derive(Clone)]
pub struct Authority {
    /// Where it comes from, for people: `ConfigMap shop/clients-ca`, or its file.
    pub source: Arc<str>,
    /// Of its texts.
    pub fingerprint: Fingerprint,
    /// Not empty.
    pub roots: RootCertStore,
    /// The certificates of the roots, in the same order.
    pub certificates: Vec<CertificateDer<'static>>,
    pub revoked: Vec<CertificateRevocationListDer<'static>>,
    /// Whose lists these are: their names in DER, in the same order.
    pub issuers: Vec<Box<[u8]>>,
    /// What is to be said of it from a moment on: something that is part of it is too old then.
    pub expiries: Vec<(Timestamp, Arc<str>)>,
    /// Warnings that apply until a time: a list is not issued before it.
    pub upcoming: Vec<(Timestamp, Arc<str>)>,
}

impl PartialEq for Authority {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint && self.source == other.source
    }
}

impl Eq for Authority {}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("source", &self.source)
            .field("certificates", &self.roots.len())
            .field("lists_of_revoked", &self.revoked.len())
            .finish_non_exhaustive()
    }
}

impl Serialize for Authority {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

/// What certificates clients have to show.
#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientValidation {
    pub mode: ClientValidationMode,
    /// Not empty.
    pub authorities: Vec<Arc<Authority>>,
    /// What the two come to.
    #[serde(skip)]
    pub verifier: Arc<dyn ClientCertVerifier>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ClientValidationMode {
    /// They have to show one.
    Required,
    /// They may have none, but one that they show has to be right.
    Optional,
}

impl PartialEq for ClientValidation {
    fn eq(&self, other: &Self) -> bool {
        self.mode == other.mode && self.authorities == other.authorities
    }
}

impl Eq for ClientValidation {}

impl fmt::Debug for ClientValidation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientValidation")
            .field("mode", &self.mode)
            .field("authorities", &self.authorities)
            .finish_non_exhaustive()
    }
}

/// TLS towards a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTls {
    pub terms: BackendTlsTerms,
    /// What they come to, with the sessions that can be resumed.
    #[serde(skip)]
    pub client: TlsClient,
}

/// What is asked of a backend, and said to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendTlsTerms {
    /// The name that its certificate has to be for, and that is asked for; `None`: no name is asked for.
    #[serde(serialize_with = "as_text")]
    pub server_name: Option<ServerName<'static>>,
    /// Who may issue its certificate; `None`: it is not verified.
    pub authorities: Option<Vec<Arc<Authority>>>,
    /// What is shown to it; `None`: nothing.
    pub certificate: Option<Arc<Certificate>>,
    /// How it is asked for TLS before that begins; `None`: it is not.
    pub start_tls: Option<StartTls>,
}

/// Follows from terms, and says nothing more.
#[derive(Clone)]
pub struct TlsClient(pub Arc<ClientConfig>);

impl PartialEq for TlsClient {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for TlsClient {}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsClient")
    }
}

fn as_text<S: Serializer>(name: &Option<ServerName<'static>>, serializer: S) -> Result<S::Ok, S::Error> {
    match name {
        Some(name) => serializer.collect_str(&name.to_str()),
        None => serializer.serialize_none(),
    }
}
